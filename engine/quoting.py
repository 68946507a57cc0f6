"""Deciding on a route: from the pools' streams where they are trusted, else by asking."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Self

from msgspec.structs import replace

from engine.errors import Overloaded, Refused
from engine.failures import Failure
from engine.order import OrderRequest
from engine.pool_book import PoolBook
from engine.route import Route, RouteDecision, VenueQuote
from engine.routing import NoOffer, Rules, choose
from engine.routing.market import Market, share_ppm
from engine.store import Store
from engine.token import Tokens
from engine.v1 import venue_pb2 as pb
from engine.venue import Venue
from engine.venue_scores import VenueScores


class Quoter:
    """Decides for whoever wants to know: the router, and the gateway for previews."""

    def __init__(
        self,
        venues: Mapping[str, Venue],
        book: PoolBook,
        scores: VenueScores,
        rules: Rules,
        tokens: Tokens,
        quote_timeout_seconds: float,
    ) -> None:
        self._venues = venues
        self._book = book
        self._scores = scores
        self._rules = rules
        self._tokens = tokens
        self._quote_timeout_seconds = quote_timeout_seconds

    @classmethod
    def over(
        cls,
        venues: Mapping[str, Venue],
        store: Store,
        rules: Rules,
        *,
        quote_timeout_seconds: float,
        quote_locally: bool,
        max_slot_lag: int,
        max_pool_share_bps: int,
    ) -> Self:
        """One that knows how these venues did; not `quote_locally`: it asks for every quote."""
        book = PoolBook(venues if quote_locally else {}, max_slot_lag, max_pool_share_bps)
        return cls(venues, book, VenueScores(store), rules, store.tokens, quote_timeout_seconds)

    async def follow(self) -> None:
        """Keep pools and scores current, until cancelled."""
        async with asyncio.TaskGroup() as following:
            following.create_task(self._book.follow())
            following.create_task(self._scores.follow())

    def decide_here(
        self,
        request: OrderRequest,
        pinned_floor: int | None = None,
        max_price_impact_bps: int | None = None,
    ) -> RouteDecision | NoOffer | None:
        """The best route now, from the streamed pools alone; None when venues have to be asked.

        What a stream does not tell ends no order: a refusal for good is the venues' to give.
        """
        market, asked = self._known(request)
        if asked:
            return None
        offer = self._choose(request, pinned_floor, market, (), max_price_impact_bps)
        return None if isinstance(offer, NoOffer) and offer.permanent else offer

    async def decide(
        self,
        request: OrderRequest,
        pinned_floor: int | None = None,
        max_price_impact_bps: int | None = None,
        order_id: str = "preview",
    ) -> RouteDecision | NoOffer:
        """The best route now, or why there is none; `order_id` is for the venues' logs alone.

        Venues whose pools are not known from their streams are asked in parallel, under one
        deadline; those that fail or are late hold up nobody else. Before anything is refused for
        good, every venue is asked.
        """
        # Both of one moment: a venue that is not in the market is asked.
        market, asked = self._known(request)
        quotes = await self._ask(asked, request, order_id) if asked else []
        offer = self._choose(request, pinned_floor, market, quotes, max_price_impact_bps)
        rest = [name for name in self._allowed(request) if name not in asked]
        if isinstance(offer, NoOffer) and offer.permanent and rest:
            quotes += await self._ask(rest, request, order_id)
            offer = self._choose(request, pinned_floor, market, quotes, max_price_impact_bps)
        return offer

    def hinted(self, decision: RouteDecision) -> Route | None:
        """The decision's route, soon after it was made, with hints for whoever signs it.

        A leg has them where its venue's stream told all of them, and no quote was asked for.
        """
        route = decision.route
        if route is None:
            return None
        asked = [(quote.venue, quote.pool) for quote in decision.quotes if not quote.is_local]
        legs = [
            leg if (leg.venue, leg.pool) in asked else replace(leg, hints=self._book.hints(leg))
            for leg in route.legs
        ]
        return Route(tuple(legs), route.quoted_amount_out)

    def _allowed(self, request: OrderRequest) -> Sequence[str]:
        return request.venues or tuple(self._venues)

    def _known(self, request: OrderRequest) -> tuple[Market, list[str]]:
        """The market as it is now, and which venues have to be asked beside it."""
        pair = (request.token_in, request.token_out)
        market = self._book.market({*pair, *self._rules.intermediates})
        return market, self._book.beyond(market, self._allowed(request), pair)

    def _choose(
        self,
        request: OrderRequest,
        pinned_floor: int | None,
        market: Market,
        quotes: Sequence[VenueQuote],
        max_price_impact_bps: int | None,
    ) -> RouteDecision | NoOffer:
        return choose(
            request,
            pinned_floor,
            market,
            quotes,
            self._rules,
            self._scores.scores,
            max_price_impact_bps,
            self._tokens.written,
        )

    async def _ask(
        self, names: Sequence[str], request: OrderRequest, order_id: str
    ) -> list[VenueQuote]:
        """These venues' quotes or refusals, asked in parallel under one deadline.

        Never raises: a venue that fails or is late is in the list with its refusal, and holds up
        nobody else beyond the deadline.
        """
        timeout_seconds = self._quote_timeout_seconds
        query = pb.QuoteQuery(
            order_id=order_id,
            mint_in=request.token_in,
            mint_out=request.token_out,
            amount_in=request.amount_in,
        )
        asking = [
            asyncio.create_task(_quote(name, self._venues.get(name), query, timeout_seconds))
            for name in names
        ]
        try:
            await asyncio.wait(asking, timeout=timeout_seconds)
            return [
                self._measured(task.result(), request.token_out)
                if task.done()
                else _late(name, timeout_seconds)
                for name, task in zip(names, asking, strict=True)
            ]
        finally:
            for task in asking:
                task.cancel()

    def _measured(self, quote: VenueQuote, mint_out: str) -> VenueQuote:
        """With the part of its pool that it would take, where a stream tells what that holds."""
        depth = self._book.depth(quote.venue, quote.pool, mint_out)
        return replace(quote, pool_share_ppm=share_ppm(quote.amount_out, depth)) if depth else quote


async def _quote(
    name: str, venue: Venue | None, query: pb.QuoteQuery, timeout_seconds: float
) -> VenueQuote:
    started = time.perf_counter_ns()

    def latency() -> int:
        return (time.perf_counter_ns() - started) // 1000

    if venue is None:
        refusal = Failure("VENUE_UNKNOWN", f"{name} is not configured here")
        return VenueQuote(name, latency(), refusal=refusal, permanent=True)
    try:
        quote = await venue.quote(query, timeout_seconds)
    except Refused as error:
        refusal = Failure(error.reason, str(error))
        return VenueQuote(name, latency(), refusal=refusal, permanent=error.permanent)
    except Overloaded as error:
        return VenueQuote(name, latency(), refusal=Failure(error.reason, str(error)))
    return VenueQuote(
        name,
        latency(),
        pool=quote.pool,
        amount_out=quote.amount_out,
        fee=quote.fee,
        price_impact_ppm=quote.price_impact_ppm,
        slot=quote.slot,
        kind=quote.kind,
    )


def _late(name: str, timeout_seconds: float) -> VenueQuote:
    refusal = Failure("VENUE_TIMEOUT", f"{name} did not answer in {timeout_seconds:g} s")
    return VenueQuote(name, int(timeout_seconds * 1_000_000), refusal=refusal)
