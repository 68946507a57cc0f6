"""What follows a commit: the event announced, the next work offered, and again if it stands."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import structlog

from engine import wire
from engine.bus import Bus, Queue
from engine.errors import StoreUnavailable
from engine.lifecycle import Status
from engine.order import Order, OrderEvent, Transition
from engine.store import Store

logger = structlog.get_logger()

RECONCILE_SECONDS: Final = 0.2
RECONCILE_LIMIT: Final = 500
# With this many hints waiting, more would only be duplicates.
ENOUGH_WAITING: Final = 1000


def next_queue(order: Order) -> Queue | None:
    """Where the order's next step is done; None when the settlement follows it, or nobody need."""
    if order.backing_off:
        return None
    match order.status:
        case Status.PENDING:
            return Queue.ROUTE
        case Status.ROUTING:
            return Queue.EXECUTE if order.route else Queue.ROUTE
        case Status.BUILDING:
            return Queue.EXECUTE
        case _:
            return None


class Relay:
    """Commits transitions and tells the others."""

    def __init__(self, store: Store, bus: Bus) -> None:
        self._store = store
        self._bus = bus

    async def commit(self, transition: Transition) -> Order:
        """Store the transition, then announce its event; returns the order as stored.

        Raises StaleOrder and StoreUnavailable, as the store does.
        """
        committed = await self._store.save(transition)
        await self.announce(committed.order, committed.event)
        return committed.order

    async def announce(self, order: Order, event: OrderEvent) -> None:
        """Publish a committed event, and log it; never raises."""
        message = wire.event(order, event, self._store.tokens)
        await self._bus.announce(order.order_id, message.SerializeToString())
        logger.info(
            event.type.value,
            order_id=str(order.order_id),
            sequence=event.sequence,
            status=event.status.value,
        )

    async def offer(self, order: Order) -> None:
        """Hint at the order's next step, if somebody has to take it."""
        queue = next_queue(order)
        if queue is not None:
            await self._bus.offer(queue, order.order_id)

    async def reconcile(self) -> None:
        """Rule R8: offer whatever is due, until cancelled. Any number may run at once."""
        while True:
            await asyncio.sleep(RECONCILE_SECONDS * random.uniform(0.8, 1.2))
            depths = [await self._bus.waiting(queue) for queue in Queue]
            if any(depth is None or depth > ENOUGH_WAITING for depth in depths):
                continue  # NATS is away, or its queues hold more than enough
            try:
                due = await self._store.claim_to_offer(RECONCILE_LIMIT)
            except StoreUnavailable:
                continue
            for order in due:
                await self.offer(order)
