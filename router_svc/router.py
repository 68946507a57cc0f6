"""Routes orders: takes the best net price over all venues, and pins the floor."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Moves orders from PENDING or ROUTING to a chosen route."""

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

    async def route(self, order_ids: Sequence[UUID]) -> list[UUID]:
        """Take these orders' next routing step, if they have one; safe to repeat and to race.

        What somebody else moved meanwhile is theirs. Of several, those whose venues have to be
        asked are left, and returned.
        """
        decided: list[Transition] = []
        asking: list[Order] = []
        routed: list[Order] = []
        for order in await self._store.get_each(order_ids):
            if order.status not in (Status.PENDING, Status.ROUTING) or order.backing_off:
                continue
            if order.past_expiry:
                decided.append(order.expire())
            elif self._switch.halted:
                continue  # it waits, and is offered again when trading goes on
            elif order.route is not None:
                routed.append(order)
            else:
                decision = self._quoter.decide_here(
                    order.request, order.min_amount_out, self._max_price_impact_bps(order)
                )
                if decision is None:
                    asking.append(order)
                else:
                    begun = _begun(order)
                    decided.append(begun.then(self._step(begun.order, decision)))
        if decided:
            await self._relay.commit_all(decided)
        if routed:
            await self._relay.offer(routed)
        if len(order_ids) > 1:
            return [order.order_id for order in asking]
        for order in asking:
            await self._ask(order)
        return []

    async def _ask(self, order: Order) -> None:
        # Quotes change nothing, so they need not wait for the commit that says we ask for them.
        deciding = self._quoter.decide(
            order.request,
            order.min_amount_out,
            self._max_price_impact_bps(order),
            str(order.order_id),
        )
        [begun], decision = await self._relay.during([_begun(order)], deciding)
        if begun is not None:
            await self._relay.commit_all([begun.then(self._step(begun.order, decision))])

    def _max_price_impact_bps(self, order: Order) -> int | None:
        return self._accounts.limits(order.account).max_price_impact_bps

    def _step(self, order: Order, decision: RouteDecision | NoOffer) -> Transition:
        if not isinstance(decision, NoOffer):
            # Only a first try goes by hints.
            hinted = None if order.retries else self._quoter.hinted(decision)
            return order.choose_route(decision.on_record, hinted)
        if decision.permanent:
            return order.fail(decision.failure, decision.decision)
        return order.retry_or_fail(decision.failure, decision.decision)


def _begun(order: Order) -> Begun:
    """Routing has begun: with a step to be told, unless that was told before."""
    if order.status is not Status.PENDING:
        return Begun(order, None)
    step = order.start_routing()
    return Begun(step.order, step)
