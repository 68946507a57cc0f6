"""Watching orders: messages make it fast, the database makes it complete."""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import chain
from math import inf
from typing import Final
from uuid import UUID

import structlog

from engine import wire
from engine.bus import Bus
from engine.errors import (
    Overloaded,
    RequestError,
    ResumeTokenTooOld,
    ShuttingDown,
    SlowConsumer,
    StoreUnavailable,
)
from engine.order import Order, Transition
from engine.store import Store
from engine.v1 import orders_pb2 as pb
from gateway.announcements import Announcements

logger = structlog.get_logger()

# An order has a few dozen events at most; a reader this far behind has stopped reading.
MAX_UNREAD: Final = 256
# Their clients come within moments, or not at all.
FRESH_ORDERS: Final = 1000
READ_WATCHES: Final = 500
READ_EVENTS: Final = 5000
# Interest in a subject takes a moment to spread through a cluster of NATS servers.
SECOND_LOOK_SECONDS: Final = 0.25
# Who submits one order at a time, or many at once, watches nothing for moments.
LINGER_SECONDS: Final = 2.0


class Watch:
    """One reader of one order's events, in sequence, each once."""

    def __init__(self, order: Order, after_sequence: int) -> None:
        self.order = order
        self.last = after_sequence  # the last sequence handed to the reader or waiting for it
        self._unread: deque[pb.OrderEvent] = deque()
        self._end: RequestError | None = None
        self._wake = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Nothing more is taken; the reader may still be reading what is queued."""
        return self._end is not None

    async def next(self, timeout_seconds: float) -> pb.OrderEvent | None:
        """The next event, or None when none came in time; raises what ended the watch."""
        if not self._unread and self._end is None:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await self._wake.wait()
        if self._unread:
            return self._unread.popleft()
        if self._end is not None:
            raise self._end
        return None

    def take(self, event: pb.OrderEvent) -> bool:
        """Queue the event if it is the next one; False when one before it is missing."""
        if event.sequence > self.last + 1:
            return False
        if event.sequence == self.last + 1 and self._end is None:
            if len(self._unread) >= MAX_UNREAD:
                self.end(
                    SlowConsumer(
                        f"more than {MAX_UNREAD} events are unread; resume after the last one",
                        last_sequence=str(self.last),
                    )
                )
            else:
                self.last = event.sequence
                self._unread.append(event)
                self._wake.set()
        return True

    def end(self, error: RequestError) -> None:
        """Let the reader have what is queued, then this."""
        self._end = self._end or error
        self._wake.set()


class Life:
    """An order that this gateway accepted just now, and its events as far as they were heard."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.events: list[pb.OrderEvent] = []


class WatchHub:
    """All watches of this gateway.

    First subscribe, then read the database, then follow: a message with the next sequence is
    passed on as it is, one already seen is dropped, a gap is read from the database. Every
    watched order is read again now and then, in one query, because the last message of an order
    can be lost without leaving a gap.
    """

    def __init__(
        self,
        store: Store,
        bus: Bus,
        announcements: Announcements,
        *,
        recheck_seconds: float,
        max_watches: int,
    ) -> None:
        self._store = store
        self._announcements = announcements
        self._recheck_seconds = recheck_seconds
        self._max_watches = max_watches
        self._count = 0
        # By order, named as events name it.
        self._watches: dict[str, set[Watch]] = {}
        # Orders that their clients are likely to watch next, so that nothing need be read then.
        self._fresh: OrderedDict[str, Life] = OrderedDict()
        self._behind: set[Watch] = set()
        self._wake = asyncio.Event()
        self._draining = False
        self._recheck_at = 0.0
        self._listening = False
        self._listening_since = 0.0
        self._idle_since = 0.0
        bus.on_connect(self._recheck_now)
        store.on_commit(self._expect)

    def fresh(self, order_id: UUID | None, after_sequence: int) -> Life | None:
        """The order if it was accepted here just now and all its events were heard up to there."""
        life = self._fresh.get(str(order_id))
        if life is None or after_sequence > len(life.events):
            return None
        # With a final status all may be over, unless a fork took it back, and nobody heard of it.
        last = life.events[-1] if life.events else None
        return None if last and last.status in wire.FINAL and not last.settled else life

    @asynccontextmanager
    async def watch(
        self, order: Order, after_sequence: int, heard: Sequence[pb.OrderEvent] | None = None
    ) -> AsyncIterator[Watch]:
        """Follow the order's events after this sequence; raises Overloaded.

        `heard` are all events so far of an order that is fresh.
        """
        if self._count >= self._max_watches:
            raise Overloaded(
                f"this gateway already serves {self._max_watches} watches; try again later"
            )
        watch = Watch(order, after_sequence)
        if self._draining:
            watch.end(_shutting_down())
        order_id = str(order.order_id)
        self._watches.setdefault(order_id, set()).add(watch)
        self._count += 1
        try:
            if not self._listening:
                self._listening = True
                self._listening_since = asyncio.get_running_loop().time()
                await self._announcements.join(self._hear)
            if heard is None:
                self._look_soon(watch)
            else:
                for event in heard[after_sequence:]:
                    watch.take(event)
            yield watch
        finally:
            self._count -= 1
            self._behind.discard(watch)
            watches = self._watches[order_id]
            watches.discard(watch)
            if not watches:
                del self._watches[order_id]
            if not self._count:
                self._idle_since = asyncio.get_running_loop().time()
                self._wake.set()

    def drain(self) -> None:
        """End every watch, now and from now on, so that its reader resumes elsewhere."""
        self._draining = True
        for watch in chain.from_iterable(self._watches.values()):
            watch.end(_shutting_down())

    async def follow(self) -> None:
        """Read the database for watches that are behind, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(self._recheck_at, self._leave_at)):
                    await self._wake.wait()
            self._wake.clear()
            if loop.time() >= self._leave_at:
                self._listening = False
                self._fresh.clear()
                await self._announcements.leave(self._hear)
            if loop.time() >= self._recheck_at:
                self._recheck_at = loop.time() + self._recheck_seconds * random.uniform(0.8, 1.2)
                self._mark(chain.from_iterable(self._watches.values()))
                await self._announcements.ensure()
            try:
                await self._catch_up()
            except StoreUnavailable:
                await asyncio.sleep(0.2)

    async def _catch_up(self) -> None:
        while self._behind:
            batch = [watch for watch, _ in zip(self._behind, range(READ_WATCHES), strict=False)]
            # Unmarked before reading: what arrives during the read marks again.
            self._behind.difference_update(batch)
            after: dict[UUID, int] = {}
            for watch in batch:
                order_id = watch.order.order_id
                after[order_id] = min(watch.last, after.get(order_id, watch.last))
            try:
                events = await self._store.events(list(after.items()), READ_EVENTS)
            except StoreUnavailable:
                self._mark(batch)
                raise
            by_order: dict[UUID, list[Watch]] = {}
            for watch in batch:
                by_order.setdefault(watch.order.order_id, []).append(watch)
            for event in events:
                watches = by_order[event.order_id]
                message = wire.event(watches[0].order, event, self._store.tokens)
                for watch in watches:
                    watch.take(message)
            if len(events) == READ_EVENTS:
                self._mark(batch)
                continue
            for watch in batch:
                # It was that far when it was read, so its events were there once.
                if watch.last < watch.order.sequence:
                    watch.end(_deleted(watch))

    def _hear(self, events: Iterable[pb.OrderEvent]) -> None:
        for event in events:
            watches = self._watches.get(event.order_id)
            if watches:
                self._mark([watch for watch in watches if not watch.take(event)])
            life = self._fresh.get(event.order_id)
            if life is not None and event.sequence > len(life.events):
                if event.sequence == len(life.events) + 1:
                    life.events.append(event)
                else:
                    del self._fresh[event.order_id]

    def _expect(self, committed: Sequence[Transition]) -> None:
        """Keep what is heard of orders accepted here, while anything is heard."""
        if not self._listening:
            return
        for transition in committed:
            if transition.order.sequence == 1:
                self._fresh[str(transition.order.order_id)] = Life(transition.order)
        while len(self._fresh) > FRESH_ORDERS:
            self._fresh.popitem(last=False)

    @property
    def _leave_at(self) -> float:
        """When to listen no more, unless somebody watches again before."""
        return self._idle_since + LINGER_SECONDS if self._listening and not self._count else inf

    def _look_soon(self, watch: Watch) -> None:
        """Read what happened before the watch was heard for."""
        self._mark([watch])
        loop = asyncio.get_running_loop()
        if loop.time() - self._listening_since < SECOND_LOOK_SECONDS:
            loop.call_later(SECOND_LOOK_SECONDS, self._mark, [watch])

    def _recheck_now(self) -> None:
        # NATS is back: subscriptions may be missing, and messages were.
        self._recheck_at = 0.0
        self._wake.set()

    def _mark(self, watches: Iterable[Watch]) -> None:
        following = [w for w in watches if not w.ended and w in self._watches_of(w)]
        if following:
            self._behind.update(following)
            self._wake.set()

    def _watches_of(self, watch: Watch) -> Collection[Watch]:
        return self._watches.get(str(watch.order.order_id), ())


def _deleted(watch: Watch) -> ResumeTokenTooOld:
    return ResumeTokenTooOld(
        f"events of this order after {watch.last} were deleted; watch it anew, without "
        "after_sequence",
        last_sequence=str(watch.last),
    )


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("this gateway is stopping; resume with after_sequence")
