"""The route that an order would take now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from msgspec.structs import replace

from engine.errors import NoRoute
from engine.order import DEFAULT_SLIPPAGE_BPS, OrderRequest
from engine.quoting import Quoter
from engine.route import ImpactPoint, RouteDecision
from engine.routing import NoOffer
from gateway.curve import FACTORS, curve
from gateway.route_pace import RoutePace

ROUTES_WITH_CURVE: Final = 1 + len(FACTORS)


class Routes:
    """Decides on behalf of clients who only want to know, each account at its pace."""

    def __init__(self, quoter: Quoter, pace: RoutePace) -> None:
        self._quoter = quoter
        self._pace = pace

    async def require(
        self, account: str, wanted: OrderRequest, max_price_impact_bps: int | None
    ) -> None:
        """Raise NoRoute unless the router would choose a route now; RateLimited."""
        self._pace.take(account, 1)
        offer = await self._quoter.decide(wanted, None, max_price_impact_bps)
        if isinstance(offer, NoOffer):
            raise _no_route(offer)

    async def preview(
        self, account: str, wanted: OrderRequest, max_price_impact_bps: int | None
    ) -> tuple[RouteDecision, list[ImpactPoint]]:
        """What the router would decide now, and what other amounts would yield, whatever their
        impact.

        Raises RateLimited, and NoRoute when it could never choose any.
        """
        self._pace.take(account, ROUTES_WITH_CURVE)
        given = wanted.slippage_bps
        slippage = DEFAULT_SLIPPAGE_BPS if given is None else given

        def decide(amount_in: int) -> Awaitable[RouteDecision | NoOffer]:
            # A floor of its own is one amount's; of others it says nothing.
            other = replace(wanted, amount_in=amount_in, min_amount_out=None, slippage_bps=slippage)
            return self._quoter.decide(other)

        offer, points = await asyncio.gather(
            self._quoter.decide(wanted, None, max_price_impact_bps), curve(wanted.amount_in, decide)
        )
        return _decision(offer), points


def _decision(offer: RouteDecision | NoOffer) -> RouteDecision:
    if not isinstance(offer, NoOffer):
        return offer
    if offer.permanent:
        raise _no_route(offer)
    return offer.decision


def _no_route(offer: NoOffer) -> NoRoute:
    refusals = {q.venue: q.refusal.message for q in offer.decision.quotes if q.refusal}
    return NoRoute(offer.failure.message, **(refusals or {"route": offer.failure.message}))
