"""The choice: the route that nets the most and keeps the floor, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from msgspec.structs import replace

from engine.amm.fixed_point import ceil_div
from engine.failures import Failure
from engine.fractions import PPM
from engine.order import OrderRequest
from engine.route import MAX_SCORE_PPM, Candidate, Leg, Route, RouteDecision, VenueQuote, VenueScore
from engine.routing import reasons
from engine.routing.candidates import POOL_SHARE_LIMIT, Candidates, too_much_of_a_pool
from engine.routing.market import Market
from engine.routing.paths import Rules
from engine.routing.reasons import PPM_A_BPS, Written, in_base_units

NO_SCORES: Final[Mapping[str, VenueScore]] = MappingProxyType({})
DEFAULT_RULES: Final = Rules()
# How many are on record.
MAX_CANDIDATES: Final = 4


@dataclass(frozen=True, slots=True)
class NoOffer:
    """No route now: the record of it, the reason, and whether asking again can help."""

    decision: RouteDecision
    failure: Failure
    permanent: bool


def choose(
    request: OrderRequest,
    pinned_floor: int | None,
    market: Market,
    quotes: Sequence[VenueQuote],
    rules: Rules = DEFAULT_RULES,
    scores: Mapping[str, VenueScore] = NO_SCORES,
    max_price_impact_bps: int | None = None,
    written: Written = in_base_units,
) -> RouteDecision | NoOffer:
    """The route with the most net amount out that keeps the floor, or why there is none.

    `quotes` are those of venues that do not stream their pools, each a route of one leg; pools of
    the market may be combined. A route whose price impact is above the limit is none, and one that
    takes more of a pool than the market allows, if what the pool holds is known. Venues' past
    decides between routes that are about as good. Ties go to the lower price impact, then to the
    venue first in the alphabet. The floor is `pinned_floor` once there is one; before that the
    request's, from the winning route.
    """

    def floor_of(candidate: Candidate) -> int:
        return request.floor(_quoted(candidate)) if pinned_floor is None else pinned_floor

    ways = Candidates(request, market, rules, scores)
    limit = None if max_price_impact_bps is None else max_price_impact_bps * PPM_A_BPS
    remote = [
        _within_share(quote, market)
        for quote in quotes
        if not request.venues or quote.venue in request.venues
    ]
    # A venue's own word stands in for what the stream of its pools did not tell.
    told = {quote.venue for quote in remote}
    local = [q for q in ways.quotes(limit) if q.refusal is None or q.venue not in told]
    asked = tuple(sorted([*remote, *local], key=lambda quote: quote.venue))
    offered = [ways.single(quote) for quote in asked if quote.refusal is None]
    singles = _within(offered, limit)
    several = ways.several(max(singles, key=_net, default=None))
    if several is not None:
        offered.append(several)
    past = tuple(scores[quote.venue] for quote in asked if quote.venue in scores)
    if not offered:
        return _no_offer(asked, past)
    ranked = _ranked(_within(offered, limit))
    if not ranked:
        assert max_price_impact_bps is not None
        message = reasons.too_much_impact(offered, max_price_impact_bps)
        return _none_now(asked, past, Failure("RISK_LIMIT", message))
    winner = next((each for each in ranked if _quoted(each) >= floor_of(each)), None)
    if winner is None:
        best = max(ranked, key=_quoted)
        message = reasons.below_floor(best, floor_of(best), request.token_out, written)
        return _none_now(asked, past, Failure("PRICE_FLOOR_NOT_MET", message))
    floor = floor_of(winner)
    route = _with_floors(winner.route, request.token_out, floor)
    others = [each for each in ranked if each is not winner]
    why = reasons.why(winner, others, cost_is_known=ways.cost_is_known or not market.pools)
    candidates = (replace(winner, route=route), *others[: MAX_CANDIDATES - 1])
    return RouteDecision(asked, why, route, floor, candidates, past)


def _net(candidate: Candidate) -> int:
    return candidate.net_amount_out


def _quoted(candidate: Candidate) -> int:
    return candidate.route.quoted_amount_out


def _within_share(quote: VenueQuote, market: Market) -> VenueQuote:
    share_ppm = quote.pool_share_ppm
    if quote.refusal or share_ppm is None or share_ppm <= market.max_share_bps * PPM_A_BPS:
        return quote
    refusal = too_much_of_a_pool(quote.venue, share_ppm, market)
    return VenueQuote(quote.venue, quote.latency_microseconds, refusal=refusal)


def _within(candidates: Iterable[Candidate], limit: int | None) -> list[Candidate]:
    if limit is None:
        return list(candidates)
    return [each for each in candidates if each.price_impact_ppm <= limit]


def _ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The best first: the past counts only among those that are close to the best price."""
    best = max(candidates, key=_net, default=None)
    if best is None:
        return []
    close = best.net_amount_out - best.route.quoted_amount_out * MAX_SCORE_PPM // PPM

    def rank(candidate: Candidate) -> tuple[bool, int, int, str, str]:
        worth, far = candidate.net_amount_out, candidate.net_amount_out < close
        if not far:
            worth += candidate.route.quoted_amount_out * candidate.score_ppm // PPM
        first = candidate.route.legs[0]
        return far, -worth, candidate.price_impact_ppm, candidate.route.venue, first.pool

    return sorted(candidates, key=rank)


def _with_floors(route: Route, token_out: str, floor: int) -> Route:
    """The route's floor laid upon the legs that receive token_out, each as much as it is quoted.

    Rounded up, so they add up to no less; what a leg carries to the next one has its floor already.
    """
    whole = route.quoted_amount_out

    def floored(leg: Leg) -> Leg:
        if leg.mint_out != token_out:
            return leg
        quoted = leg.quoted_amount_out
        least = ceil_div(floor * quoted, whole)
        return Leg(
            leg.venue, leg.pool, leg.kind, leg.mint_in, leg.mint_out, leg.amount_in, quoted, least
        )

    return Route(tuple(map(floored, route.legs)), whole)


def _none_now(
    asked: tuple[VenueQuote, ...],
    past: tuple[VenueScore, ...],
    failure: Failure,
    *,
    permanent: bool = False,
) -> NoOffer:
    return NoOffer(RouteDecision(asked, failure.message, scores=past), failure, permanent)


def _no_offer(asked: tuple[VenueQuote, ...], past: tuple[VenueScore, ...]) -> NoOffer:
    permanent = all(quote.permanent for quote in asked)
    passing = {q.refusal.reason for q in asked if q.refusal and not q.permanent}
    if passing == {POOL_SHARE_LIMIT}:
        reason = POOL_SHARE_LIMIT
    elif not permanent:
        reason = "VENUE_UNAVAILABLE"
    elif {quote.refusal.reason for quote in asked if quote.refusal} == {"INSUFFICIENT_LIQUIDITY"}:
        reason = "INSUFFICIENT_LIQUIDITY"
    else:
        reason = "NO_ROUTE"
    failure = Failure(reason, reasons.nothing_offered(asked))
    return _none_now(asked, past, failure, permanent=permanent)
