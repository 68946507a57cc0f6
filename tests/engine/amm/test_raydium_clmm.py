"""Raydium CLMM: ranges, the ticks between them, and the fee that volatility adds."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from msgspec.structs import asdict, replace

from engine.amm.raydium_clmm import (
    DynamicFee,
    Pool,
    RangeSwap,
    exact_in_curve,
    load,
    pay_exact_in,
    quote_exact_in,
    quote_exact_out,
)
from engine.amm.snapshot import InvalidSnapshot
from engine.amm.swap import MAX_STEPS, SwapFailed
from engine.amm.ticks import MAX_SQRT_PRICE, sqrt_price_at, tick_at
from tests.engine.amm.pools import NOW, amounts, clmm_pools, directions, outcome

examples = settings(max_examples=60, deadline=None)
L = 10**12
# One range around price 1, and less liquidity beyond it on both sides.
POOL = Pool(
    tick_spacing=10,
    trade_fee_rate=2500,
    protocol_fee_rate=120_000,
    fund_fee_rate=40_000,
    fee_on=0,
    sqrt_price_x64=2**64,
    tick_current=0,
    liquidity=2 * L,
    ticks=((-1000, L), (-100, L), (100, -L), (1000, -L)),
)
# Inside a tick spacing, not on its edge.
INSIDE = replace(POOL, sqrt_price_x64=sqrt_price_at(5), tick_current=5)
VOLATILE = DynamicFee(
    filter_period=30,
    decay_period=300,
    reduction_factor=5000,
    dynamic_fee_control=20_000,
    max_volatility_accumulator=350_000,
    tick_spacing_index_reference=-3,
    volatility_reference=10_000,
    volatility_accumulator=40_000,
    last_update_timestamp=NOW,
)


@examples
@given(clmm_pools(), amounts, directions)
def test_liquidity_is_that_of_the_ranges_around_the_price(
    pool: Pool, amount: int, forward: bool
) -> None:
    swap = outcome(quote_exact_in, pool, amount, forward, NOW)
    assume(isinstance(swap, RangeSwap))

    after = swap.pool
    assert after.liquidity == sum(net for tick, net in pool.ticks if tick <= after.tick_current)
    # On a tick that was crossed downwards, the pool stands in the one below.
    assert tick_at(after.sqrt_price_x64) - after.tick_current in (0, 1)
    assert swap.ticks_crossed == sum(
        min(pool.tick_current, after.tick_current)
        < tick
        <= max(pool.tick_current, after.tick_current)
        for tick, _ in pool.ticks
    )


@examples
@given(clmm_pools(dynamic=False), amounts, directions)
def test_amounts_are_the_real_numbers_rounded_against_the_trader(
    pool: Pool, amount: int, forward: bool
) -> None:
    swap = outcome(quote_exact_out, pool, amount, forward, NOW)
    assume(isinstance(swap, RangeSwap))

    start, end = pool.sqrt_price_x64, swap.pool.sqrt_price_x64
    stops = [start, *_prices_between(pool, start, end), end]
    needed = paid = Fraction(0)
    liquidity = pool.liquidity
    for begin, stop in pairwise(stops):
        low, high = sorted((begin, stop))
        middle = tick_at((low + high) // 2)
        liquidity = sum(net for tick, net in pool.ticks if tick <= middle)
        amount_0 = Fraction(liquidity * (high - low) << 64, low * high)
        amount_1 = Fraction(liquidity * (high - low), 1 << 64)
        needed += amount_0 if forward else amount_1
        paid += amount_1 if forward else amount_0
    steps = len(stops)
    assert needed <= swap.net_in <= needed + steps
    # The price is rounded too, so the pool may keep what one price step is worth.
    assert swap.gross_out <= paid
    assert swap.amount_out == amount


def _prices_between(pool: Pool, start: int, end: int) -> list[int]:
    prices = (sqrt_price_at(tick) for tick, _ in pool.ticks)
    crossed = (price for price in prices if min(start, end) < price < max(start, end))
    return sorted(crossed, reverse=end < start)


@examples
@given(clmm_pools(dynamic=False), amounts, directions)
def test_two_swaps_in_a_row_gain_nothing_over_one(pool: Pool, amount: int, forward: bool) -> None:
    whole = outcome(quote_exact_in, pool, 2 * amount, forward, NOW)
    first = outcome(quote_exact_in, pool, amount, forward, NOW)
    assume(isinstance(whole, RangeSwap) and isinstance(first, RangeSwap))
    second = quote_exact_in(first.pool, amount, forward, NOW)

    # One unit for each rounding that the longer way has more.
    assert first.amount_out + second.amount_out <= whole.amount_out + 1


def test_a_tick_reached_exactly_is_crossed_and_free_from_there() -> None:
    # What it takes to reach tick -100, and not a unit more.
    reaching = quote_exact_in(POOL, 10**18, True, NOW, sqrt_price_limit_x64=sqrt_price_at(-100))
    after = reaching.pool

    assert (after.tick_current, after.liquidity, reaching.ticks_crossed) == (-101, L, 1)
    assert quote_exact_in(POOL, reaching.amount_in, True, NOW).pool == after
    back = quote_exact_in(after, 10**6, False, NOW)
    assert (back.ticks_crossed, back.pool.liquidity) == (1, 2 * L)


def test_nothing_is_paid_for_a_stretch_without_liquidity() -> None:
    gap = replace(POOL, liquidity=L, ticks=((-50, L), (50, -L), (500, L), (900, -L)))

    swap = quote_exact_in(gap, 10**10, False, NOW)

    assert swap.pool.tick_current > 500
    below = quote_exact_in(gap, 10**18, False, NOW, sqrt_price_limit_x64=sqrt_price_at(50))
    beyond = replace(gap, sqrt_price_x64=sqrt_price_at(500), tick_current=500, liquidity=L)
    rest = quote_exact_in(beyond, 10**10 - below.amount_in, False, NOW)
    assert swap.amount_out == below.amount_out + rest.amount_out


@pytest.mark.parametrize("quote", [quote_exact_in, quote_exact_out])
@pytest.mark.parametrize("forward", [True, False])
def test_a_price_limit_leaves_the_rest(quote: Any, forward: bool) -> None:
    limit = sqrt_price_at(-55 if forward else 55)

    swap = quote(POOL, 10**15, forward, NOW, limit)

    assert swap.pool.sqrt_price_x64 == limit
    assert swap.remaining == 10**15 - (
        swap.amount_in if quote is quote_exact_in else swap.amount_out
    )


@pytest.mark.parametrize(
    ("amount", "forward", "limit", "reason"),
    [
        (10**15, True, 0, "INSUFFICIENT_LIQUIDITY"),
        (10**15, False, 0, "INSUFFICIENT_LIQUIDITY"),
        (10**15, False, sqrt_price_at(2000), "INSUFFICIENT_LIQUIDITY"),
        (1, True, 0, "ZERO_OUTPUT"),
        (100, True, 2**64, "PRICE_LIMIT"),
        (100, False, 2**64, "PRICE_LIMIT"),
        (100, False, MAX_SQRT_PRICE, "PRICE_LIMIT"),
    ],
)
def test_the_program_would_refuse(amount: int, forward: bool, limit: int, reason: str) -> None:
    with pytest.raises(SwapFailed) as failure:
        quote_exact_in(POOL, amount, forward, NOW, limit)

    assert failure.value.reason == reason


@pytest.mark.parametrize(
    ("fee_on", "forward", "token", "on_input"),
    [
        (0, True, 0, True),
        (0, False, 1, True),
        (1, True, 0, True),
        (1, False, 0, False),
        (2, True, 1, False),
        (2, False, 1, True),
    ],
)
def test_the_fee_is_in_the_token_that_the_pool_names(
    fee_on: int, forward: bool, token: int, on_input: bool
) -> None:
    swap = quote_exact_in(replace(POOL, fee_on=fee_on), 10**9, forward, NOW)

    after = swap.pool
    taken = [after.protocol_fees_token_0, after.protocol_fees_token_1]
    funded = [after.fund_fees_token_0, after.fund_fees_token_1]
    assert swap.fee_on_input is on_input
    assert (
        taken[token] == swap.protocol_fee == 300_000 - (0 if on_input else 300_000 - taken[token])
    )
    assert funded[token] == swap.fund_fee > 0
    assert taken[1 - token] == funded[1 - token] == 0


@pytest.mark.parametrize(
    ("elapsed", "reference", "index", "timestamp"),
    [
        (0, 10_000, -3, NOW),
        (29, 10_000, -3, NOW),
        (30, 20_000, 0, NOW + 30),
        (299, 20_000, 0, NOW + 299),
        (300, 0, 0, NOW + 300),
    ],
)
def test_volatility_is_kept_then_decays_then_is_forgotten(
    elapsed: int, reference: int, index: int, timestamp: int
) -> None:
    pool = replace(INSIDE, dynamic_fee_info=VOLATILE)

    swap = quote_exact_in(pool, 10**6, True, NOW + elapsed)

    after = swap.pool.dynamic_fee_info
    assert after is not None
    assert after.volatility_reference == reference
    assert after.tick_spacing_index_reference == index
    assert after.last_update_timestamp == timestamp
    # It stayed in the spacing it began in.
    assert after.volatility_accumulator == reference + abs(index) * 10_000


def test_the_dynamic_fee_follows_the_square_of_the_distance() -> None:
    # Three spacings of 10 from the reference: ((10000 + 30000) * 10)^2 * 20000 / 10^13 is 320.
    pool = replace(INSIDE, dynamic_fee_info=VOLATILE)

    plain, dynamic = (quote_exact_in(each, 10**6, True, NOW) for each in (INSIDE, pool))

    assert (plain.fee, dynamic.fee) == (2500, 2820)


def test_the_fee_grows_at_every_spacing_and_ends_at_a_tenth() -> None:
    pool = replace(
        POOL, dynamic_fee_info=replace(VOLATILE, volatility_reference=0, dynamic_fee_control=99_999)
    )
    rates = []
    for tick in (-5, -15, -25, -99):
        swap = quote_exact_in(pool, 10**15, True, NOW, sqrt_price_at(tick))
        rates.append(Fraction(swap.fee, swap.amount_in))
        pool = replace(swap.pool, dynamic_fee_info=pool.dynamic_fee_info)

    # Towards the reference it falls, away from it it grows.
    assert rates[0] > rates[1] > rates[2] < rates[3] <= Fraction(1, 10)
    capped = replace(POOL, dynamic_fee_info=replace(VOLATILE, volatility_reference=350_000))
    most = replace(capped, trade_fee_rate=90_000)
    assert quote_exact_in(most, 10**6, True, NOW).fee == 100_000


def test_at_its_maximum_volatility_is_counted_again_only_at_the_next_tick() -> None:
    # Twenty spacings from the reference, and on the way back to it: every one of them would
    # cost less, but nothing is recounted before tick -100. 2500 + 20000 * 3500000^2 / 10^13.
    high = replace(VOLATILE, volatility_reference=300_000, tick_spacing_index_reference=-20)

    swap = quote_exact_in(
        replace(INSIDE, dynamic_fee_info=high), 10**15, True, NOW, sqrt_price_at(-95)
    )

    assert swap.fee == -(-swap.net_in * 27_000 // (1_000_000 - 27_000))
    assert swap.pool.dynamic_fee_info is not None
    assert swap.pool.dynamic_fee_info.volatility_accumulator == 350_000


@pytest.mark.parametrize(
    ("end", "spacings", "crossed"),
    [(507, 50, 2), (-507, 51, 2), (205, 20, 1), (-205, 21, 1), (200, 19, 1), (-200, 20, 1)],
)
def test_volatility_counts_the_spacings_of_a_jump(end: int, spacings: int, crossed: int) -> None:
    # Nothing but emptiness from 50 to 500, on both sides; a price limit may end the swap in it.
    calm = replace(
        VOLATILE,
        tick_spacing_index_reference=0,
        volatility_reference=0,
        max_volatility_accumulator=10**6,
    )
    ticks = ((-900, L), (-500, -L), (-50, L), (50, -L), (500, L), (900, -L))
    gap = replace(INSIDE, liquidity=L, ticks=ticks, dynamic_fee_info=calm)

    swap = quote_exact_in(gap, 10**18, end < 0, NOW, sqrt_price_at(end))

    after = swap.pool.dynamic_fee_info
    assert after is not None
    assert after.volatility_accumulator == spacings * 10_000
    assert swap.ticks_crossed == crossed


def test_an_account_without_a_dynamic_fee_holds_zeros() -> None:
    zeros = dict.fromkeys(VOLATILE.__struct_fields__, 0)
    fields = {name: getattr(POOL, name) for name in Pool.__struct_fields__}
    fields["ticks"] = [[1000, -L], [-1000, str(L)], [-100, L], [100, -L]]

    assert load({**fields, "dynamic_fee_info": zeros}) == POOL


def test_a_swap_through_more_ranges_than_a_transaction_passes_is_not_followed() -> None:
    ranges = [(-tick, 1 if tick % 2 else -1) for tick in range(10_000, 0, -1)]
    ladder = replace(POOL, tick_spacing=1, ticks=(*ranges, (1000, -2 * L)))

    for quote in (quote_exact_in, pay_exact_in, quote_exact_out):
        with pytest.raises(SwapFailed) as failure:
            quote(ladder, 10**12, True, NOW)
        assert failure.value.reason == "NOT_COMPUTED"
        assert str(MAX_STEPS) in str(failure.value)
    assert exact_in_curve(ladder, True, NOW)(10**12) == 0
    assert quote_exact_in(ladder, 10**4, True, NOW).ticks_crossed < MAX_STEPS


@pytest.mark.parametrize(("tick", "off"), [(0, -1), (0, 1), (5, -1), (5, 1)])
def test_a_price_outside_of_the_current_tick_is_no_pool(tick: int, off: int) -> None:
    edge = sqrt_price_at(tick if off < 0 else tick + 1)
    fields = asdict(replace(POOL, tick_current=tick, sqrt_price_x64=edge))
    fields["ticks"] = [list(row) for row in POOL.ticks]
    # A swap down ends at the upper edge, one up at the lower.
    assert load(fields).sqrt_price_x64 == edge

    with pytest.raises(InvalidSnapshot, match=r"^sqrt_price_x64: "):
        load(fields | {"sqrt_price_x64": edge + off})
