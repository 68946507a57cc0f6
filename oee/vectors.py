"""Test vectors of the venues' programs: their layout, and how our results differ from them.

A file is {"kind", "vectors": [{"id", "category", "input", "expected"}], "sequences": [{"id",
"initial", "steps": [{"input", "expected"}]}]}. Integers are decimal strings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from engine.amm import meteora_damm_v2, meteora_dlmm, raydium_clmm
from engine.amm.kinds import KINDS, Kind
from engine.amm.snapshot import Fields, InvalidSnapshot
from engine.amm.swap import Swap, SwapFailed, decimals

Facts = dict[str, Any]
SEQUENCES: Final = "sequences"
# Longer lists of bins are left out of the vectors, as null.
UNLISTED: Final = "steps"


class Request(NamedTuple):
    """What a vector asks of a pool, in all kinds alike."""

    mode: str
    amount: int
    zero_for_one: bool
    now: int
    sqrt_price_limit_x64: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """How the vectors of one kind are written."""

    direction: str
    single: Callable[[Any, Any, bool], Facts]  # of the pool before, the swap, zero_for_one
    step: Callable[[Any], Facts]
    state: Callable[[Any], Facts]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One vector or sequence: the category it counts for, and every difference."""

    kind: str
    category: str
    differences: tuple[str, ...]
    malformed: bool = False


def check(file: Mapping[str, Any]) -> Iterator[Verdict]:
    """Compute every vector and sequence of a file that `layout_error` finds nothing wrong with."""
    kind = file["kind"]
    for vector in file["vectors"]:
        yield _judge(kind, vector["category"], vector["id"], lambda v=vector: _single(kind, v))
    for sequence in file.get(SEQUENCES, ()):
        yield _judge(kind, SEQUENCES, sequence["id"], lambda s=sequence: _sequence(kind, s))


def layout_error(file: Any) -> str | None:
    """What makes this no vector file, or None."""
    if not isinstance(file, dict):
        return "it is not a JSON object with kind, vectors and sequences"
    if not isinstance(file.get("kind"), str):
        return f"kind: {file.get('kind')!r} is not a kind of pool ({', '.join(KINDS)})"
    for name, shape in (
        ("vectors", {"id": str, "category": str, "input": dict, "expected": dict}),
        (SEQUENCES, {"id": str, "initial": dict, "steps": list}),
    ):
        rows = file.get(name, [] if name == SEQUENCES else None)
        if not isinstance(rows, list):
            return f"{name}: it is not a list"
        for at, row in enumerate(rows):
            if error := _row_error(row, shape):
                return f"{name}[{at}]{error}"
            for number, step in enumerate(row.get("steps", ())):
                if error := _row_error(step, {"input": dict, "expected": dict}):
                    return f"{name}[{at}].steps[{number}]{error}"
    return None


def _row_error(row: Any, shape: Mapping[str, type]) -> str | None:
    if not isinstance(row, dict):
        return ": it is not a JSON object"
    for name, expected in shape.items():
        if not isinstance(row.get(name), expected):
            return f".{name}: it is missing, or not of the JSON type that belongs there"
    return None


def request(kind: str, data: Mapping[str, Any], defaults: Mapping[str, Any]) -> Request:
    """What `data`, or else `defaults`, asks. Raises InvalidSnapshot."""
    fields = Fields({**defaults, **data})
    modes = ("exact_in", "exact_out", "partial_fill")
    return Request(
        fields.word("mode", one_of=modes),
        fields.unsigned(64, "amount"),
        fields.flag(LAYOUTS[kind].direction, default=True),
        fields.signed(64, "now") if "now" in fields else 0,
        fields.unsigned(128, "sqrt_price_limit_x64", default=0),
    )


def swap(kind: str, pool: Any, asked: Request) -> Swap[Any]:
    """The swap as the program does it; raises SwapFailed.

    A DLMM swap that pays nothing is returned, since the vectors tell what it would have been.
    """
    amount, zero_for_one, now = asked.amount, asked.zero_for_one, asked.now
    exact_in = asked.mode == "exact_in"
    if kind == "raydium_clmm" and asked.mode != "partial_fill":
        quote = raydium_clmm.quote_exact_in if exact_in else raydium_clmm.quote_exact_out
        return quote(pool, amount, zero_for_one, now, asked.sqrt_price_limit_x64)
    if kind == "meteora_dlmm" and exact_in:
        return meteora_dlmm.fill_exact_in(pool, amount, zero_for_one, now)
    if kind == "meteora_damm_v2" and asked.mode == "partial_fill":
        return meteora_damm_v2.quote_partial(pool, amount, zero_for_one, now)
    venue: Kind = KINDS[kind]
    if exact_in:
        return venue.quote_exact_in(pool, amount, zero_for_one, now)
    if asked.mode == "exact_out":
        return venue.quote_exact_out(pool, amount, zero_for_one, now)
    raise InvalidSnapshot(f"mode: {kind} has no {asked.mode}")


def facts(kind: str, pool: Any, zero_for_one: bool, done: Swap[Any]) -> Facts:
    """All that the vectors of this kind tell about a single swap."""
    return {
        **LAYOUTS[kind].single(pool, done, zero_for_one),
        "price_impact_curve": decimals(done.price_impact_curve),
        "price_impact_total": decimals(done.price_impact_total),
    }


def written(value: Any) -> Any:
    """A value as the vectors write it: integers are decimal strings."""
    match value:
        case bool() | None:
            return value
        case int():
            return str(value)
        case dict():
            return {name: written(inner) for name, inner in value.items()}
        case list() | tuple():
            return [written(inner) for inner in value]
        case _:
            return value


def _judge(
    kind: str, category: str, name: str, differences: Callable[[], Iterator[str]]
) -> Verdict:
    if kind not in LAYOUTS:
        return Verdict(kind, category, (f"{name}: {kind} is not computed",))
    try:
        found = tuple(f"{name} {difference}" for difference in differences())
    except InvalidSnapshot as error:
        return Verdict(kind, category, (f"{name} {error}",), malformed=True)
    except ArithmeticError as error:
        # A pool that no program would have let come about.
        return Verdict(kind, category, (f"{name} cannot be computed: {error!r}",))
    return Verdict(kind, category, found)


def _single(kind: str, vector: Mapping[str, Any]) -> Iterator[str]:
    pool = KINDS[kind].load(vector["input"])
    asked = request(kind, vector["input"], {})
    try:
        done = swap(kind, pool, asked)
    except SwapFailed as failure:
        yield from _differences(vector["expected"], {"error": failure.reason})
    else:
        told = facts(kind, pool, asked.zero_for_one, done)
        yield from _differences(vector["expected"], told)


def _sequence(kind: str, sequence: Mapping[str, Any]) -> Iterator[str]:
    pool = KINDS[kind].load(sequence["initial"])
    layout = LAYOUTS[kind]
    for number, step in enumerate(sequence["steps"], start=1):
        try:
            done = swap(kind, pool, request(kind, step["input"], sequence["initial"]))
        except SwapFailed as failure:
            told: Facts = {"error": failure.reason}
        else:
            told = layout.step(done)
            # What the program refuses after all changes nothing.
            pool = pool if "onchain_error" in told else done.pool
        for difference in _differences(step["expected"], told | layout.state(pool)):
            yield f"step {number} {difference}"


def _differences(expected: Mapping[str, Any], told: Facts) -> Iterator[str]:
    told = written(told)
    for name, value in written(expected).items():
        if name.startswith("sdk_") or (name == UNLISTED and value is None):
            continue
        if name not in told:
            yield f"{name}: expected {value}, computed none"
        elif told[name] != value:
            yield f"{name}: expected {value}, computed {told[name]}"
    if "error" in told and "error" not in expected:
        yield f"error: expected none, computed {told['error']}"


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
