"""Meteora DLMM: bins of constant price, and the fee that moving between them adds."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from msgspec.structs import replace

from engine.amm.dlmm_bin import price_of
from engine.amm.meteora_dlmm import (
    BinSwap,
    Parameters,
    Pool,
    Volatility,
    exact_in_curve,
    fill_exact_in,
    load,
    pay_exact_in,
    quote_exact_in,
    quote_exact_out,
)
from engine.amm.swap import MAX_STEPS, SwapFailed
from tests.engine.amm.pools import NOW, amounts, directions, dlmm_pools, outcome

examples = settings(max_examples=80, deadline=None)
FIXED = Parameters(
    base_factor=10_000,
    filter_period=30,
    decay_period=600,
    reduction_factor=5000,
    variable_fee_control=0,
    max_volatility_accumulator=350_000,
    protocol_share=1000,
)
STILL = Volatility(0, 0, 0, 0)
# One per cent a bin, one per cent base fee, price 1 in the active bin.
POOL = Pool(100, 0, FIXED, STILL, ((-2, 0, 500), (-1, 0, 1000), (0, 700, 1000), (3, 900, 0)))


def held(pool: Pool) -> tuple[int, int]:
    return sum(x for _, x, _ in pool.bins), sum(y for _, _, y in pool.bins)


@examples
@given(dlmm_pools(), amounts, directions)
def test_bins_take_the_net_input_and_give_the_gross_output(
    pool: Pool, amount: int, for_y: bool
) -> None:
    swap = outcome(quote_exact_in, pool, amount, for_y, NOW)
    assume(isinstance(swap, BinSwap))

    before, after = held(pool), held(swap.pool)
    moved = (swap.net_in, -swap.gross_out) if for_y else (-swap.gross_out, swap.net_in)
    assert (after[0] - before[0], after[1] - before[1]) == moved
    assert sum(fill.amount_in for fill in swap.fills) == amount
    assert all(min(x, y) >= 0 for _, x, y in swap.pool.bins)


@examples
@given(dlmm_pools(), amounts, directions)
def test_every_bin_is_sold_at_its_price_and_before_the_next(
    pool: Pool, amount: int, for_y: bool
) -> None:
    swap = outcome(quote_exact_in, pool, amount, for_y, NOW)
    assume(isinstance(swap, BinSwap))

    ids = [fill.bin_id for fill in swap.fills]
    assert ids == sorted(ids, reverse=for_y)
    after = {bin_id: (x, y) for bin_id, x, y in swap.pool.bins}
    for fill in swap.fills[:-1]:
        assert after[fill.bin_id][1 if for_y else 0] == 0
    for fill in swap.fills:
        price = Fraction(price_of(fill.bin_id, pool.bin_step), 2**64)
        worth = fill.into_bin * price if for_y else fill.into_bin / price
        # A bin sold out took what it is worth rounded up, another gave it rounded down.
        one_unit_in = price if for_y else 1 / price
        assert worth - one_unit_in < fill.out_of_bin <= worth or worth - 1 < fill.out_of_bin


@examples
@given(dlmm_pools(), amounts, directions)
def test_an_exact_output_is_covered_by_what_each_bin_gives(
    pool: Pool, amount: int, for_y: bool
) -> None:
    swap = outcome(quote_exact_out, pool, amount, for_y, NOW)
    assume(isinstance(swap, BinSwap))

    for fill in swap.fills:
        fee_on_output = 0 if swap.fee_on_input else fill.fee
        assert fill.amount_out + fee_on_output <= fill.out_of_bin
        charged = fill.amount_in if swap.fee_on_input else fill.out_of_bin
        assert fill.fee * 10**9 >= charged * fill.rate
    before, after = held(pool), held(swap.pool)
    assert sum(fill.out_of_bin for fill in swap.fills) == before[for_y] - after[for_y]


@examples
@given(dlmm_pools(), amounts, directions)
def test_volatility_is_that_of_the_last_bin(pool: Pool, amount: int, for_y: bool) -> None:
    swap = outcome(quote_exact_in, pool, amount, for_y, NOW)
    assume(isinstance(swap, BinSwap))

    after = swap.pool.v_parameters
    distance = abs(after.index_reference - swap.pool.active_id)
    volatility = after.volatility_reference + 10_000 * distance
    assert after.volatility_accumulator == min(volatility, 350_000)
    assert [fill.rate for fill in swap.fills] == [
        pool.fee_rate(fill.accumulator) for fill in swap.fills
    ]


def test_a_swap_goes_on_in_the_next_bin_that_holds_something() -> None:
    # 1000 of Y at price 1 cost 1000 and a fee of ceil(1000 / 99) = 11; at 1 / 1.01, 500 pay 495
    # less the fee.
    swap = quote_exact_in(POOL, 1011 + 500, True, NOW)

    first, second = swap.fills
    assert (first.amount_in, first.amount_out, first.fee) == (1011, 1000, 11)
    assert (second.bin_id, second.fee, second.into_bin, second.amount_out) == (-1, 5, 495, 490)
    assert swap.pool.bins == ((-2, 0, 500), (-1, 495, 510), (0, 1700, 0), (3, 900, 0))
    assert (swap.pool.active_id, swap.pool.protocol_fee_x) == (-1, 1)


def test_a_bin_sold_out_exactly_stays_the_active_one() -> None:
    swap = quote_exact_in(POOL, 1011, True, NOW)

    assert (swap.amount_out, swap.pool.active_id) == (1000, 0)
    # Its own Y is gone; the next swap begins below.
    assert quote_exact_in(swap.pool, 100, True, NOW).fills[0].bin_id == -1


def test_empty_bins_are_passed() -> None:
    swap = quote_exact_in(POOL, 800, False, NOW)

    assert [fill.bin_id for fill in swap.fills] == [0, 3]


@pytest.mark.parametrize(
    ("elapsed", "reference", "index"),
    [(0, 8_000, 7), (29, 8_000, 7), (30, 20_000, 0), (599, 20_000, 0), (600, 0, 0)],
)
def test_volatility_is_kept_then_decays_then_is_forgotten(
    elapsed: int, reference: int, index: int
) -> None:
    moved = Volatility(40_000, 8_000, 7, NOW)
    pool = replace(POOL, v_parameters=moved, parameters=replace(FIXED, variable_fee_control=40_000))

    swap = quote_exact_in(pool, 100, True, NOW + elapsed)

    after = swap.pool.v_parameters
    assert (after.volatility_reference, after.index_reference) == (reference, index)
    assert after.volatility_accumulator == reference + 10_000 * index
    # The fee is of the accumulator just computed: 1 % and 40000 * (va * 100)^2 / 10^11 more.
    square = (after.volatility_accumulator * 100) ** 2
    assert swap.fills[0].rate == 10_000_000 + -(-40_000 * square // 10**11)


def test_only_a_swap_that_changes_the_bin_restarts_the_clock() -> None:
    inside = quote_exact_in(POOL, 100, True, NOW)
    across = quote_exact_in(POOL, 1100, True, NOW)

    assert inside.pool.v_parameters.last_update_timestamp == 0
    assert across.pool.v_parameters.last_update_timestamp == NOW


def test_the_fee_is_at_most_a_tenth() -> None:
    wild = replace(FIXED, base_fee_power_factor=2)

    assert quote_exact_in(replace(POOL, parameters=wild), 1000, True, NOW).fee == 100


def test_a_fee_that_eats_everything_is_all_the_protocols() -> None:
    swap = fill_exact_in(POOL, 1, True, NOW)

    assert (swap.amount_out, swap.fee, swap.protocol_fee) == (0, 1, 1)


def test_the_fee_may_always_be_in_y() -> None:
    pool = replace(POOL, parameters=replace(FIXED, collect_fee_mode=1))

    sold, bought = quote_exact_in(pool, 500, True, NOW), quote_exact_in(pool, 500, False, NOW)

    assert (sold.fee_on_input, sold.net_in, sold.gross_out, sold.amount_out) == (
        False,
        500,
        500,
        495,
    )
    assert (bought.fee_on_input, bought.net_in, bought.amount_out) == (True, 495, 495)
    assert quote_exact_in(pool, 1500, True, NOW).pool.protocol_fee_y == 1


def test_what_rounding_yields_beyond_an_exact_output_stays_with_the_pool() -> None:
    # A unit of X is worth 2.7 of Y in bin 100: one of Y asks for one of X, and the bin gives two.
    dear = Pool(100, 100, FIXED, STILL, ((100, 0, 1000),))
    fee_in_y = replace(dear, parameters=replace(FIXED, collect_fee_mode=1, base_factor=0))

    plain, in_y = (quote_exact_out(pool, 1, True, NOW) for pool in (dear, fee_in_y))

    assert (plain.amount_out, plain.pool.bins, plain.protocol_fee) == (1, ((100, 1, 998),), 0)
    assert (in_y.amount_out, in_y.pool.bins, in_y.protocol_fee) == (1, ((100, 1, 998),), 1)


@pytest.mark.parametrize(
    ("pool", "amount", "exact_in", "reason"),
    [
        (POOL, 10**6, True, "INSUFFICIENT_LIQUIDITY"),
        (POOL, 2501, False, "INSUFFICIENT_LIQUIDITY"),
        (POOL, 1, True, "ZERO_OUTPUT"),
        (replace(POOL, active_id=-3), 10, True, "INSUFFICIENT_LIQUIDITY"),
        (Pool(400, -900, FIXED, STILL, ((-900, 0, 10**9),)), 10, True, "MATH_OVERFLOW"),
        (Pool(100, 0, FIXED, STILL, ((0, 2**64 - 9, 99),)), 50, True, "MATH_OVERFLOW"),
    ],
)
def test_the_program_would_refuse(pool: Pool, amount: int, exact_in: bool, reason: str) -> None:
    quote = quote_exact_in if exact_in else quote_exact_out

    with pytest.raises(SwapFailed) as failure:
        quote(pool, amount, True, NOW)

    assert failure.value.reason == reason


def test_parameters_may_go_by_their_short_names() -> None:
    fields = {
        "bin_step": 100,
        "active_id": 0,
        "params": {name: getattr(FIXED, name) for name in Parameters.__struct_fields__},
        "v": {name: getattr(STILL, name) for name in Volatility.__struct_fields__},
        "bins": [[3, "900", "0"], [0, 700, 1000], [-1, 0, 1000], [-2, 0, "500"]],
    }

    assert load(fields) == POOL


def test_a_swap_through_more_bins_than_a_transaction_passes_is_not_followed() -> None:
    bins = tuple((-number, 0, 10) for number in range(10_000, -1, -1))
    ladder = replace(POOL, bin_step=1, bins=bins)

    for quote in (quote_exact_in, pay_exact_in, quote_exact_out):
        with pytest.raises(SwapFailed) as failure:
            quote(ladder, 10**4, True, NOW)
        assert failure.value.reason == "NOT_COMPUTED"
    assert exact_in_curve(ladder, True, NOW)(10**4) == 0
    assert len(quote_exact_in(ladder, 10**3, True, NOW).fills) < MAX_STEPS
