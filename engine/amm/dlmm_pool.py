"""Meteora DLMM's pool: LbPair with its bins, and the fee that volatility adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from engine.amm.fixed_point import U64_MAX, ceil_div
from engine.amm.snapshot import Fields

RATE: Final = 1_000_000_000
MAX_RATE: Final = 100_000_000
BASIS_POINTS: Final = 10_000
# What volatility is divided by; rounded up.
VARIABLE_SCALE: Final = 100_000_000_000
# collect_fee_mode: from the token paid in, or always in token Y.
ON_INPUT: Final = 0
ON_TOKEN_Y: Final = 1
MAX_BIN_ID: Final = 443636


class Parameters(msgspec.Struct, frozen=True):
    """LbPair's static parameters."""

    base_factor: int
    filter_period: int  # seconds
    decay_period: int  # seconds
    reduction_factor: int  # basis points
    variable_fee_control: int
    max_volatility_accumulator: int
    protocol_share: int  # basis points of the fee
    base_fee_power_factor: int = 0
    collect_fee_mode: int = ON_INPUT


class Volatility(msgspec.Struct, frozen=True):
    """LbPair's variable parameters: how far swaps have lately moved the active bin."""

    volatility_accumulator: int
    volatility_reference: int
    index_reference: int
    last_update_timestamp: int


class Pool(msgspec.Struct, frozen=True):
    """LbPair with its bins as (bin_id, amount_x, amount_y), ascending; others are empty."""

    bin_step: int  # basis points
    active_id: int
    parameters: Parameters
    v_parameters: Volatility
    bins: tuple[tuple[int, int, int], ...]
    protocol_fee_x: int = 0
    protocol_fee_y: int = 0

    def fee_on_input(self, swap_for_y: bool) -> bool:
        """Whether the fee is in the token paid in."""
        return self.parameters.collect_fee_mode == ON_INPUT or not swap_for_y

    def referred(self, now: int) -> tuple[int, int]:
        """Index and volatility that a swap at `now` counts from.

        Kept within the filter period; afterwards the active bin, and what has not decayed yet.
        """
        elapsed = now - self.v_parameters.last_update_timestamp
        if elapsed < self.parameters.filter_period:
            return self.v_parameters.index_reference, self.v_parameters.volatility_reference
        if elapsed >= self.parameters.decay_period:
            return self.active_id, 0
        volatility = self.v_parameters.volatility_accumulator
        return self.active_id, volatility * self.parameters.reduction_factor // BASIS_POINTS

    def fee_rate(self, accumulator: int) -> int:
        """The base fee and what volatility adds to it, at most a tenth."""
        fixed = self.parameters
        scale: int = 10 ** (fixed.base_fee_power_factor + 1)
        rate = fixed.base_factor * self.bin_step * scale
        if fixed.variable_fee_control:
            square = (accumulator * self.bin_step) ** 2
            rate += ceil_div(fixed.variable_fee_control * square, VARIABLE_SCALE)
        return min(rate, MAX_RATE)


def load(data: Mapping[str, Any]) -> Pool:
    """A pool by the field names of LbPair; `bins` as [[bin_id, amount_x, amount_y], …].

    parameters and v_parameters may be called params and v. Raises InvalidSnapshot.
    """
    fields = Fields(data)
    fixed = fields.inner("parameters", "params")
    volatility = fields.inner("v_parameters", "v")
    bins = fields.rows("bins", (-MAX_BIN_ID, MAX_BIN_ID), (0, U64_MAX), (0, U64_MAX))
    return Pool(
        bin_step=fields.between(1, 2**16 - 1, "bin_step"),
        active_id=fields.between(-MAX_BIN_ID, MAX_BIN_ID, "active_id"),
        parameters=Parameters(
            base_factor=fixed.unsigned(16, "base_factor"),
            filter_period=fixed.unsigned(16, "filter_period"),
            decay_period=fixed.unsigned(16, "decay_period"),
            reduction_factor=fixed.unsigned(16, "reduction_factor"),
            variable_fee_control=fixed.unsigned(32, "variable_fee_control"),
            max_volatility_accumulator=fixed.unsigned(32, "max_volatility_accumulator"),
            protocol_share=fixed.between(0, BASIS_POINTS, "protocol_share"),
            base_fee_power_factor=fixed.unsigned(8, "base_fee_power_factor", default=0),
            collect_fee_mode=fixed.between(
                ON_INPUT, ON_TOKEN_Y, "collect_fee_mode", default=ON_INPUT
            ),
        ),
        v_parameters=Volatility(
            volatility_accumulator=volatility.unsigned(32, "volatility_accumulator"),
            volatility_reference=volatility.unsigned(32, "volatility_reference"),
            index_reference=volatility.signed(32, "index_reference"),
            last_update_timestamp=volatility.signed(64, "last_update_timestamp"),
        ),
        bins=tuple((bin_id, x, y) for bin_id, x, y in bins),
        protocol_fee_x=fields.unsigned(64, "protocol_fee_x", default=0),
        protocol_fee_y=fields.unsigned(64, "protocol_fee_y", default=0),
    )
