"""Choosing a route from quotes: pure, so the router decides with it and the gateway previews."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from engine.failures import Failure
from engine.order import OrderRequest
from engine.route import Leg, Route, RouteDecision, VenueQuote

PPM_A_BPS: Final = 100
# What a venue that does not say it has pools of.
DEFAULT_KIND: Final = {"raydium": "raydium_cpmm", "meteora": "meteora_dlmm"}


@dataclass(frozen=True, slots=True)
class NoOffer:
    """No route now: the record of it, the reason, and whether asking again can help."""

    decision: RouteDecision
    failure: Failure
    permanent: bool


def choose(
    request: OrderRequest,
    pinned_floor: int | None,
    quotes: Sequence[VenueQuote],
    max_price_impact_bps: int | None = None,
) -> RouteDecision | NoOffer:
    """The quote with the most net amount out that keeps the floor, or why there is none.

    A quote whose price impact is above the limit is none. Ties go to the lower price impact, then
    to the venue first in the alphabet. The floor is `pinned_floor` once there is one; before that
    the request's, from the winning quote.
    """
    asked = tuple(sorted(quotes, key=lambda quote: quote.venue))
    offers = sorted(
        (quote for quote in asked if quote.refusal is None),
        key=lambda quote: (-quote.amount_out, quote.price_impact_ppm, quote.venue),
    )
    if not offers:
        return _no_offer(asked)
    if max_price_impact_bps is not None:
        offers = [q for q in offers if q.price_impact_ppm <= max_price_impact_bps * PPM_A_BPS]
        if not offers:
            return _too_much_impact(asked, max_price_impact_bps)
    best = offers[0]
    floor = request.floor(best.amount_out) if pinned_floor is None else pinned_floor
    if best.amount_out < floor:
        message = (
            f"the best quote, {best.amount_out} base units from {best.venue}, "
            f"is below the floor of {floor}"
        )
        return NoOffer(
            RouteDecision(asked, message),
            Failure("PRICE_FLOOR_NOT_MET", message),
            permanent=False,
        )
    leg = Leg(
        best.venue,
        best.pool,
        best.kind or DEFAULT_KIND.get(best.venue, ""),
        request.token_in,
        request.token_out,
        request.amount_in,
        best.amount_out,
        floor,
    )
    route = Route((leg,), best.amount_out)
    return RouteDecision(asked, _why(best, offers[1:]), route, floor)


def _why(best: VenueQuote, others: Sequence[VenueQuote]) -> str:
    if not others:
        return f"{best.venue} was the only venue with a quote"
    second = others[0]
    if second.amount_out == best.amount_out:
        rule = (
            "has the lower price impact"
            if second.price_impact_ppm > best.price_impact_ppm
            else "comes first in the alphabet"
        )
        return f"{best.venue} and {second.venue} offered the same; {best.venue} {rule}"
    # In hundredths of a basis point, integers throughout.
    lead = (best.amount_out - second.amount_out) * 1_000_000 // best.amount_out
    return f"{second.venue} offered {lead // 100}.{lead % 100:02d} bps less than {best.venue}"


def _too_much_impact(asked: Sequence[VenueQuote], limit_bps: int) -> NoOffer:
    impacts = ", ".join(
        f"{quote.venue} {quote.price_impact_ppm // PPM_A_BPS}.{quote.price_impact_ppm % 100:02d}"
        for quote in asked
        if quote.refusal is None
    )
    message = (
        f"every quote's price impact is above the account's limit of {limit_bps} bps: {impacts}"
    )
    decision = RouteDecision(tuple(asked), message)
    return NoOffer(decision, Failure("RISK_LIMIT", message), permanent=False)


def _no_offer(asked: Sequence[VenueQuote]) -> NoOffer:
    refusals = [(quote.venue, quote.refusal) for quote in asked if quote.refusal is not None]
    words = "; ".join(f"{venue}: {refusal.message}" for venue, refusal in refusals)
    message = f"no venue offered a quote ({words})" if words else "no venue was asked"
    permanent = all(quote.permanent for quote in asked)
    if not permanent:
        reason = "VENUE_UNAVAILABLE"
    elif {refusal.reason for _, refusal in refusals} == {"INSUFFICIENT_LIQUIDITY"}:
        reason = "INSUFFICIENT_LIQUIDITY"
    else:
        reason = "NO_ROUTE"
    return NoOffer(RouteDecision(tuple(asked), message), Failure(reason, message), permanent)
