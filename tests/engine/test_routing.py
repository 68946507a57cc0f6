"""Choosing a route: the best net amount, deterministic ties, the floor, and why there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bench.pools import MAX_SHARE_BPS, NOW, RAY, market, pool
from engine import network_cost
from engine.amm import raydium_amm_v4
from engine.amm.kinds import KINDS
from engine.failures import Failure
from engine.market import Market, Pool
from engine.order import OrderRequest
from engine.paths import USDT, direct, hops
from engine.route import Candidate, Leg, Route, RouteDecision, VenueQuote, VenueScore
from engine.routing import NoOffer, Rules, choose
from engine.split import best_split
from tests.builders import SOL, USDC

REQUEST = OrderRequest(SOL, USDC, 1_500_000_000, slippage_bps=100)


def quote(venue: str, amount_out: int, price_impact_ppm: int = 100) -> VenueQuote:
    return VenueQuote(venue, 1000, f"pool of {venue}", amount_out, 5, price_impact_ppm, 7)


def refusal(venue: str, reason: str = "VENUE_TIMEOUT", *, permanent: bool = False) -> VenueQuote:
    return VenueQuote(venue, 900, refusal=Failure(reason, f"{venue} said no"), permanent=permanent)


def route(
    *quotes: VenueQuote, request: OrderRequest = REQUEST, pinned: int | None = None
) -> RouteDecision:
    decision = choose(request, pinned, Market(), quotes)
    assert isinstance(decision, RouteDecision)
    return decision


def no_offer(
    *quotes: VenueQuote, request: OrderRequest = REQUEST, pinned: int | None = None
) -> NoOffer:
    decision = choose(request, pinned, Market(), quotes)
    assert isinstance(decision, NoOffer)
    return decision


def test_the_most_net_amount_out_wins_whatever_its_fee_or_impact() -> None:
    best = replace(quote("raydium", 1_000_001, price_impact_ppm=90_000), fee=10**9)

    decision = route(quote("meteora", 1_000_000, price_impact_ppm=0), best)

    assert decision.route is not None
    assert decision.route.quoted_amount_out == best.amount_out


def test_a_tie_goes_to_the_lower_price_impact() -> None:
    decision = route(quote("a", 100, price_impact_ppm=2), quote("b", 100, price_impact_ppm=1))

    assert decision.venue == "b"
    assert decision.why == "b and a offered the same; b has the lower price impact"


def test_a_tie_in_impact_too_goes_to_the_first_venue_in_the_alphabet() -> None:
    decision = route(quote("raydium", 100), quote("meteora", 100))

    assert decision.venue == "meteora"
    assert (
        decision.why == "meteora and raydium offered the same; meteora comes first in the alphabet"
    )


def test_the_reason_says_how_much_the_second_was_behind() -> None:
    decision = route(quote("raydium", 225_000_000), quote("meteora", 224_100_000), refusal("orca"))

    assert decision.why == "meteora offered 40.00 bps less than raydium"


def test_a_single_offer_says_that_it_was_the_only_one() -> None:
    decision = route(refusal("meteora"), quote("raydium", 100))

    assert decision.why == "raydium was the only venue with a quote"


def test_every_quote_and_refusal_is_on_record() -> None:
    asked = [quote("raydium", 100), refusal("meteora"), quote("orca", 99)]

    assert sorted(route(*asked).quotes, key=str) == sorted(asked, key=str)


# ── the floor ─────────────────────────────────────────────────────────────────────────────────


def test_the_first_floor_is_the_winning_quote_less_slippage() -> None:
    assert route(quote("raydium", 225_000_001), quote("meteora", 1)).min_amount_out == 222_750_001


def test_a_client_s_floor_replaces_slippage() -> None:
    request = replace(REQUEST, slippage_bps=None, min_amount_out=90)

    assert route(quote("raydium", 100), request=request).min_amount_out == 90


def test_a_pinned_floor_stays_whatever_is_quoted() -> None:
    assert route(quote("raydium", 10_000), pinned=90).min_amount_out == 90


@pytest.mark.parametrize("request_floor", [None, 5])
def test_a_quote_that_just_keeps_the_pinned_floor_is_taken(request_floor: int | None) -> None:
    request = replace(
        REQUEST, slippage_bps=100 if request_floor is None else None, min_amount_out=request_floor
    )

    assert route(quote("raydium", 90), request=request, pinned=90).venue == "raydium"


def test_a_fresh_quote_below_the_pinned_floor_is_no_route_yet() -> None:
    nothing = no_offer(quote("raydium", 89), quote("meteora", 88), pinned=90)

    assert nothing.failure.reason == "PRICE_FLOOR_NOT_MET"
    assert "89 base units from raydium, is below the floor of 90" in nothing.failure.message
    assert not nothing.permanent
    assert nothing.decision.venue is None
    assert len(nothing.decision.quotes) == 2


def test_a_quote_below_the_client_s_floor_is_no_route_yet() -> None:
    request = replace(REQUEST, slippage_bps=None, min_amount_out=90)

    assert no_offer(quote("raydium", 89), request=request).failure.reason == "PRICE_FLOOR_NOT_MET"


# ── no offer ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("quotes", "reason", "permanent"),
    [
        ([refusal("a"), refusal("b", "RATE_LIMITED")], "VENUE_UNAVAILABLE", False),
        ([refusal("a"), refusal("b", "NO_POOL", permanent=True)], "VENUE_UNAVAILABLE", False),
        ([refusal(v, "NO_POOL", permanent=True) for v in "ab"], "NO_ROUTE", True),
        (
            [refusal(v, "INSUFFICIENT_LIQUIDITY", permanent=True) for v in "ab"],
            "INSUFFICIENT_LIQUIDITY",
            True,
        ),
        (
            [
                refusal("a", "NO_POOL", permanent=True),
                refusal("b", "INSUFFICIENT_LIQUIDITY", permanent=True),
            ],
            "NO_ROUTE",
            True,
        ),
        ([refusal("a", "VENUE_UNKNOWN", permanent=True)], "NO_ROUTE", True),
        ([], "NO_ROUTE", True),
    ],
)
def test_only_refusals_that_are_all_permanent_make_it_permanent(
    quotes: list[VenueQuote], reason: str, permanent: bool
) -> None:
    nothing = no_offer(*quotes)

    assert (nothing.failure.reason, nothing.permanent) == (reason, permanent)
    assert nothing.decision.quotes == tuple(quotes)


def test_the_reason_repeats_what_every_venue_said() -> None:
    message = no_offer(refusal("raydium"), refusal("meteora")).failure.message

    assert (
        message == "no venue offered a quote (meteora: meteora said no; raydium: raydium said no)"
    )


# ── any quotes in any order ───────────────────────────────────────────────────────────────────

# Few distinct amounts and impacts, so that ties are common.
any_quotes = st.lists(
    st.one_of(
        st.builds(quote, st.sampled_from("abcde"), st.integers(1, 4), st.integers(0, 2)),
        st.builds(refusal, st.sampled_from("abcde"), permanent=st.booleans()),
    ),
    unique_by=lambda q: q.venue,
)
any_pinned = st.none() | st.integers(1, 5)


@settings(deadline=None)
@given(any_quotes, any_pinned, st.randoms(use_true_random=False))
def test_the_order_of_the_quotes_decides_nothing(
    quotes: list[VenueQuote], pinned: int | None, random: object
) -> None:
    shuffled = list(quotes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    assert choose(REQUEST, pinned, Market(), shuffled) == choose(REQUEST, pinned, Market(), quotes)


@settings(deadline=None)
@given(any_quotes.filter(lambda quotes: any(q.refusal is None for q in quotes)))
def test_no_other_quote_would_have_been_better(quotes: list[VenueQuote]) -> None:
    chosen = route(*quotes).route

    assert chosen is not None
    assert chosen.quoted_amount_out == max(q.amount_out for q in quotes)


# ── pools of the market ───────────────────────────────────────────────────────────────────────


def a_pool(
    address: str,
    reserve_a: int,
    reserve_b: int,
    mints: tuple[str, str] = (SOL, USDC),
    venue: str = "raydium",
) -> Pool:
    """Raydium's leanest kind: three of them fit into a transaction."""
    state = raydium_amm_v4.Pool(reserve_a, reserve_b, 25, 10_000)
    return Pool(venue, address, "raydium_amm_v4", *mints, state, 9, reserve_a, reserve_b)


def routed(
    pools: Sequence[Pool],
    *quotes: VenueQuote,
    request: OrderRequest = REQUEST,
    rules: Rules = Rules(),  # noqa: B008
    scores: Sequence[VenueScore] = (),
    max_price_impact_bps: int | None = None,
    max_share_bps: int = 10_000,
) -> RouteDecision:
    decision = choose(
        request,
        None,
        Market(pools, NOW, max_share_bps=max_share_bps),
        quotes,
        rules,
        {score.venue: score for score in scores},
        max_price_impact_bps,
    )
    assert isinstance(decision, RouteDecision)
    return decision


def chosen(decision: RouteDecision) -> Route:
    assert decision.route is not None
    return decision.route


def large(amount_in: int = 200_000_000_000) -> OrderRequest:
    return replace(REQUEST, amount_in=amount_in)


# Two alike, at a price of 150, each deep enough for 1.5 SOL and too shallow for 200.
ALIKE = [
    a_pool("one", 10**13, 15 * 10**11),
    a_pool("other", 10**13, 15 * 10**11, venue="meteora"),
]


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
    nothing = choose(REQUEST, None, Market([dry, far], NOW), [])

    assert isinstance(nothing, NoOffer)
    assert (nothing.failure.reason, nothing.permanent) == ("NO_ROUTE", True)
    refusals = [q.refusal for q in nothing.decision.quotes]
    assert [r.reason for r in refusals if r] == ["INSUFFICIENT_LIQUIDITY", "NO_POOL"]


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
        state = dataclasses.replace(
            state, collect_fee_mode=0, sqrt_min_price=state.sqrt_price * 99 // 100
        )
        return Pool("meteora", address, "meteora_damm_v2", SOL, USDC, state, 9)

    decision = routed([short("one"), short("other")], request=large(15 * 10**9))

    assert {leg.pool for leg in chosen(decision).legs} == {"one", "other"}
    [asked] = decision.quotes
    assert asked.refusal is not None
    assert asked.refusal.reason == "INSUFFICIENT_LIQUIDITY"
    assert decision.why.endswith("was the only way: no single pool was offered for it")


def test_no_pool_is_in_two_legs(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if four legs fitted: the best two ways both lead through the first pool.
    monkeypatch.setattr("engine.search.fits", lambda kinds, tokens: True)
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

    assert isinstance(choose(REQUEST, None, Market(pools, NOW), []), NoOffer)
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
    far = dataclasses.replace(ALIKE[0], mint_a=USDC, mint_b=SOL)
    request = OrderRequest(RAY, SOL, 10**6)

    decision = routed([far], heavy, light, request=request)

    assert decision.venue == "light"
    assert decision.why == "heavy nets 54.98 bps less than light after network cost"


def test_the_impact_limit_holds_for_single_pools_and_for_the_whole_route() -> None:
    impacts = [q.price_impact_ppm for q in routed(ALIKE, request=large()).quotes]
    assert impacts == [19_560, 19_560]

    # Half of it moves each price half as far.
    assert len(chosen(routed(ALIKE, request=large(), max_price_impact_bps=100)).legs) == 2
    nothing = choose(large(), None, Market(ALIKE, NOW), [], max_price_impact_bps=98)
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


# ── how much of a pool ────────────────────────────────────────────────────────────────────────


def refusals(decision: RouteDecision) -> dict[str, Failure | None]:
    return {quote.venue: quote.refusal for quote in decision.quotes}


def test_what_would_take_too_much_of_a_pool_goes_to_others() -> None:
    # The smaller one has the better price, of all amounts.
    pools = [
        a_pool("small", 10**12, 18 * 10**10),
        a_pool("large", 10**13, 15 * 10**11, venue="meteora"),
    ]

    def parts(max_share_bps: int) -> dict[str, int]:
        route = chosen(routed(pools, request=large(4 * 10**11), max_share_bps=max_share_bps))
        return {leg.pool: leg.quoted_amount_out for leg in route.legs}

    free, limited = parts(10_000), parts(500)
    assert free["small"] > 18 * 10**10 // 20
    assert 18 * 10**10 // 20 >= limited["small"] > 18 * 10**10 // 20 * 999 // 1000
    assert limited["large"] > free["large"]


def test_an_amount_that_only_three_pools_together_may_pay_is_split_over_three() -> None:
    pools = [a_pool(f"pool-{at}", 10**12, 15 * 10**10) for at in range(4)]

    # A third of it takes 28.5 % of each, a half 37.5 %.
    legs = chosen(routed(pools, request=large(12 * 10**11), max_share_bps=3000)).legs

    assert len(legs) == 3
    assert max(leg.quoted_amount_out for leg in legs) <= 45 * 10**9


def test_where_every_pool_would_have_to_pay_too_much_there_is_no_route_for_now() -> None:
    market = Market(ALIKE, NOW, max_share_bps=96)

    nothing = choose(large(), None, market, [])

    assert isinstance(nothing, NoOffer)
    assert (nothing.failure.reason, nothing.permanent) == ("POOL_SHARE_LIMIT", False)
    # Half of it in each would take 98.53 bps.
    assert nothing.failure.message == (
        "no venue offered a quote ("
        "meteora: the pool of meteora would pay 195.60 bps of all it holds, "
        "MAX_POOL_SHARE_BPS allows 96; "
        "raydium: the pool of raydium would pay 195.60 bps of all it holds, "
        "MAX_POOL_SHARE_BPS allows 96)"
    )
    reasons = [refusal and refusal.reason for refusal in refusals(nothing.decision).values()]
    assert reasons == ["POOL_SHARE_LIMIT"] * 2


def test_a_split_that_keeps_the_limit_has_on_record_why_no_pool_pays_it_alone() -> None:
    decision = routed(ALIKE, request=large(), max_share_bps=150)

    assert len(chosen(decision).legs) == 2
    assert decision.why.endswith("was the only way: no single pool was offered for it")
    for refusal in refusals(decision).values():
        assert refusal is not None
        assert refusal.message.endswith(
            "would pay 195.60 bps of all it holds, MAX_POOL_SHARE_BPS allows 150"
        )


def test_a_pool_that_moves_its_price_little_is_no_way_out_where_too_much_of_it_is_taken() -> None:
    shallow = a_pool("shallow", 10**12, 16 * 10**10)
    # All that it holds lies around its price.
    empty = replace(a_pool("empty", 10**14, 15 * 10**12), reserve_b=2 * 10**9)
    market = Market([shallow, empty], NOW, max_share_bps=5000)

    nothing = choose(large(10**10), None, market, [], Rules(max_legs=1), max_price_impact_bps=50)

    assert isinstance(nothing, NoOffer)
    assert nothing.failure.reason == "RISK_LIMIT"
    assert nothing.decision.quotes[0].pool == "shallow"


def test_a_quote_tells_what_part_of_its_pool_it_takes() -> None:
    decision = routed(ALIKE, request=large(), max_share_bps=3000)

    assert [quote.pool_share_ppm for quote in decision.quotes] == [19_560, 19_560]


def test_a_remote_quote_is_held_to_the_limit_where_it_is_known_what_its_pool_holds() -> None:
    known = replace(quote("orca", 10**9), pool_share_ppm=300_001)

    nothing = choose(REQUEST, None, Market(max_share_bps=3000), [known])
    taken = choose(REQUEST, None, Market(max_share_bps=3001), [known])
    unknown = choose(REQUEST, None, Market(max_share_bps=3000), [quote("orca", 10**9)])

    assert isinstance(nothing, NoOffer)
    assert (nothing.failure.reason, nothing.permanent) == ("POOL_SHARE_LIMIT", False)
    assert "orca would pay 3000.01 bps of all it holds" in nothing.failure.message
    assert isinstance(taken, RouteDecision)
    assert isinstance(unknown, RouteDecision)
    assert unknown.quotes[0].pool_share_ppm is None


def test_a_venue_that_is_away_is_waited_for_rather_than_the_limit_told() -> None:
    known = replace(quote("orca", 10**9), pool_share_ppm=300_001)

    nothing = choose(REQUEST, None, Market(max_share_bps=3000), [known, refusal("phoenix")])

    assert isinstance(nothing, NoOffer)
    assert (nothing.failure.reason, nothing.permanent) == ("VENUE_UNAVAILABLE", False)


def test_of_a_pool_that_no_one_tells_the_holdings_of_any_part_may_be_taken() -> None:
    untold = [dataclasses.replace(each, reserve_a=0, reserve_b=0) for each in ALIKE]

    decision = routed(untold, request=large(10**14), max_share_bps=1)

    assert [quote.pool_share_ppm for quote in decision.quotes] == [None, None]
    assert chosen(decision).quoted_amount_out > 10**12


# ── venues' past ──────────────────────────────────────────────────────────────────────────────


def past(venue: str, score_ppm: int) -> VenueScore:
    return VenueScore(venue, 100, 0, 0, 1000, score_ppm)


def test_the_past_decides_between_prices_that_are_close() -> None:
    quotes = quote("orca", 1_000_000), quote("phoenix", 999_500)

    decision = routed([], *quotes, scores=[past("orca", -400), past("phoenix", 200)])

    assert decision.venue == "phoenix"
    assert [(c.route.venue, c.score_ppm) for c in decision.candidates] == [
        ("phoenix", 200),
        ("orca", -400),
    ]
    assert decision.why == (
        "orca offered 5.00 bps more than phoenix, but by their past they count +2.00 and -4.00 bps"
    )
    assert [score.venue for score in decision.scores] == ["orca", "phoenix"]


def test_a_price_fifteen_basis_points_better_wins_against_the_best_of_pasts() -> None:
    quotes = quote("orca", 1_000_000), quote("phoenix", 998_500)

    decision = routed([], *quotes, scores=[past("orca", -1000), past("phoenix", 1000)])

    assert decision.venue == "orca"
    assert decision.why == "phoenix offered 15.00 bps less than orca"


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(997_000, 1_003_000), min_size=1),
    st.dictionaries(st.sampled_from("abcde"), st.integers(-(10**6), 10**6)),
)
def test_no_past_overrides_a_price_that_is_better_by_more_than_ten_basis_points(
    amounts: dict[str, int], scores: dict[str, int]
) -> None:
    quotes = [quote(venue, amount) for venue, amount in amounts.items()]

    decision = routed([], *quotes, scores=[past(*each) for each in scores.items()])

    best = max(amounts.values())
    assert chosen(decision).quoted_amount_out >= best - best // 1000
    assert all(-1000 <= candidate.score_ppm <= 1000 for candidate in decision.candidates)


# ── any market ────────────────────────────────────────────────────────────────────────────────

seeds = st.integers(0, 2**32)
sizes = st.integers(0, 2).flatmap(lambda more: st.integers(10**4, 10 ** (10 + 2 * more)))
spreads = st.sampled_from((0.0005, 0.01))
several = st.sampled_from(((SOL, USDC), (USDC, SOL), (SOL, RAY), (USDT, SOL), (RAY, USDT)))
any_venues = st.sampled_from(((), (), ("raydium",), ("meteora",), ("meteora", "orca")))
in_any_market = settings(max_examples=80, deadline=None)


@in_any_market
@given(seeds, spreads, sizes, several, any_venues, st.integers(1, 3), st.integers(0, 5000))
def test_a_route_pays_what_it_promises_when_its_legs_are_swapped(
    seed: int,
    spread: float,
    amount: int,
    mints: tuple[str, str],
    venues: tuple[str, ...],
    max_legs: int,
    slippage_bps: int,
) -> None:
    everything = market(Random(seed), spread)
    request = OrderRequest(*mints, amount, slippage_bps=slippage_bps, venues=venues)
    rules = Rules(max_legs=max_legs, intermediates=(SOL, USDC, USDT, RAY))
    decision = choose(request, None, everything, [quote("orca", 1)], rules)
    assert decision == choose(
        request, None, market(Random(seed), spread), [quote("orca", 1)], rules
    )
    if isinstance(decision, NoOffer):
        return
    route, floor = chosen(decision), decision.min_amount_out
    assert floor is not None
    assert decision.candidates[0].route == route
    assert len(decision.candidates) <= 4
    if decision.venue == "orca":
        return

    assert len(route.legs) <= max_legs
    tokens = {leg.mint_in for leg in route.legs} | {leg.mint_out for leg in route.legs}
    assert network_cost.fits([leg.kind for leg in route.legs], len(tokens))
    assert len({leg.pool for leg in route.legs}) == len(route.legs)
    assert {leg.venue for leg in route.legs} <= set(venues or ("raydium", "meteora"))
    assert sum(leg.amount_in for leg in route.legs if leg.mint_in == mints[0]) == amount
    last = [leg for leg in route.legs if leg.mint_out == mints[1]]
    assert sum(leg.quoted_amount_out for leg in last) == route.quoted_amount_out
    assert sum(leg.min_amount_out for leg in last) >= floor
    wallet = {mints[0]: amount}
    for leg in route.legs:
        swapped_leg(everything, leg, wallet)
    assert wallet[mints[1]] == route.quoted_amount_out
    assert min(wallet.values()) >= 0


def swapped_leg(everything: Market, leg: Leg, wallet: dict[str, int]) -> None:
    """Swap it in the pool as it is in the market: no pool is in two legs."""
    pool = everything.pools[leg.pool]
    assert {leg.mint_in, leg.mint_out} == pool.pair
    forward = leg.mint_in == pool.mint_a
    held = pool.reserve_b if forward else pool.reserve_a
    assert leg.quoted_amount_out <= held * MAX_SHARE_BPS // 10_000
    swap = KINDS[pool.kind].quote_exact_in(pool.state, leg.amount_in, forward, everything.now)
    assert swap.amount_out == leg.quoted_amount_out >= leg.min_amount_out > 0
    wallet[leg.mint_in] -= leg.amount_in
    # What a leg carries to the next one is its floor; the rest counts as nothing.
    wallet[leg.mint_out] = wallet.get(leg.mint_out, 0) + swap.amount_out


@in_any_market
@given(seeds, spreads, sizes, several)
def test_nothing_that_was_not_searched_would_have_been_better(
    seed: int, spread: float, amount: int, mints: tuple[str, str]
) -> None:
    everything = market(Random(seed), spread, max_share_bps=10_000)
    rules = Rules(intermediates=(SOL, USDC, USDT, RAY))
    decision = choose(OrderRequest(*mints, amount), None, everything, [], rules)
    if isinstance(decision, NoOffer):
        return
    winner = decision.candidates[0]

    paths = [*map(direct, everything.offers(*mints)), *hops(everything, *mints, rules, (), -1)]
    paths.sort(key=lambda path: -path.amount_out(amount))
    paths = paths[:12]

    def cost(indexes: Sequence[int]) -> int | None:
        kinds = [kind for index in indexes for kind in paths[index].kinds]
        pools = [address for index in indexes for address in paths[index].addresses]
        if len(kinds) > 3 or len(set(pools)) < len(pools) or not network_cost.fits(kinds):
            return None
        return costs(winner, kinds)

    best = best_split([path.amount_out for path in paths], amount, 3, cost)
    assert best is not None
    # Rounding, and what a leg more must gain.
    allowance = 3 + best.amount_out * 2 * rules.least_gain_ppm // 1_000_000
    assert winner.net_amount_out >= best.net - allowance


def costs(winner: Candidate, kinds: Sequence[str]) -> int:
    """What another way costs, by what the winner does."""
    lamports = network_cost.fee_lamports(list(kinds))
    return -(-winner.network_cost * lamports // winner.network_fee_lamports)


def test_what_is_recorded_of_a_decision_repeats_no_quote() -> None:
    plain = routed([ALIKE[0]], quote("orca", 1))
    split = routed(ALIKE, request=large())
    heavy = replace(quote("heavy", 1_000_002), kind="meteora_dlmm")
    light = replace(quote("light", 1_000_000), kind="raydium_amm_v4")
    far = dataclasses.replace(ALIKE[0], mint_a=USDC, mint_b=SOL)
    dear = routed([far], heavy, light, request=OrderRequest(RAY, SOL, 10**6))

    assert plain.candidates
    assert plain.on_record == replace(plain, candidates=())
    # What a split pays, and what a network fee decided, no quote tells.
    assert split.on_record == split
    assert dear.on_record == dear


def test_pools_that_would_pay_more_together_than_an_amount_can_be_are_no_split() -> None:
    most = 2**64 - 1
    state = raydium_amm_v4.Pool(10**9, most, 25, 10_000)
    pools = [Pool("raydium", at, "raydium_amm_v4", SOL, USDC, state, 1) for at in ("a", "b")]

    decision = choose(OrderRequest(SOL, USDC, 10**12), None, Market(pools, NOW), [])

    assert isinstance(decision, RouteDecision)
    assert decision.route is not None
    assert len(decision.route.legs) == 1
    assert most // 2 < decision.route.quoted_amount_out <= most
