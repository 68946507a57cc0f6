"""The route that an order would take now."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import NoRoute
from engine.order import OrderRequest
from engine.route import RouteDecision
from engine.routing import NoOffer, choose
from engine.venue import Venue, gather_quotes


class Routes:
    """Asks the venues on behalf of clients who only want to know."""

    def __init__(self, venues: Mapping[str, Venue], quote_timeout_seconds: float) -> None:
        self._venues = venues
        self._quote_timeout_seconds = quote_timeout_seconds

    async def preview(
        self, wanted: OrderRequest, max_price_impact_bps: int | None
    ) -> RouteDecision:
        """What the router would decide now; raises NoRoute when it could never choose any."""
        quotes = await gather_quotes(self._venues, wanted, "preview", self._quote_timeout_seconds)
        decision = choose(wanted, None, quotes, max_price_impact_bps)
        if not isinstance(decision, NoOffer):
            return decision
        if decision.permanent:
            raise NoRoute(
                decision.failure.message,
                **{q.venue: q.refusal.message for q in decision.decision.quotes if q.refusal},
            )
        return decision.decision
