"""How much of a pool a swap may take: the rest goes elsewhere, or there is no route for now."""

from __future__ import annotations

from msgspec.structs import replace

from bench.pools import market_of
from engine.failures import Failure
from engine.route import RouteDecision
from engine.routing import NoOffer, Rules, choose
from engine.routing.market import Market
from tests.engine.routing.ways import (
    ALIKE,
    REQUEST,
    a_pool,
    chosen,
    large,
    quote,
    refusal,
    routed,
)


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
    market = market_of(ALIKE, max_share_bps=96)

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
    for refused in refusals(decision).values():
        assert refused is not None
        assert refused.message.endswith(
            "would pay 195.60 bps of all it holds, MAX_POOL_SHARE_BPS allows 150"
        )


def test_a_pool_that_moves_its_price_little_is_no_way_out_where_too_much_of_it_is_taken() -> None:
    shallow = a_pool("shallow", 10**12, 16 * 10**10)
    # All that it holds lies around its price.
    empty = replace(a_pool("empty", 10**14, 15 * 10**12), reserve_b=2 * 10**9)
    market = market_of([shallow, empty], max_share_bps=5000)

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
    untold = [replace(each, reserve_a=0, reserve_b=0) for each in ALIKE]

    decision = routed(untold, request=large(10**14), max_share_bps=1)

    assert [quote.pool_share_ppm for quote in decision.quotes] == [None, None]
    assert chosen(decision).quoted_amount_out > 10**12
