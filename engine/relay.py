"""What follows a commit: the event announced, the next work offered, and again if it stands."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import chain
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec
import structlog

from engine import wire
from engine.batch import Batcher
from engine.bus import EVENTS_SUBJECT, Bus, Queue, status_subject
from engine.errors import Overloaded, StaleOrder, StoreUnavailable
from engine.lifecycle import EventType, Status
from engine.order import Order, Transition
from engine.store import Store

logger = structlog.get_logger()

Result = TypeVar("Result")
# What one statement committed.
Commit = Sequence[Transition]

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


# Events that no other service waits for are composed so many turns of the event loop after their
# commit. Whoever waited for it goes on in the first; what they send, batched and in a call of its
# own, has left the process with the third.
TURNS_FIRST: Final = 4
# Commits that are told together, and how many may wait to be.
TOLD_TOGETHER: Final = 10
UNTOLD: Final = 1000
CLOSE_SECONDS: Final = 2.0


class Begun(msgspec.Struct, frozen=True):
    """An order that is being worked on; `step` says so and is not committed yet, or None."""

    order: Order
    step: Transition | None

    def then(self, following: Transition) -> Transition:
        """What came of the work, with the step that is not committed yet."""
        return following if self.step is None else self.step.then(following)


class Relay:
    """Commits transitions and tells the others: what a batch committed is told together.

    One commit after the other, and what happened before the hint at what follows it: who hears of
    the next step, from another service, has heard of this one.
    """

    def __init__(self, store: Store, bus: Bus) -> None:
        self._store = store
        self._bus = bus
        self._telling: Batcher[Commit, None] = Batcher(
            self._tell, limit=TOLD_TOGETHER, in_flight=1, waiting=UNTOLD
        )
        store.on_commit(self._have_told)

    async def close(self) -> None:
        """Wait until what was submitted is committed, and what was committed is told."""
        await self._store.close()
        await self._telling.close()

    async def commit(self, transition: Transition) -> Order:
        """Store the transition, and announce its events; returns the order as stored.

        Raises StaleOrder and StoreUnavailable, as the store does.
        """
        return (await self._store.save(transition)).order

    async def commit_each(self, transitions: Sequence[Transition]) -> list[Order | Exception]:
        """As `commit`, of many orders, each on its own: StaleOrder, StoreUnavailable, or what the
        database said of its row, stands in its place."""
        saving = self._store.begin_saves(transitions)
        results: list[Order | Exception] = []
        for result in await asyncio.gather(*saving, return_exceptions=True):
            if isinstance(result, Transition):
                results.append(result.order)
            elif isinstance(result, Exception):
                results.append(result)
            else:
                raise result
        return results

    async def commit_all(self, transitions: Sequence[Transition]) -> None:
        """As `commit_each`, leaving alone what somebody else moved meanwhile.

        Raises StoreUnavailable, and what the database said of a row, once all are through.
        """
        for result in await self.commit_each(transitions):
            if isinstance(result, Exception) and not isinstance(result, StaleOrder):
                raise result

    async def during(
        self, begun: Sequence[Begun], work: Coroutine[Any, Any, Result]
    ) -> tuple[list[Begun | None], Result]:
        """The orders as begun, and the result of `work`, which has no effect and needs no record.

        Their steps are committed meanwhile if the work takes long; None stands in place of an
        order that somebody else moved before. Raises what the work raises, StoreUnavailable, and
        what the database said of a row.
        """
        steps = [each.step for each in begun if each.step is not None]
        if not steps:
            return list(begun), await work
        announcing: list[asyncio.Task[list[Order | Exception]]] = []
        timer = asyncio.get_running_loop().call_later(
            ANNOUNCE_AFTER_SECONDS,
            lambda: announcing.append(asyncio.create_task(self.commit_each(steps))),
        )
        try:
            result = await work
        except BaseException:
            await asyncio.gather(*announcing, return_exceptions=True)
            raise
        finally:
            timer.cancel()
        if not announcing:
            return list(begun), result
        committed = iter(await announcing[0])
        return [
            each if each.step is None else _announced(next(committed)) for each in begun
        ], result

    async def offer(self, orders: Sequence[Order]) -> None:
        """Hint at the next step of those orders whose next step somebody has to take."""
        for queue in Queue:
            due = [order.order_id for order in orders if next_queue(order) is queue]
            await self._bus.publish(queue.hints(due))

    def _have_told(self, committed: Commit) -> None:
        try:
            self._telling.begin([committed])
        except Overloaded:
            # What is on record is found there: by watches that miss it, by the reconciler.
            logger.warning("not announced: too many wait", orders=len(committed))

    async def _tell(self, commits: Sequence[Commit]) -> list[None]:
        """Log and publish the events of some commits, oldest first, and what is to be done next."""
        transitions = list(chain.from_iterable(commits))
        hints = _hints(transitions)
        if not hints:
            for _ in range(TURNS_FIRST):
                await asyncio.sleep(0)
        messages: list[tuple[str, bytes]] = []
        announced: list[bytes] = []
        logged = logger.is_enabled_for(logging.INFO)
        for transition in transitions:
            if logged:
                _log(transition)
            events = self._encoded(transition)
            subject = status_subject(transition.order.order_id)
            messages += [(subject, event) for event in events]
            announced += events
        messages += [(EVENTS_SUBJECT, batch) for batch in wire.batches(announced)]
        await self._bus.publish(messages + hints)
        return [None] * len(commits)

    def _encoded(self, transition: Transition) -> list[bytes]:
        """The transition's events; none when they cannot be composed, which is logged."""
        order = transition.order
        try:
            events = wire.events(order, transition.events, self._store.tokens)
            return [event.SerializeToString() for event in events]
        except Exception:
            # They are on record all the same, where whoever misses them reads them.
            logger.error("not announced", order_id=str(order.order_id), exc_info=True)
            return []

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


def _announced(committed: Order | Exception) -> Begun | None:
    if isinstance(committed, Order):
        return Begun(committed, None)
    if isinstance(committed, StaleOrder):
        return None
    raise committed


def _hints(committed: Commit) -> list[tuple[str, bytes]]:
    """Hints at what another service does next."""
    handed_over: dict[Queue, list[UUID]] = {}
    for transition in committed:
        queue = HANDED_OVER.get(transition.events[-1].type)
        if queue is not None:
            handed_over.setdefault(queue, []).append(transition.order.order_id)
    return [hint for queue, order_ids in handed_over.items() for hint in queue.hints(order_ids)]


def _log(transition: Transition) -> None:
    for event in transition.events:
        logger.info(
            event.type.value,
            order_id=str(transition.order.order_id),
            sequence=event.sequence,
            status=event.status.value,
        )


@asynccontextmanager
async def open_relay(store: Store, bus: Bus) -> AsyncIterator[Relay]:
    """A relay that has CLOSE_SECONDS, once it is left, to tell what was committed."""
    relay = Relay(store, bus)
    try:
        yield relay
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await relay.close()
