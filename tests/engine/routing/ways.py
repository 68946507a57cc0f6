"""Requests, quotes and pools, and the routes chosen from them."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from bench.pools import market_of
from engine.amm import raydium_amm_v4
from engine.failures import Failure
from engine.order import OrderRequest
from engine.route import Route, RouteDecision, VenueQuote, VenueScore
from engine.routing import NoOffer, Rules, choose
from engine.routing.market import Market, Pool
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
        market_of(pools, max_share_bps=max_share_bps),
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
