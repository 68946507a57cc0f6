"""Meteora DAMM v2's pool: its account with pool_fees, and the fees of time and volatility."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from engine.amm.fixed_point import ONE, U128_MAX, ceil_div, power
from engine.amm.snapshot import Fields
from engine.amm.swap import SwapFailed, overflow, require_u64

RATE: Final = 1_000_000_000
# By fee_version.
MAX_RATES: Final = (500_000_000, 990_000_000)
BASIS_POINTS: Final = 10_000
VARIABLE_SCALE: Final = 100_000_000_000
# collect_fee_mode: from the output; in token B; in token B, a part of it kept in the reserve.
ON_OUTPUT: Final = 0
ON_TOKEN_B: Final = 1
COMPOUNDING: Final = 2
LINEAR: Final = 0
EXPONENTIAL: Final = 1


class BaseFee(msgspec.Struct, frozen=True):
    """The base fee: `cliff_fee_numerator`, falling every `period_frequency` unless that is 0."""

    mode: int
    cliff_fee_numerator: int
    number_of_period: int = 0
    period_frequency: int = 0
    reduction_factor: int = 0

    def rate(self, point: int, activation_point: int) -> int:
        """The rate at a point in time; before the activation, that of the last period."""
        if self.mode not in (LINEAR, EXPONENTIAL):
            raise SwapFailed("UNSUPPORTED_FEE_MODE", f"base fee mode {self.mode} is not computed")
        if self.period_frequency == 0:
            return self.cliff_fee_numerator
        period = self.number_of_period
        if point >= activation_point:
            period = min((point - activation_point) // self.period_frequency, period)
        if self.mode == LINEAR:
            rate = self.cliff_fee_numerator - self.reduction_factor * period
        else:
            base = ONE - (self.reduction_factor << 64) // BASIS_POINTS
            factor = power(base, period) if base > 0 else None
            rate = -1 if factor is None else self.cliff_fee_numerator * factor >> 64
        return require_u64("base fee", rate)


class DynamicFee(msgspec.Struct, frozen=True):
    """DynamicFeeStruct: what earlier swaps' volatility adds to the fee."""

    max_volatility_accumulator: int
    variable_fee_control: int
    bin_step: int
    filter_period: int  # seconds
    decay_period: int  # seconds
    reduction_factor: int  # basis points
    last_update_timestamp: int
    bin_step_u128: int
    sqrt_price_reference: int
    volatility_accumulator: int
    volatility_reference: int

    def rate(self) -> int:
        """From the stored accumulator: a swap pays for the past, not for what it moves."""
        square = (self.volatility_accumulator * self.bin_step) ** 2
        return ceil_div(square * self.variable_fee_control, VARIABLE_SCALE)

    def before(self, sqrt_price: int, now: int) -> DynamicFee:
        """As a swap at `now` finds it."""
        elapsed = max(0, now - self.last_update_timestamp)
        if elapsed < self.filter_period:
            return self
        decayed = self.volatility_accumulator * self.reduction_factor // BASIS_POINTS
        return replace(
            self,
            sqrt_price_reference=sqrt_price,
            volatility_reference=decayed if elapsed < self.decay_period else 0,
        )

    def after(self, sqrt_price_before: int, sqrt_price: int, now: int) -> DynamicFee:
        """As a swap that moved the price leaves it."""
        moved = self._distance(sqrt_price, self.sqrt_price_reference) * BASIS_POINTS
        if self._distance(sqrt_price_before, sqrt_price):
            timestamp = now
        else:
            timestamp = self.last_update_timestamp
        return replace(
            self,
            volatility_accumulator=min(
                self.volatility_reference + moved, self.max_volatility_accumulator
            ),
            last_update_timestamp=timestamp,
        )

    def _distance(self, one: int, other: int) -> int:
        """Steps of bin_step between two prices, taken from their square roots."""
        lower, higher = sorted((one, other))
        if lower == 0:
            overflow("the price ratio")
        return 2 * (((higher << 64) // lower - ONE) // self.bin_step_u128)


class Pool(msgspec.Struct, frozen=True):
    """Pool with its pool_fees."""

    collect_fee_mode: int
    sqrt_price: int
    sqrt_min_price: int
    sqrt_max_price: int
    liquidity: int
    token_a_amount: int
    token_b_amount: int
    fee_version: int
    protocol_fee_percent: int
    compounding_fee_bps: int
    activation_point: int
    base_fee: BaseFee
    dynamic_fee: DynamicFee | None = None
    protocol_a_fee: int = 0
    protocol_b_fee: int = 0

    def fee_on_input(self, a_to_b: bool) -> bool:
        """Whether the fee is in the token paid in."""
        return self.collect_fee_mode != ON_OUTPUT and not a_to_b

    def fee_rate(self, now: int) -> int:
        """Base and dynamic fee, at most what the fee version allows."""
        rate = self.base_fee.rate(now, self.activation_point)
        if self.dynamic_fee is not None:
            rate += self.dynamic_fee.rate()
        return min(rate, MAX_RATES[self.fee_version])


def load(data: Mapping[str, Any]) -> Pool:
    """A pool by the field names of Pool and its pool_fees, which may also stand beside them.

    Raises InvalidSnapshot.
    """
    fields = Fields(data)
    fees = fields.inner("pool_fees") if "pool_fees" in fields else fields
    base = fees.inner("base_fee")
    mode = fields.between(ON_OUTPUT, COMPOUNDING, "collect_fee_mode")
    least = 1 if mode != COMPOUNDING else 0
    lowest = fields.between(least, U128_MAX, "sqrt_min_price")
    highest = fields.between(lowest, U128_MAX, "sqrt_max_price")
    # Where x * y = k, no range bounds the price.
    bounds = (lowest, highest) if mode != COMPOUNDING else (1, U128_MAX)
    return Pool(
        collect_fee_mode=mode,
        sqrt_price=fields.between(*bounds, "sqrt_price"),
        sqrt_min_price=lowest,
        sqrt_max_price=highest,
        liquidity=fields.between(least, U128_MAX, "liquidity"),
        token_a_amount=fields.unsigned(64, "token_a_amount"),
        token_b_amount=fields.unsigned(64, "token_b_amount"),
        fee_version=fields.between(0, len(MAX_RATES) - 1, "fee_version"),
        protocol_fee_percent=fees.between(0, 100, "protocol_fee_percent"),
        compounding_fee_bps=fees.between(0, BASIS_POINTS, "compounding_fee_bps", default=0),
        activation_point=fields.unsigned(64, "activation_point"),
        base_fee=BaseFee(
            mode=base.unsigned(8, "mode", "base_fee_mode"),
            cliff_fee_numerator=base.unsigned(64, "cliff_fee_numerator"),
            number_of_period=base.unsigned(16, "number_of_period", default=0),
            period_frequency=base.unsigned(64, "period_frequency", default=0),
            reduction_factor=base.unsigned(64, "reduction_factor", default=0),
        ),
        dynamic_fee=_load_dynamic_fee(fees),
        protocol_a_fee=fields.unsigned(64, "protocol_a_fee", default=0),
        protocol_b_fee=fields.unsigned(64, "protocol_b_fee", default=0),
    )


def _load_dynamic_fee(fees: Fields) -> DynamicFee | None:
    if "dynamic_fee" not in fees:
        return None
    fee = fees.inner("dynamic_fee")
    if not fee.flag("initialized", default=True):
        return None
    return DynamicFee(
        max_volatility_accumulator=fee.unsigned(32, "max_volatility_accumulator"),
        variable_fee_control=fee.unsigned(32, "variable_fee_control"),
        bin_step=fee.unsigned(16, "bin_step"),
        filter_period=fee.unsigned(16, "filter_period"),
        decay_period=fee.unsigned(16, "decay_period"),
        reduction_factor=fee.unsigned(16, "reduction_factor"),
        last_update_timestamp=fee.unsigned(64, "last_update_timestamp"),
        bin_step_u128=fee.between(1, U128_MAX, "bin_step_u128"),
        sqrt_price_reference=fee.unsigned(128, "sqrt_price_reference"),
        volatility_accumulator=fee.unsigned(128, "volatility_accumulator"),
        volatility_reference=fee.unsigned(128, "volatility_reference"),
    )
