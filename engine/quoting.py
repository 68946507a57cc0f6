"""Deciding on a route: from the pools' streams where they are trusted, else by asking."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from engine.order import OrderRequest
from engine.pool_book import PoolBook
from engine.route import RouteDecision, VenueQuote
from engine.routing import NoOffer, Rules, choose
from engine.venue import Venue, gather_quotes
from engine.venue_scores import VenueScores


class Quoter:
    """Decides for whoever wants to know: the router, and the gateway for previews."""

    def __init__(
        self,
        venues: Mapping[str, Venue],
        book: PoolBook,
        scores: VenueScores,
        rules: Rules,
        quote_timeout_seconds: float,
    ) -> None:
        self._venues = venues
        self._book = book
        self._scores = scores
        self._rules = rules
        self._quote_timeout_seconds = quote_timeout_seconds

    async def follow(self) -> None:
        """Keep pools and scores current, until cancelled."""
        async with asyncio.TaskGroup() as following:
            following.create_task(self._book.follow())
            following.create_task(self._scores.follow())

    async def decide(
        self,
        request: OrderRequest,
        pinned_floor: int | None = None,
        max_price_impact_bps: int | None = None,
        order_id: str = "preview",
    ) -> RouteDecision | NoOffer:
        """The best route now, or why there is none; `order_id` is for the venues' logs alone.

        Venues whose pools are not known from their streams are asked in parallel, under one
        deadline; those that fail or are late hold up nobody else. What a stream does not tell
        ends no order: before anything is refused for good, every venue is asked.
        """
        names = request.venues or tuple(self._venues)
        pair = (request.token_in, request.token_out)
        # Both of one moment: a venue that is not in the market is asked.
        market = self._book.market({*pair, *self._rules.intermediates})
        asked = self._book.beyond(market, names, pair)

        async def ask(some: Sequence[str]) -> Sequence[VenueQuote]:
            return await gather_quotes(
                self._venues, some, request, order_id, self._quote_timeout_seconds
            )

        def chosen(quotes: Sequence[VenueQuote]) -> RouteDecision | NoOffer:
            return choose(
                request,
                pinned_floor,
                market,
                quotes,
                self._rules,
                self._scores.scores,
                max_price_impact_bps,
            )

        quotes = await ask(asked) if asked else ()
        offer = chosen(quotes)
        rest = [name for name in names if name not in asked]
        if isinstance(offer, NoOffer) and offer.permanent and rest:
            offer = chosen([*quotes, *await ask(rest)])
        return offer
