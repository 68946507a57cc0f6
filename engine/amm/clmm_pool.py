"""Raydium CLMM's pool: PoolState with its AmmConfig, and the fee that volatility adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import astuple

from engine.amm.fixed_point import ceil_div
from engine.amm.snapshot import Fields
from engine.amm.ticks import MAX_SQRT_PRICE, MAX_TICK, MIN_TICK, sqrt_price_at

RATE: Final = 1_000_000
MAX_RATE: Final = 100_000
# Of volatility accumulators, which count tick spacings crossed.
VOLATILITY: Final = 10_000
REDUCTION: Final = 10_000
CONTROL: Final = 100_000
# fee_on: whichever token is paid in, or always the same one.
ON_INPUT: Final = 0
ON_TOKEN_0: Final = 1
ON_TOKEN_1: Final = 2


class DynamicFee(msgspec.Struct, frozen=True):
    """DynamicFeeInfo: what recent volatility adds to the fee."""

    filter_period: int  # seconds
    decay_period: int  # seconds
    reduction_factor: int
    dynamic_fee_control: int
    max_volatility_accumulator: int
    tick_spacing_index_reference: int
    volatility_reference: int
    volatility_accumulator: int
    last_update_timestamp: int

    def referred_to(self, index: int, now: int) -> DynamicFee:
        """As a swap at `now`, starting in the tick spacing `index`, finds it."""
        elapsed = max(0, now - self.last_update_timestamp)
        if elapsed < self.filter_period:
            return self
        decayed = self.volatility_accumulator * self.reduction_factor // REDUCTION
        return DynamicFee(
            self.filter_period,
            self.decay_period,
            self.reduction_factor,
            self.dynamic_fee_control,
            self.max_volatility_accumulator,
            index,
            decayed if elapsed < self.decay_period else 0,
            self.volatility_accumulator,
            now,
        )

    def accumulated(self, index: int) -> int:
        """The volatility accumulator in the tick spacing `index`."""
        crossed = abs(self.tick_spacing_index_reference - index)
        volatility = self.volatility_reference + crossed * VOLATILITY
        return min(volatility, self.max_volatility_accumulator)

    def rate(self, accumulator: int, tick_spacing: int) -> int:
        """What that adds to the fee rate, rounded up."""
        crossed = accumulator * tick_spacing
        return ceil_div(self.dynamic_fee_control * crossed * crossed, CONTROL * VOLATILITY**2)


class Pool(msgspec.Struct, frozen=True):
    """PoolState with its AmmConfig's rates; `ticks` are the initialized ones, ascending."""

    tick_spacing: int
    trade_fee_rate: int
    protocol_fee_rate: int  # of the trade fee
    fund_fee_rate: int  # of the trade fee
    fee_on: int
    sqrt_price_x64: int
    tick_current: int
    liquidity: int
    ticks: tuple[tuple[int, int], ...]  # (tick, liquidity_net)
    dynamic_fee_info: DynamicFee | None = None
    protocol_fees_token_0: int = 0
    protocol_fees_token_1: int = 0
    fund_fees_token_0: int = 0
    fund_fees_token_1: int = 0

    def fee_on_input(self, zero_for_one: bool) -> bool:
        """Whether the fee is in the token paid in."""
        return self.fee_on == ON_INPUT or (self.fee_on == ON_TOKEN_0) is zero_for_one


def load(data: Mapping[str, Any]) -> Pool:
    """A pool by the field names of PoolState and AmmConfig; `ticks` as [[tick, liquidity_net], …].

    Raises InvalidSnapshot.
    """
    fields = Fields(data)
    ticks = fields.rows("ticks", (MIN_TICK, MAX_TICK), (-(2**127), 2**127 - 1))
    tick_current = fields.between(MIN_TICK - 1, MAX_TICK, "tick_current")
    # A swap down that ends just at a tick leaves the one below as the current.
    least, most = (
        sqrt_price_at(min(max(t, MIN_TICK), MAX_TICK)) for t in (tick_current, tick_current + 1)
    )
    return Pool(
        tick_spacing=fields.between(1, 2**16 - 1, "tick_spacing"),
        trade_fee_rate=fields.between(0, RATE - 1, "trade_fee_rate"),
        protocol_fee_rate=fields.between(0, RATE, "protocol_fee_rate"),
        fund_fee_rate=fields.between(0, RATE, "fund_fee_rate"),
        fee_on=fields.between(ON_INPUT, ON_TOKEN_1, "fee_on", default=ON_INPUT),
        sqrt_price_x64=fields.between(least, min(most, MAX_SQRT_PRICE - 1), "sqrt_price_x64"),
        tick_current=tick_current,
        liquidity=fields.unsigned(128, "liquidity"),
        ticks=tuple((tick, net) for tick, net in ticks),
        dynamic_fee_info=_load_dynamic_fee(fields),
        **{
            f"{whose}_fees_token_{side}": fields.unsigned(
                64, f"{whose}_fees_token_{side}", default=0
            )
            for whose in ("protocol", "fund")
            for side in (0, 1)
        },
    )


def _load_dynamic_fee(fields: Fields) -> DynamicFee | None:
    if "dynamic_fee_info" not in fields and "dynamic_fee" not in fields:
        return None
    info = fields.inner("dynamic_fee_info", "dynamic_fee")
    dynamic_fee = DynamicFee(
        filter_period=info.unsigned(16, "filter_period"),
        decay_period=info.unsigned(16, "decay_period"),
        reduction_factor=info.unsigned(16, "reduction_factor"),
        dynamic_fee_control=info.unsigned(32, "dynamic_fee_control"),
        max_volatility_accumulator=info.unsigned(32, "max_volatility_accumulator"),
        tick_spacing_index_reference=info.signed(32, "tick_spacing_index_reference"),
        volatility_reference=info.unsigned(32, "volatility_reference"),
        volatility_accumulator=info.unsigned(32, "volatility_accumulator"),
        last_update_timestamp=info.unsigned(64, "last_update_timestamp"),
    )
    # The account of a pool without a dynamic fee holds zeros.
    return dynamic_fee if any(astuple(dynamic_fee)) else None
