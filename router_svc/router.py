"""Routes orders: asks every venue in parallel, takes the best net price, pins the floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from engine.accounts import Accounts
from engine.lifecycle import Status
from engine.order import Order, Transition
from engine.relay import Begun, Relay
from engine.route import VenueQuote
from engine.routing import NoOffer, choose
from engine.store import Store
from engine.trading import TradingSwitch
from engine.venue import Venue, gather_quotes


class Router:
    """Moves an order from PENDING or ROUTING to a chosen route."""

    def __init__(
        self,
        store: Store,
        relay: Relay,
        venues: Mapping[str, Venue],
        switch: TradingSwitch,
        accounts: Accounts,
        *,
        quote_timeout_seconds: float,
    ) -> None:
        self._store = store
        self._relay = relay
        self._venues = venues
        self._switch = switch
        self._accounts = accounts
        self._quote_timeout_seconds = quote_timeout_seconds

    async def route(self, order_id: UUID) -> None:
        """Take the order's next routing step, if it has one; safe to repeat and to race.

        Raises StaleOrder when somebody else moved the order meanwhile.
        """
        order = await self._store.get(order_id)
        if order is None or order.status not in (Status.PENDING, Status.ROUTING):
            return
        if order.backing_off:
            return
        if order.past_expiry:
            await self._relay.commit(order.expire())
            return
        if self._switch.halted:
            return  # it waits, and is offered again when trading goes on
        if order.route is not None:
            await self._relay.offer([order])
            return
        # Quotes change nothing, so they need not wait for the commit that says we ask for them.
        quoting = gather_quotes(
            self._venues, order.request, str(order_id), self._quote_timeout_seconds
        )
        if order.status is Status.PENDING:
            begun, quotes = await self._relay.during(order.start_routing(), quoting)
        else:
            begun, quotes = Begun(order, None), await quoting
        limits = self._accounts.limits(order.account)
        step = _step(begun.order, quotes, limits.max_price_impact_bps)
        await self._relay.commit(begun.then(step))


def _step(
    order: Order, quotes: Sequence[VenueQuote], max_price_impact_bps: int | None
) -> Transition:
    decision = choose(order.request, order.min_amount_out, quotes, max_price_impact_bps)
    if not isinstance(decision, NoOffer):
        return order.choose_route(decision)
    if decision.permanent:
        return order.fail(decision.failure, decision.decision)
    return order.retry_or_fail(decision.failure, decision.decision)
