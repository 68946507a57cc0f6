"""What the test vectors of each kind of pool tell about a swap, by their own names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the vectors of one kind are written."""

    direction: str
    single: Callable[[Any, Any, bool], Facts]  # of the pool before, the swap, zero_for_one
    step: Callable[[Any], Facts]
    state: Callable[[Any], Facts]


def _cpmm_single(pool: Any, done: Any, zero_for_one: bool) -> Facts:
    reserve_in, reserve_out = done.pool.reserves(zero_for_one)
    return _cpmm_step(done) | {
        "lp_fee": done.lp_fee,
        "reserve_in_after": reserve_in,
        "reserve_out_after": reserve_out,
    }


def _cpmm_step(done: Any) -> Facts:
    return {
        "amount_in": done.amount_in,
        "amount_out": done.amount_out,
        "trade_fee": done.fee,
        "creator_fee": done.creator_fee,
        "protocol_fee": done.protocol_fee,
        "fund_fee": done.fund_fee,
    }


def _cpmm_state(pool: Any) -> Facts:
    return {
        "reserve_0": pool.reserve_0,
        "reserve_1": pool.reserve_1,
        "vault_0": pool.vault_0,
        "vault_1": pool.vault_1,
    } | {
        f"accrued_{whose}_{side}": getattr(pool, f"{whose}_fees_token_{side}")
        for whose in ("protocol", "fund", "creator")
        for side in (0, 1)
    }


def _amm_v4_single(pool: Any, done: Any, zero_for_one: bool) -> Facts:
    reserve_in, reserve_out = done.pool.reserves(zero_for_one)
    return _amounts(done) | {"reserve_in_after": reserve_in, "reserve_out_after": reserve_out}


def _amm_v4_state(pool: Any) -> Facts:
    coin, pc = pool.reserves(True)
    return {"reserve_0": coin, "reserve_1": pc}


def _amounts(done: Any) -> Facts:
    return {"amount_in": done.amount_in, "amount_out": done.amount_out, "fee": done.fee}


def _clmm_single(pool: Any, done: Any, zero_for_one: bool) -> Facts:
    after = done.pool
    return _clmm_step(done) | {
        "fee_token": "0" if done.fee_on_input is zero_for_one else "1",
        "sqrt_price_x64_after": after.sqrt_price_x64,
        "tick_after": after.tick_current,
        "liquidity_after": after.liquidity,
        "dynamic_fee_after": _clmm_dynamic_fee(after),
    }


def _clmm_step(done: Any) -> Facts:
    return _amounts(done) | {
        "fee_on_input": done.fee_on_input,
        "protocol_fee": done.protocol_fee,
        "fund_fee": done.fund_fee,
        "remaining": done.remaining,
        "ticks_crossed": done.ticks_crossed,
    }


def _clmm_state(pool: Any) -> Facts:
    return {
        "sqrt_price_x64": pool.sqrt_price_x64,
        "tick": pool.tick_current,
        "liquidity": pool.liquidity,
        "protocol_fees_0": pool.protocol_fees_token_0,
        "protocol_fees_1": pool.protocol_fees_token_1,
        "fund_fees_0": pool.fund_fees_token_0,
        "fund_fees_1": pool.fund_fees_token_1,
        "dynamic_fee": _clmm_dynamic_fee(pool),
    }


def _clmm_dynamic_fee(pool: Any) -> Facts | None:
    info = pool.dynamic_fee_info
    return info and {
        "tick_spacing_index_reference": info.tick_spacing_index_reference,
        "volatility_reference": info.volatility_reference,
        "volatility_accumulator": info.volatility_accumulator,
        "last_update_timestamp": info.last_update_timestamp,
    }


def _dlmm_single(pool: Any, done: Any, _: bool) -> Facts:
    return _dlmm_step(done) | {
        "fee_on_input": done.fee_on_input,
        "start_bin_id": pool.active_id,
        "first_filled_bin_id": done.fills[0].bin_id,
        "end_bin_id": done.pool.active_id,
        "bins_touched": len(done.fills),
        "v_after": _dlmm_volatility(done.pool),
        "steps": [(fill.bin_id, fill.amount_in, fill.amount_out, fill.fee) for fill in done.fills],
    }


def _dlmm_step(done: Any) -> Facts:
    told = _amounts(done) | {
        "protocol_fee": done.protocol_fee,
        "fee_rate_first": done.fills[0].rate,
        "fee_rate_last": done.fills[-1].rate,
    }
    return told if done.amount_out else told | {"onchain_error": "InsufficientOutAmount"}


def _dlmm_state(pool: Any) -> Facts:
    return {
        "active_id": pool.active_id,
        "v": _dlmm_volatility(pool),
        "protocol_fee_x": pool.protocol_fee_x,
        "protocol_fee_y": pool.protocol_fee_y,
        "bins": pool.bins,
    }


def _dlmm_volatility(pool: Any) -> Facts:
    volatility = pool.v_parameters
    return {
        "volatility_accumulator": volatility.volatility_accumulator,
        "volatility_reference": volatility.volatility_reference,
        "index_reference": volatility.index_reference,
        "last_update_timestamp": volatility.last_update_timestamp,
    }


def _damm_v2_single(pool: Any, done: Any, zero_for_one: bool) -> Facts:
    after = done.pool
    return _damm_v2_step(done) | {
        "fee_token": "A" if done.fee_on_input is zero_for_one else "B",
        "sqrt_price_after": after.sqrt_price,
        "token_a_after": after.token_a_amount,
        "token_b_after": after.token_b_amount,
        "dynamic_fee_after": _damm_v2_dynamic_fee(after),
    }


def _damm_v2_step(done: Any) -> Facts:
    return _amounts(done) | {
        "amount_left": done.amount_left,
        "fee_rate": done.fee_rate,
        "fee_on_input": done.fee_on_input,
        "claiming_fee": done.claiming_fee,
        "compounding_fee": done.compounding_fee,
        "protocol_fee": done.protocol_fee,
    }


def _damm_v2_state(pool: Any) -> Facts:
    return {
        "sqrt_price": pool.sqrt_price,
        "token_a": pool.token_a_amount,
        "token_b": pool.token_b_amount,
        "protocol_a_fee": pool.protocol_a_fee,
        "protocol_b_fee": pool.protocol_b_fee,
        "dynamic_fee": _damm_v2_dynamic_fee(pool),
    }


def _damm_v2_dynamic_fee(pool: Any) -> Facts | None:
    fee = pool.dynamic_fee
    return fee and {
        "sqrt_price_reference": fee.sqrt_price_reference,
        "volatility_reference": fee.volatility_reference,
        "volatility_accumulator": fee.volatility_accumulator,
        "last_update_timestamp": fee.last_update_timestamp,
    }


LAYOUTS: Final[Mapping[str, Layout]] = {
    "raydium_cpmm": Layout("zero_for_one", _cpmm_single, _cpmm_step, _cpmm_state),
    "raydium_amm_v4": Layout("zero_for_one", _amm_v4_single, _amounts, _amm_v4_state),
    "raydium_clmm": Layout("zero_for_one", _clmm_single, _clmm_step, _clmm_state),
    "meteora_dlmm": Layout("swap_for_y", _dlmm_single, _dlmm_step, _dlmm_state),
    "meteora_damm_v2": Layout("a_to_b", _damm_v2_single, _damm_v2_step, _damm_v2_state),
}
