"""Prices of ticks and bins against the powers that they stand for."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.amm.dlmm_bin import price_of
from engine.amm.fixed_point import ONE, ceil_div, power
from engine.amm.ticks import (
    MAX_SQRT_PRICE,
    MAX_TICK,
    MIN_SQRT_PRICE,
    MIN_TICK,
    sqrt_price_at,
    tick_at,
)

examples = settings(max_examples=150, deadline=None)


def relative_error(found: int, base: Decimal, exponent: Decimal) -> Decimal:
    with localcontext() as context:
        context.prec = 60
        exact = base**exponent * 2**64
        return abs(found / exact - 1)


def test_the_range_of_ticks_ends_at_the_programs_prices() -> None:
    assert sqrt_price_at(MIN_TICK) == MIN_SQRT_PRICE
    assert sqrt_price_at(MAX_TICK) == MAX_SQRT_PRICE
    assert sqrt_price_at(0) == ONE


@examples
@given(st.integers(-200_000, 200_000))
def test_a_tick_is_a_power_of_the_root(tick: int) -> None:
    error = relative_error(sqrt_price_at(tick), Decimal("1.0001"), Decimal(tick) / 2)

    assert error < Decimal("1e-11")


@examples
@given(st.integers(MIN_TICK, MAX_TICK - 1))
def test_a_price_lies_in_the_tick_below_it(tick: int) -> None:
    at, above = sqrt_price_at(tick), sqrt_price_at(tick + 1)

    assert at < above
    assert (tick_at(at), tick_at(above - 1), tick_at(above)) == (tick, tick, tick + 1)


@examples
@given(st.integers(-800, 800), st.sampled_from((1, 10, 80, 400)))
def test_a_bins_price_is_a_power_of_its_step(bin_id: int, bin_step: int) -> None:
    base = 1 + Decimal(bin_step) / 10_000

    # Ten squarings cost as many bits; what is inverted has lost those above its point as well.
    lost = 14 + abs(bin_id) * float(base.log10()) / 0.3
    assert relative_error(price_of(bin_id, bin_step), base, Decimal(bin_id)) < 2 ** (lost - 64)


def test_powers_keep_the_programs_low_bits() -> None:
    base = ONE + (25 << 64) // 10_000
    inverse = (2**128 - 1) // base

    assert power(base, 0) == ONE
    assert power(base, -1) == inverse
    assert power(base, 2) == (2**128 - 1) // (inverse * inverse >> 64)
    # Multiplying the base itself would have kept other bits.
    assert power(base, 2) != base * base >> 64


def test_a_power_that_overflows_is_none() -> None:
    assert power(2 * ONE, 64) is None
    assert power(ONE + 1, 1 << 19) is None


@pytest.mark.parametrize(("numerator", "quotient"), [(0, 0), (1, 1), (9, 3), (10, 4)])
def test_a_quotient_is_rounded_up(numerator: int, quotient: int) -> None:
    assert ceil_div(numerator, 3) == quotient
