"""What follows a commit: the event announced, the next work offered, and again if it stands."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec
import structlog

from engine import wire
from engine.bus import EVENTS_SUBJECT, Bus, Queue, status_subject
from engine.errors import StoreUnavailable
from engine.lifecycle import EventType, Status
from engine.order import Order, Transition
from engine.store import Store

logger = structlog.get_logger()

Result = TypeVar("Result")

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


# Work that takes longer than this is announced before it is done; the announcement of quicker
# work is committed together with what came of it.
ANNOUNCE_AFTER_SECONDS: Final = 0.05

# Who goes on after these, in another service; the other steps are followed by their own service.
HANDED_OVER: Final = {
    EventType.ORDER_ACCEPTED: Queue.ROUTE,
    EventType.ROUTE_CHOSEN: Queue.EXECUTE,
}


class Begun(msgspec.Struct, frozen=True):
    """An order that is being worked on; `step` says so and is not committed yet, or None."""

    order: Order
    step: Transition | None

    def then(self, following: Transition) -> Transition:
        """What came of the work, with the step that is not committed yet."""
        return following if self.step is None else self.step.then(following)


class Relay:
    """Commits transitions and tells the others: what a batch committed is told together."""

    def __init__(self, store: Store, bus: Bus) -> None:
        self._store = store
        self._bus = bus
        self._telling: set[asyncio.Task[None]] = set()
        store.on_commit(self._tell)

    async def commit(self, transition: Transition) -> Order:
        """Store the transition, and announce its events; returns the order as stored.

        Raises StaleOrder and StoreUnavailable, as the store does.
        """
        return (await self._store.save(transition)).order

    async def commit_each(self, transitions: Sequence[Transition]) -> list[Order | Exception]:
        """As `commit`, of many orders, each on its own: StaleOrder, or what the database said of
        its row, stands in its place. Raises StoreUnavailable."""
        saving = [self._store.begin_save(transition) for transition in transitions]
        saved = await asyncio.gather(*saving, return_exceptions=True)
        results: list[Order | Exception] = []
        for result in saved:
            if isinstance(result, Transition):
                results.append(result.order)
            elif isinstance(result, StoreUnavailable) or not isinstance(result, Exception):
                raise result
            else:
                results.append(result)
        return results

    async def during(
        self, beginning: Transition, work: Coroutine[Any, Any, Result]
    ) -> tuple[Begun, Result]:
        """The order as begun, and the result of `work`, which has no effect and needs no record.

        `beginning` is committed meanwhile if the work takes long. Raises what the work raises, and
        StaleOrder and StoreUnavailable, as `commit` does.
        """
        announcing: list[asyncio.Task[Order]] = []
        timer = asyncio.get_running_loop().call_later(
            ANNOUNCE_AFTER_SECONDS,
            lambda: announcing.append(asyncio.create_task(self.commit(beginning))),
        )
        try:
            result = await work
        except BaseException:
            await asyncio.gather(*announcing, return_exceptions=True)
            raise
        finally:
            timer.cancel()
        if announcing:
            return Begun(await announcing[0], None), result
        return Begun(beginning.order, beginning), result

    async def offer(self, orders: Sequence[Order]) -> None:
        """Hint at the next step of those orders whose next step somebody has to take."""
        for queue in Queue:
            due = [order.order_id for order in orders if next_queue(order) is queue]
            await self._bus.publish(queue.hints(due))

    def _tell(self, committed: Sequence[Transition]) -> None:
        """Announce and log what was committed, and hint at what is to be done next."""
        messages: list[tuple[str, bytes]] = []
        logged = logger.is_enabled_for(logging.INFO)
        announced: list[bytes] = []
        handed_over: dict[Queue, list[UUID]] = {}
        for order, events in ((transition.order, transition.events) for transition in committed):
            subject = status_subject(order.order_id)
            for message in wire.events(order, events, self._store.tokens):
                encoded = message.SerializeToString()
                announced.append(encoded)
                messages.append((subject, encoded))
            if logged:
                for event in events:
                    logger.info(
                        event.type.value,
                        order_id=str(order.order_id),
                        sequence=event.sequence,
                        status=event.status.value,
                    )
            queue = HANDED_OVER.get(events[-1].type)
            if queue is not None:
                handed_over.setdefault(queue, []).append(order.order_id)
        for queue, order_ids in handed_over.items():
            messages += queue.hints(order_ids)
        messages += [(EVENTS_SUBJECT, batch) for batch in wire.batches(announced)]
        task = asyncio.create_task(self._bus.publish(messages))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def reconcile(self) -> None:
        """Rule R8: offer whatever is due, until cancelled. Any number may run at once."""
        while True:
            await asyncio.sleep(RECONCILE_SECONDS * random.uniform(0.8, 1.2))
            try:
                if not await self._store.anything_to_offer():
                    continue
                depths = [await self._bus.waiting(queue) for queue in Queue]
                if any(depth is None or depth > ENOUGH_WAITING for depth in depths):
                    continue  # NATS is away, or its queues hold more than enough
                due = await self._store.claim_to_offer(RECONCILE_LIMIT)
            except StoreUnavailable:
                continue
            await self.offer(due)
