"""Meteora DAMM v2: one range, or x * y = k, and fees of time and of volatility."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import replace

from engine.amm.meteora_damm_v2 import (
    BaseFee,
    DynamicFee,
    Pool,
    RangeSwap,
    load,
    quote_exact_in,
    quote_exact_out,
    quote_partial,
)
from engine.amm.snapshot import InvalidSnapshot
from engine.amm.swap import SwapFailed
from tests.engine.amm.pools import NOW, amounts, damm_v2_pools, directions, outcome

examples = settings(max_examples=60, deadline=None)
ONE = 2**64
# Price 1, a tenth of room on both sides; liquidity of a million of each token at full range.
POOL = Pool(
    collect_fee_mode=0,
    sqrt_price=ONE,
    sqrt_min_price=ONE * 9 // 10,
    sqrt_max_price=ONE * 11 // 10,
    liquidity=10**6 * ONE,
    token_a_amount=10**6,
    token_b_amount=10**6,
    fee_version=0,
    protocol_fee_percent=20,
    compounding_fee_bps=0,
    activation_point=NOW,
    base_fee=BaseFee(0, 10_000_000),
)
VOLATILE = DynamicFee(
    max_volatility_accumulator=350_000,
    variable_fee_control=7500,
    bin_step=1,
    filter_period=10,
    decay_period=120,
    reduction_factor=5000,
    last_update_timestamp=NOW,
    bin_step_u128=1844674407370955,
    sqrt_price_reference=ONE,
    volatility_accumulator=200_000,
    volatility_reference=30_000,
)


@examples
@given(damm_v2_pools(mode=0) | damm_v2_pools(mode=1), amounts, directions)
def test_amounts_are_the_real_numbers_rounded_against_the_trader(
    pool: Pool, amount: int, a_to_b: bool
) -> None:
    swap = outcome(quote_exact_out, pool, amount, a_to_b, NOW)
    assume(isinstance(swap, RangeSwap))

    low, high = sorted((pool.sqrt_price, swap.pool.sqrt_price))
    amount_a = Fraction(pool.liquidity * (high - low), low * high)
    amount_b = Fraction(pool.liquidity * (high - low), 2**128)
    needed, paid = (amount_a, amount_b) if a_to_b else (amount_b, amount_a)
    assert needed <= swap.net_in < needed + 1
    assert swap.gross_out <= paid


@examples
@given(damm_v2_pools(mode=0) | damm_v2_pools(mode=1), amounts)
def test_the_price_falls_as_far_as_the_input_reaches(pool: Pool, amount: int) -> None:
    swap = outcome(quote_exact_in, pool, amount, True, NOW)
    assume(isinstance(swap, RangeSwap))

    start, end = pool.sqrt_price, swap.pool.sqrt_price
    assert Fraction(pool.liquidity * (start - end), start * end) <= swap.net_in
    assert Fraction(pool.liquidity * (start - end + 1), start * (end - 1)) > swap.net_in


@examples
@given(damm_v2_pools(mode=2), amounts, directions)
def test_a_compounding_pool_keeps_k_and_a_part_of_the_fee(
    pool: Pool, amount: int, a_to_b: bool
) -> None:
    swap = outcome(quote_exact_in, pool, amount, a_to_b, NOW)
    assume(isinstance(swap, RangeSwap))

    after = swap.pool
    k = pool.token_a_amount * pool.token_b_amount
    assert after.token_a_amount * (after.token_b_amount - swap.compounding_fee) >= k
    assert swap.compounding_fee == (swap.fee - swap.protocol_fee) * 2500 // 10_000
    # The price is the root of B / A, rounded down.
    ratio = Fraction(after.token_b_amount << 128, after.token_a_amount)
    assert after.sqrt_price**2 <= ratio < (after.sqrt_price + 1) ** 2


@examples
@given(damm_v2_pools(), amounts, directions)
def test_the_tracked_reserves_move_by_what_the_curve_took_and_gave(
    pool: Pool, amount: int, a_to_b: bool
) -> None:
    swap = outcome(quote_exact_in, pool, amount, a_to_b, NOW)
    assume(isinstance(swap, RangeSwap))

    moved_a = swap.pool.token_a_amount - pool.token_a_amount
    moved_b = swap.pool.token_b_amount - pool.token_b_amount - swap.compounding_fee
    expected = (swap.net_in, -swap.gross_out) if a_to_b else (-swap.gross_out, swap.net_in)
    assert (moved_a, moved_b) == expected
    assert swap.lp_fee == swap.claiming_fee + swap.compounding_fee


@examples
@given(damm_v2_pools(), amounts, directions, st.booleans())
def test_the_fee_is_the_rate_rounded_up(
    pool: Pool, amount: int, a_to_b: bool, exact_in: bool
) -> None:
    swap = outcome(quote_exact_in if exact_in else quote_exact_out, pool, amount, a_to_b, NOW)
    assume(isinstance(swap, RangeSwap))

    charged = swap.amount_in if swap.fee_on_input else swap.gross_out
    assert 0 <= swap.fee - Fraction(charged * swap.fee_rate, 10**9) < 1


@pytest.mark.parametrize("a_to_b", [True, False])
@pytest.mark.parametrize("mode", [0, 1])
def test_a_partial_fill_stops_at_the_end_of_the_range(mode: int, a_to_b: bool) -> None:
    pool = replace(POOL, collect_fee_mode=mode)

    swap = quote_partial(pool, 10**6, a_to_b, NOW)

    assert swap.pool.sqrt_price == (pool.sqrt_min_price if a_to_b else pool.sqrt_max_price)
    # 10^6 * (1 / 0.9 - 1) of A, or 10^6 * 0.1 of B.
    assert swap.net_in == (111_112 if a_to_b else 100_000)
    on_input = mode == 1 and not a_to_b
    assert swap.amount_in == (101_011 if on_input else swap.net_in)
    assert quote_partial(pool, swap.amount_in, a_to_b, NOW).pool == swap.pool
    # Without what the fee would have been of the whole amount.
    assert swap.amount_left == (990_000 if on_input else 10**6) - swap.net_in


@pytest.mark.parametrize("quote", [quote_exact_in, quote_exact_out])
@pytest.mark.parametrize("a_to_b", [True, False])
def test_a_whole_fill_must_end_within_the_range(quote: Any, a_to_b: bool) -> None:
    for amount in (120_000, 10**6, 10**15):
        with pytest.raises(SwapFailed) as failure:
            quote(POOL, amount, a_to_b, NOW)
        assert failure.value.reason == "PRICE_RANGE_VIOLATION"


def test_a_partial_fill_that_fits_is_a_whole_one() -> None:
    assert quote_partial(POOL, 5000, True, NOW) == quote_exact_in(POOL, 5000, True, NOW)


@pytest.mark.parametrize(
    ("mode", "a_to_b", "token", "on_input"),
    [
        (0, True, "b", False),
        (0, False, "a", False),
        (1, True, "b", False),
        (1, False, "b", True),
        (2, True, "b", False),
        (2, False, "b", True),
    ],
)
def test_the_fee_is_in_the_token_that_the_mode_names(
    mode: int, a_to_b: bool, token: str, on_input: bool
) -> None:
    swap = quote_exact_in(replace(POOL, collect_fee_mode=mode), 50_000, a_to_b, NOW)

    other = "b" if token == "a" else "a"
    assert swap.fee_on_input is on_input
    assert getattr(swap.pool, f"protocol_{token}_fee") == swap.fee * 20 // 100 > 0
    assert getattr(swap.pool, f"protocol_{other}_fee") == 0


@pytest.mark.parametrize(
    ("fee", "elapsed", "rate"),
    [
        (BaseFee(0, 50_000_000), 10**6, 50_000_000),
        (BaseFee(0, 50_000_000, 10, 60, 1_000_000), 0, 50_000_000),
        (BaseFee(0, 50_000_000, 10, 60, 1_000_000), 59, 50_000_000),
        (BaseFee(0, 50_000_000, 10, 60, 1_000_000), 60, 49_000_000),
        (BaseFee(0, 50_000_000, 10, 60, 1_000_000), 10**6, 40_000_000),
        (BaseFee(0, 50_000_000, 10, 60, 1_000_000), -1, 40_000_000),
        (BaseFee(1, 50_000_000, 10, 60, 1000), 60, 45_000_000),
        (BaseFee(1, 50_000_000, 10, 60, 1000), 120, 40_500_000),
        # 49,895,094.45 and 1,301,200.14, rounded down.
        (BaseFee(1, 50_000_000, 10, 60, 3), 7 * 60, 49_895_094),
        (BaseFee(1, 50_000_000, 10, 60, 3333), 9 * 60, 1_301_200),
        (BaseFee(1, 50_000_000, 10, 60, 0), 120, 50_000_000),
    ],
)
def test_the_base_fee_falls_by_its_schedule(fee: BaseFee, elapsed: int, rate: int) -> None:
    swap = quote_exact_in(replace(POOL, base_fee=fee), 1000, True, NOW + elapsed)

    assert swap.fee_rate == rate


@pytest.mark.parametrize(("version", "cap"), [(0, 500_000_000), (1, 990_000_000)])
def test_the_fee_version_caps_the_fee(version: int, cap: int) -> None:
    pool = replace(POOL, fee_version=version, base_fee=BaseFee(0, 999_000_000))

    assert quote_exact_in(pool, 1000, True, NOW).fee_rate == cap


def test_a_swap_pays_for_the_volatility_before_it() -> None:
    # 7500 * (20000 * 10)^2 / 10^11 is 3000, whatever this swap moves and however long ago it was.
    pool = replace(POOL, dynamic_fee=replace(VOLATILE, volatility_accumulator=20_000, bin_step=10))

    rates = {quote_exact_in(pool, amount, True, NOW + 5).fee_rate for amount in (10, 50_000)}

    assert rates == {10_000_000 + 3000}
    assert quote_exact_in(pool, 10, True, NOW + 500).fee_rate == 10_000_000 + 3000


@pytest.mark.parametrize(
    ("elapsed", "reference", "price_reference"),
    [
        (-5, 30_000, ONE),
        (0, 30_000, ONE),
        (9, 30_000, ONE),
        (10, 100_000, ONE + 9),
        (119, 100_000, ONE + 9),
        (120, 0, ONE + 9),
    ],
)
def test_volatility_is_kept_then_decays_then_is_forgotten(
    elapsed: int, reference: int, price_reference: int
) -> None:
    pool = replace(POOL, sqrt_price=ONE + 9, dynamic_fee=VOLATILE)

    after = quote_exact_in(pool, 1, True, NOW + elapsed).pool.dynamic_fee

    assert after is not None
    assert (after.volatility_reference, after.sqrt_price_reference) == (reference, price_reference)
    # A price within one basis point has not moved: neither volatility nor the clock.
    assert after.volatility_accumulator == reference
    assert after.last_update_timestamp == NOW


def test_volatility_counts_basis_points_between_the_roots_twice() -> None:
    pool = replace(POOL, dynamic_fee=replace(VOLATILE, max_volatility_accumulator=10**9))

    swap = quote_exact_in(pool, 50_000, True, NOW + 5)

    after = swap.pool.dynamic_fee
    assert after is not None
    points = (ONE * 2**64 // swap.pool.sqrt_price - ONE) // 1844674407370955
    # 50,000 into 10^6 moves the root by five per cent.
    assert points == 500
    assert after.volatility_accumulator == 30_000 + 2 * 500 * 10_000
    assert after.last_update_timestamp == NOW + 5
    capped = quote_exact_in(replace(POOL, dynamic_fee=VOLATILE), 50_000, True, NOW).pool
    assert capped.dynamic_fee is not None
    assert capped.dynamic_fee.volatility_accumulator == 350_000


def test_an_output_of_zero_is_accepted() -> None:
    assert quote_exact_in(POOL, 1, True, NOW).amount_out == 0


@pytest.mark.parametrize(
    ("pool", "amount", "reason"),
    [
        (replace(POOL, base_fee=BaseFee(2, 1)), 10, "UNSUPPORTED_FEE_MODE"),
        (replace(POOL, token_b_amount=5), 1000, "MATH_OVERFLOW"),
        (replace(POOL, token_a_amount=2**64 - 5), 1000, "MATH_OVERFLOW"),
        (replace(POOL, base_fee=BaseFee(0, 5, 9, 1, 1)), 10, "MATH_OVERFLOW"),
        (replace(POOL, collect_fee_mode=2, token_a_amount=0), 10, "INSUFFICIENT_LIQUIDITY"),
    ],
)
def test_the_program_would_refuse(pool: Pool, amount: int, reason: str) -> None:
    with pytest.raises(SwapFailed) as failure:
        quote_exact_in(pool, amount, True, NOW + 100)

    assert failure.value.reason == reason


def test_a_compounding_pool_cannot_be_emptied() -> None:
    with pytest.raises(SwapFailed) as failure:
        quote_exact_out(replace(POOL, collect_fee_mode=2), 10**6, True, NOW)

    assert failure.value.reason == "INSUFFICIENT_LIQUIDITY"


def test_an_account_may_be_pasted_in() -> None:
    pool = replace(POOL, dynamic_fee=VOLATILE)
    fields = to_builtins(pool)
    fees = {
        "base_fee": {**fields.pop("base_fee"), "padding_1": [0, 0]},
        "dynamic_fee": {"initialized": 1, **fields.pop("dynamic_fee")},
        "protocol_fee_percent": fields.pop("protocol_fee_percent"),
        "compounding_fee_bps": fields.pop("compounding_fee_bps"),
    }

    assert load({**fields, "pool_fees": fees}) == pool
    fees["dynamic_fee"] = {"initialized": 0}
    assert load({**fields, "pool_fees": fees}) == POOL


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"sqrt_price": ONE * 9 // 10 - 1}, "sqrt_price"),
        ({"sqrt_price": ONE * 11 // 10 + 1}, "sqrt_price"),
        ({"sqrt_max_price": ONE * 9 // 10 - 1}, "sqrt_max_price"),
    ],
)
def test_a_price_outside_of_the_pool_s_range_is_no_pool(wrong: dict[str, int], named: str) -> None:
    fields = to_builtins(POOL)
    assert load(fields) == POOL

    with pytest.raises(InvalidSnapshot, match=rf"^{named}: "):
        load(fields | wrong)
