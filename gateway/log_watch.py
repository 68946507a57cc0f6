"""Watching all orders: announcements make it fast, the log in the database makes it complete."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final
from uuid import UUID

from engine import wire
from engine.errors import (
    Overloaded,
    RequestError,
    ResumeTokenTooOld,
    ShuttingDown,
    SlowConsumer,
    StoreUnavailable,
)
from engine.event_log import FIRST, Cursor, Entry, EventLog, Extent, Logged, Place
from engine.order import Order
from engine.store import Store
from engine.v1 import orders_pb2 as pb
from gateway.announcements import Announcements
from gateway.selection import Selection, resume_token

# How often the log is held against what was announced: this much at most is repeated on resuming.
LOOK_SECONDS: Final = 0.25
LOOK_EVENTS: Final = 10_000
PAGE: Final = 1_000
MAX_UNREAD: Final = 20_000
MAX_ENDED: Final = 50_000
MAX_READERS: Final = 1_000
NOTHING: Final = Extent("", 0, 0, 0, 0, ())


class Reader:
    """One reader of all orders' events."""

    def __init__(self, selection: Selection, place: Place) -> None:
        self.selection = selection
        # Up to here everything was handed to the reader; moves on with what it takes.
        self.place = place
        # What it has from the database already, by order.
        self.seen: dict[str, int] = {}
        self._unread: deque[pb.OrderEvent] = deque()
        self._end: RequestError | None = None
        self._wake = asyncio.Event()

    def take(self, events: Iterable[pb.OrderEvent]) -> None:
        """Queue what it wants of these, the next ones of their orders."""
        if self._end is not None:
            return
        self._unread.extend(event for event in events if self.selection.has(event))
        if len(self._unread) > MAX_UNREAD:
            self._unread.clear()
            self.end(
                SlowConsumer(
                    f"more than {MAX_UNREAD} events are unread; resume with the last resume_token",
                    resume_token=resume_token(self.place),
                )
            )
        elif self._unread:
            self._wake.set()

    async def next(self, timeout_seconds: float, tail: LogTail) -> list[pb.OrderEvent]:
        """What came since, none when nothing did in time; raises what ended the watch."""
        if not self._unread and self._end is None:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await self._wake.wait()
        if not self._unread and self._end is not None:
            raise self._end
        events = [self._unread.popleft() for _ in range(min(PAGE, len(self._unread)))]
        if not self._unread:
            self.place = tail.place
        return self._unseen(events) if self.seen else events

    def end(self, error: RequestError) -> None:
        """Let the reader have what is queued, then this."""
        self._end = self._end or error
        self._wake.set()

    def _unseen(self, events: Iterable[pb.OrderEvent]) -> list[pb.OrderEvent]:
        unseen = []
        for event in events:
            if event.sequence > self.seen.get(event.order_id, 0):
                self.seen.pop(event.order_id, None)
                unseen.append(event)
        return unseen


class LogTail:
    """Every event of all orders, each order's in sequence and without holes, for all who want it.

    What is announced is handed on when it is the next of its order. Now and then, and at once
    when one is missing, what has appeared in the log since is looked at: of that, what was not
    announced is read in full, and how far the log is complete is where readers may resume.
    """

    def __init__(self, store: Store, announcements: Announcements) -> None:
        self._log = EventLog(store)
        self._tokens = store.tokens
        self._announcements = announcements
        self._readers: set[Reader] = set()
        self._opening = asyncio.Lock()
        self._early: list[Sequence[pb.OrderEvent]] | None = None
        # The last sequence handed on of every order that is not settled, and of those settled last:
        # what NATS held back during an outage is announced late, and must not pass for new.
        self._last: dict[str, int] = {}
        self._ended: deque[str] = deque()
        self._look = asyncio.Event()
        self._draining = False
        # All that was there at one moment is handed on; what has appeared since is read up to the
        # cursor, and what the log held as that was begun.
        self._seen = NOTHING
        self._cursor: Cursor | None = None
        self._reached: Extent | None = None
        self.place = Place("", 0)

    @asynccontextmanager
    async def read(self, selection: Selection) -> AsyncIterator[Reader]:
        """Take part from now on; raises Overloaded, and StoreUnavailable."""
        if len(self._readers) >= MAX_READERS:
            raise Overloaded(
                f"this gateway already serves {MAX_READERS} such watches; try again later"
            )
        async with self._opening:
            if not self._readers:
                await self._begin()
            reader = Reader(selection, self.place)
            self._readers.add(reader)
        if self._draining:
            reader.end(_shutting_down())
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            if not self._readers:
                await self._announcements.leave(self._hear)

    async def snapshot(self, reader: Reader) -> AsyncIterator[list[Order]]:
        """The reader's account's orders that are not settled, in pages."""
        after = FIRST
        while orders := await self._log.open_orders(reader.selection.account, after, PAGE):
            reader.seen.update((str(order.order_id), order.sequence) for order in orders)
            yield orders
            after = orders[-1].order_id

    async def replay(self, reader: Reader, since: Place) -> AsyncIterator[list[pb.OrderEvent]]:
        """What the reader's account's orders did from a place up to where it takes part.

        Raises ResumeTokenTooOld when not all of it is there any more.
        """
        extent = await self._log.extent()
        if since.home != extent.home or since.position > extent.end:
            raise _too_old()
        joined, reader.place = reader.place, since
        last: Logged | None = None
        while True:
            oldest, page = await self._log.page(
                reader.selection.account, last, since.position, extent.end, PAGE
            )
            if oldest > (last.position if last else since.position):
                raise _too_old()
            if not page:
                break
            last = page[-1]
            for logged in page:
                if logged.position >= joined.position:
                    reader.seen[str(logged.event.order_id)] = logged.event.sequence
            position = min(last.position, joined.position)
            reader.place = Place(extent.home, max(since.position, position))
            yield [event for event in map(self._encoded, page) if reader.selection.has(event)]
        reader.place = joined

    def drain(self) -> None:
        """End every watch, now and from now on, so that its reader resumes elsewhere."""
        self._draining = True
        for reader in self._readers:
            reader.end(_shutting_down())

    async def follow(self) -> None:
        """Hold the log against what was announced, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS * random.uniform(0.8, 1.2)):
                    await self._look.wait()
            self._look.clear()
            if not self._readers:
                continue
            try:
                while await self._read_on():
                    pass
            except StoreUnavailable:
                await asyncio.sleep(LOOK_SECONDS)

    async def _begin(self) -> None:
        early = self._early = []
        try:
            # What is announced while it is learnt where every order stands has to wait.
            await self._announcements.join(self._hear)
            self._last, self._ended = {}, deque()
            await self._learn()
        except BaseException:
            await self._announcements.leave(self._hear)
            raise
        finally:
            self._early = None
        for events in early:
            self._take(events)

    async def _learn(self) -> None:
        """Where every order stands, and how far the log is complete with that."""
        self._seen, self._cursor, self._reached = await self._log.extent(), None, None
        self.place = Place(self._seen.home, self._seen.complete)
        after = FIRST
        while orders := await self._log.open_sequences(after, LOOK_EVENTS):
            self._last.update((str(order_id), sequence) for order_id, sequence in orders)
            after = orders[-1][0]
        # What was settled meanwhile has appeared in the log.
        cursor: Cursor | None = None
        while True:
            part = await self._log.part(self._seen, cursor, LOOK_EVENTS)
            for entry in part.entries:
                order_id = str(entry.order_id)
                self._last[order_id] = max(entry.sequence, self._last.get(order_id, 0))
            if part.cursor is None:
                return
            cursor = part.cursor

    def _hear(self, events: Sequence[pb.OrderEvent]) -> None:
        if self._early is not None:
            self._early.append(events)
        elif self._readers:
            self._take(events)

    def _take(self, events: Iterable[pb.OrderEvent]) -> None:
        following = []
        for event in events:
            last = self._last.get(event.order_id, 0)
            if event.sequence == last + 1:
                self._last[event.order_id] = event.sequence
                following.append(event)
            elif event.sequence > last:
                self._look.set()
        for reader in self._readers:
            reader.take(following)

    async def _read_on(self) -> bool:
        """Hand on what has appeared in the next part of the log; whether there is more.

        At the end of it, move on to where the log is complete.
        """
        async with self._opening:
            if not self._readers:
                return False
            await self._announcements.ensure()
            part = await self._log.part(self._seen, self._cursor, LOOK_EVENTS)
            await self._hand_on(part.entries)
            self._reached, self._cursor = self._reached or part.extent, part.cursor
            if self._cursor is not None:
                return True
            self._seen, self._reached = self._reached, None
            self.place = Place(self.place.home, self._seen.complete)
            return False

    async def _hand_on(self, entries: Sequence[Entry]) -> None:
        """Hand on what was not announced."""
        missing: dict[UUID, int] = {}
        for entry in entries:
            last = self._last.get(str(entry.order_id), 0)
            if entry.sequence > last:
                missing[entry.order_id] = last
        while missing:
            logged = await self._log.after(list(missing.items()), PAGE)
            self._take(map(self._encoded, logged))
            if len(logged) < PAGE:
                break
            read = logged[-1].event
            missing = {order: last for order, last in missing.items() if order >= read.order_id}
            missing[read.order_id] = read.sequence
        self._ended.extend(str(entry.order_id) for entry in entries if entry.settled)
        while len(self._ended) > MAX_ENDED:
            self._last.pop(self._ended.popleft(), None)

    def _encoded(self, logged: Logged) -> pb.OrderEvent:
        return wire.event(logged.order, logged.event, self._tokens)


def _too_old() -> ResumeTokenTooOld:
    return ResumeTokenTooOld(
        "resume_token is too old: events after it were deleted, or it belongs to another database; "
        "watch anew, with snapshot"
    )


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("this gateway is stopping; resume with the last resume_token")
