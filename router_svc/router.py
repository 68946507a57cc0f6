"""Routes orders: takes the best net price over all venues, and pins the floor."""

from __future__ import annotations

from uuid import UUID

from engine.accounts import Accounts
from engine.lifecycle import Status
from engine.order import Order, Transition
from engine.quoting import Quoter
from engine.relay import Begun, Relay
from engine.route import RouteDecision
from engine.routing import NoOffer
from engine.store import Store
from engine.trading import TradingSwitch


class Router:
    """Moves an order from PENDING or ROUTING to a chosen route."""

    def __init__(
        self,
        store: Store,
        relay: Relay,
        quoter: Quoter,
        switch: TradingSwitch,
        accounts: Accounts,
    ) -> None:
        self._store = store
        self._relay = relay
        self._quoter = quoter
        self._switch = switch
        self._accounts = accounts

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
        deciding = self._quoter.decide(
            order.request,
            order.min_amount_out,
            self._accounts.limits(order.account).max_price_impact_bps,
            str(order_id),
        )
        if order.status is Status.PENDING:
            begun, decision = await self._relay.during(order.start_routing(), deciding)
        else:
            begun, decision = Begun(order, None), await deciding
        await self._relay.commit(begun.then(self._step(begun.order, decision)))

    def _step(self, order: Order, decision: RouteDecision | NoOffer) -> Transition:
        if not isinstance(decision, NoOffer):
            return order.choose_route(decision.on_record, self._quoter.hinted(decision))
        if decision.permanent:
            return order.fail(decision.failure, decision.decision)
        return order.retry_or_fail(decision.failure, decision.decision)
