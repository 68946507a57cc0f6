"""The ways through the pools of the market, and what they cost."""

from __future__ import annotations

from random import Random

import pytest
from msgspec.structs import replace

from bench.pools import market_of, pool
from engine import network_cost
from engine.mints import RAY, USDT
from engine.order import OrderRequest
from engine.routing import NoOffer, Rules, choose
from engine.routing.market import Pool
from tests.builders import SOL, USDC
from tests.engine.routing.ways import (
    ALIKE,
    REQUEST,
    a_pool,
    chosen,
    large,
    quote,
    routed,
)


def test_a_streamed_venue_is_quoted_by_its_best_pool() -> None:
    decision = routed([*ALIKE, a_pool("poor", 10**13, 14 * 10**11)])

    meteora, raydium = decision.quotes
    assert (raydium.venue, raydium.pool, raydium.kind) == ("raydium", "one", "raydium_amm_v4")
    assert raydium.is_local
    assert raydium.latency_microseconds == 0
    assert raydium.slot == 9
    assert raydium.fee == 3_750_000  # a quarter of a percent of 1.5 SOL
    assert raydium.price_impact_ppm == 150  # 1.5 of 10,000 SOL
    assert (meteora.pool, meteora.amount_out) == ("other", raydium.amount_out)


def test_what_a_venue_was_asked_for_stands_beside_what_its_stream_tells() -> None:
    decision = routed(ALIKE, quote("raydium", 10**12), quote("orca", 1))

    told = {(q.venue, q.is_local) for q in decision.quotes}
    assert told == {
        ("meteora", True),
        ("orca", False),
        ("raydium", False),
        ("raydium", True),
    }
    assert chosen(decision).quoted_amount_out == 10**12


def test_a_streamed_venue_without_a_pool_or_without_liquidity_refuses_for_good() -> None:
    dry = a_pool("dry", 0, 10**12, venue="meteora")
    far = a_pool("far", 10**12, 10**12, (SOL, RAY))
    nothing = choose(REQUEST, None, market_of([dry, far]), [])

    assert isinstance(nothing, NoOffer)
    assert (nothing.failure.reason, nothing.permanent) == ("NO_ROUTE", True)
    refusals = [q.refusal for q in nothing.decision.quotes]
    assert [r.reason for r in refusals if r] == ["INSUFFICIENT_LIQUIDITY", "NO_POOL"]


def test_an_amount_that_buys_nothing_is_told_as_too_small() -> None:
    nothing = choose(large(1), None, market_of([a_pool("pool", 10**12, 10**9)]), [])

    assert isinstance(nothing, NoOffer)
    assert (nothing.failure.reason, nothing.permanent) == ("INSUFFICIENT_LIQUIDITY", True)
    assert "raydium would pay nothing for so small an amount" in nothing.failure.message


def test_a_small_order_stays_in_one_pool() -> None:
    decision = routed(ALIKE, request=large(1_000_000))

    assert len(chosen(decision).legs) == 1


def test_a_large_order_is_split_and_told_to_be() -> None:
    decision = routed(ALIKE, request=large())

    route = chosen(decision)
    assert decision.venue == "meteora+raydium"
    assert {leg.pool for leg in route.legs} == {"one", "other"}
    for leg in route.legs:
        assert leg.amount_in == pytest.approx(10**11, rel=1e-3)
    assert decision.why == (
        "a split of 50.0 % over meteora raydium_amm_v4 and 50.0 % over raydium raydium_amm_v4 "
        "nets 97.79 bps more than the best single pool, at meteora, "
        "after 500 lamports for the extra leg"
    )


def test_a_worse_pool_takes_its_part_once_the_better_one_s_price_has_fallen_below_its_own() -> None:
    # The better one pays 151.5 at first, 148.5 on average, and 145.6 at the end.
    better = a_pool("better", 10**13, 1515 * 10**9)
    worse = a_pool("worse", 10**13, 147 * 10**10)

    first, second = chosen(routed([better, worse], request=large())).legs

    assert (first.pool, second.pool) == ("better", "worse")
    assert 50 < first.amount_in * 10 // second.amount_in < 90


def test_what_no_pool_can_fill_alone_is_split() -> None:
    def short(address: str) -> Pool:
        state = pool("meteora_damm_v2", 0.15, 10**12, Random(1))
        # It ends where its price has fallen by 2 %, after some 10^10 lamports.
        state = replace(state, collect_fee_mode=0, sqrt_min_price=state.sqrt_price * 99 // 100)
        return Pool("meteora", address, "meteora_damm_v2", SOL, USDC, state, 9)

    decision = routed([short("one"), short("other")], request=large(15 * 10**9))

    assert {leg.pool for leg in chosen(decision).legs} == {"one", "other"}
    [asked] = decision.quotes
    assert asked.refusal is not None
    assert asked.refusal.reason == "INSUFFICIENT_LIQUIDITY"
    assert decision.why.endswith("was the only way: no single pool was offered for it")


def test_no_pool_is_in_two_legs(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if four legs fitted: the best two ways both lead through the first pool.
    monkeypatch.setattr("engine.routing.search.fits", lambda kinds, tokens: True)
    pools = [
        a_pool("first", 10**14, 15 * 10**12, (SOL, USDT)),
        a_pool("second", 10**11, 10**11, (USDT, USDC)),
        a_pool("third", 10**11, 10**11, (USDT, USDC)),
        a_pool("direct", 10**11, 15 * 10**9),
    ]

    decision = routed(pools, request=large(10**12), rules=Rules(max_legs=4))

    pool_of_leg = [leg.pool for leg in chosen(decision).legs]
    assert sorted(pool_of_leg) in (["direct", "first", "second"], ["direct", "first", "third"])


def test_no_more_legs_are_taken_than_allowed() -> None:
    pools = [a_pool(f"pool-{at}", 10**12, 15 * 10**10) for at in range(5)]

    def legs(most: int) -> int:
        return len(chosen(routed(pools, request=large(), rules=Rules(max_legs=most))).legs)

    assert [legs(most) for most in (1, 2, 3, 4)] == [1, 2, 3, 4]


def test_a_way_by_another_token_is_found_where_no_venue_has_the_pair() -> None:
    pools = [
        a_pool("first", 10**13, 15 * 10**11, (SOL, USDT)),
        a_pool("second", 10**12, 10**12, (USDT, USDC), venue="meteora"),
    ]

    decision = routed(pools)

    first, second = chosen(decision).legs
    assert (first.mint_in, first.mint_out, second.mint_in, second.mint_out) == (
        *(SOL, USDT),
        *(USDT, USDC),
    )
    assert first.min_amount_out == second.amount_in == first.quoted_amount_out * 9980 // 10_000
    assert second.min_amount_out == decision.min_amount_out
    assert [q.refusal and q.refusal.reason for q in decision.quotes] == ["NO_POOL", "NO_POOL"]
    assert decision.why == (
        "a route over raydium raydium_amm_v4 then meteora raydium_amm_v4 "
        "was the only way: no single pool was offered for it"
    )
    # 150 ppm of the first pool, and 224 of the second.
    assert decision.candidates[0].price_impact_ppm == 374


def test_by_way_of_a_token_that_is_not_among_the_rules_there_is_none() -> None:
    pools = [
        a_pool("first", 10**13, 10**12, (SOL, RAY)),
        a_pool("second", 10**12, 10**12, (RAY, USDC)),
    ]

    assert isinstance(choose(REQUEST, None, market_of(pools), []), NoOffer)
    assert len(chosen(routed(pools, rules=Rules(intermediates=(RAY,)))).legs) == 2


def test_a_remote_quote_that_is_better_than_all_pools_together_wins() -> None:
    split = routed(ALIKE, request=large())
    better = quote("orca", chosen(split).quoted_amount_out + 10**8)

    decision = routed(ALIKE, better, request=large())

    assert decision.venue == "orca"
    assert decision.candidates[0].route == chosen(decision)


def test_an_order_s_venues_are_all_that_is_used() -> None:
    request = replace(large(), venues=("raydium", "orca"))

    decision = routed(ALIKE, quote("orca", 1), quote("phoenix", 10**12), request=request)

    assert decision.venue == "raydium"
    assert [q.venue for q in decision.quotes] == ["orca", "raydium"]


def test_the_network_s_fee_is_told_in_the_token_received() -> None:
    [candidate, *_] = routed(ALIKE, request=large(10**6)).candidates

    # A lamport is 0.15 base units of USDC, less a quarter of a percent and rounded up.
    assert candidate.network_fee_lamports == network_cost.fee_lamports(["raydium_amm_v4"]) == 5700
    assert candidate.network_cost == 853
    selling = OrderRequest(USDC, SOL, 10**9)
    assert (
        routed(ALIKE, request=selling, rules=Rules(max_legs=1)).candidates[0].network_cost == 5700
    )


def test_the_fee_is_told_by_way_of_another_token_if_need_be() -> None:
    pools = [*ALIKE, a_pool("stable", 10**12, 10**12, (USDC, USDT))]
    selling = OrderRequest(USDC, USDT, 10**9)

    assert routed(pools, request=selling).candidates[0].network_cost == 851


def test_a_fee_that_nothing_prices_is_left_out_and_said_to_be() -> None:
    pools = [
        a_pool("one", 10**12, 10**12, (USDC, RAY)),
        a_pool("other", 10**12, 10**12, (USDC, RAY), venue="meteora"),
    ]

    decision = routed(pools, request=OrderRequest(USDC, RAY, 10**6))

    assert decision.candidates[0].network_cost == 0
    assert decision.why.endswith(
        "; network cost is not counted, as no pool tells what a lamport is worth"
    )


def test_a_dear_pool_may_lose_to_a_cheap_one_by_its_network_fee() -> None:
    # Alike but for two base units more, which the heavier program's fee takes.
    heavy = replace(quote("heavy", 1_000_002), kind="meteora_dlmm")
    light = replace(quote("light", 1_000_000), kind="raydium_amm_v4")
    far = replace(ALIKE[0], mint_a=USDC, mint_b=SOL)
    request = OrderRequest(RAY, SOL, 10**6)

    decision = routed([far], heavy, light, request=request)

    assert decision.venue == "light"
    assert decision.why == "heavy nets 54.98 bps less than light after network cost"


def test_the_impact_limit_holds_for_single_pools_and_for_the_whole_route() -> None:
    impacts = [q.price_impact_ppm for q in routed(ALIKE, request=large()).quotes]
    assert impacts == [19_560, 19_560]

    # Half of it moves each price half as far.
    assert len(chosen(routed(ALIKE, request=large(), max_price_impact_bps=100)).legs) == 2
    nothing = choose(large(), None, market_of(ALIKE), [], max_price_impact_bps=98)
    assert isinstance(nothing, NoOffer)
    assert nothing.failure.reason == "RISK_LIMIT"
    assert nothing.failure.message.endswith("meteora 195.60, raydium 195.60, meteora+raydium 98.77")


def test_a_venue_s_second_pool_is_quoted_where_the_best_moves_its_price_too_far() -> None:
    shallow = a_pool("shallow", 10**12, 16 * 10**10)
    deep = a_pool("deep", 10**14, 15 * 10**12)
    request = large(10**10)

    assert (
        chosen(routed([shallow, deep], request=request, rules=Rules(max_legs=1))).legs[0].pool
        == "shallow"
    )
    limited = routed([shallow, deep], request=request, max_price_impact_bps=50)
    assert limited.quotes[0].pool == "deep"
