"""Natural batching: what arrives while a call is in flight goes into the next one together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from engine.errors import Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Hands items to `flush` in batches; each caller gets its own item's result.

    A lone item goes at once: nothing ever waits for company. While calls of `flush` are under
    way the next item waits until one is back, or for `patience_seconds` at most; then another
    call begins, up to `in_flight` of them. Each has at most `limit` items and at most one item a
    `key`. Many more than `undivided` go in equal parts of about that size, so that whoever goes on
    with one works side by side with the call for the next; it may be set anew at any time.
    `flush` answers in the order of its items; an exception among the answers is raised to that
    item's caller alone, an exception out of `flush` to all of the batch.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]],
        *,
        limit: int,
        in_flight: int,
        patience_seconds: float = 0,
        waiting: int = 20_000,
        key: Callable[[Item], Hashable] | None = None,
    ) -> None:
        self._flush = flush
        self._limit = limit
        self._in_flight = in_flight
        self._patience_seconds = patience_seconds
        self._alarm: asyncio.TimerHandle | None = None
        self.undivided = limit
        self._waiting = waiting
        self._key = key
        self._queue: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        # Counted apart from the tasks: a task is still "running" for a moment after its last
        # look at the queue, and an item that arrives then must not be left lying.
        self._active = 0

    async def submit(self, item: Item) -> Result:
        """The item's result; raises Overloaded at once when too many items wait already."""
        [answer] = self.begin([item])
        return await answer

    def begin(self, items: Sequence[Item]) -> list[asyncio.Future[Result]]:
        """As `submit` of each, for those who wait for many; all of them are taken, or none."""
        if len(self._queue) + len(items) > self._waiting:
            raise Overloaded("too many requests are waiting; try again")
        create_future = asyncio.get_running_loop().create_future
        futures: list[asyncio.Future[Result]] = [create_future() for _ in items]
        self._queue.extend(zip(items, futures, strict=True))
        if self._queue:
            if not self._active or not self._patience_seconds:
                self._start()
            else:
                self._be_patient()
        return futures

    async def close(self) -> None:
        """Wait until everything submitted has its answer."""
        while self._running:
            await asyncio.wait(set(self._running))

    def _start(self) -> None:
        if self._active < self._in_flight:
            self._active += 1
            task = asyncio.create_task(self._drain())
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _be_patient(self) -> None:
        """Begin another call soon, unless what waits goes with one that ends before."""
        if self._patience_seconds and self._alarm is None and self._active < self._in_flight:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(self._patience_seconds, self._lose_patience)

    def _lose_patience(self) -> None:
        self._alarm = None
        if self._queue:
            self._start()

    async def _drain(self) -> None:
        # What has arrived already, and was not looked at yet, goes along.
        await asyncio.sleep(0)
        try:
            while batch := self._take():
                if self._queue:
                    self._be_patient()
                await self._answer(batch)
        finally:
            self._active -= 1

    async def _answer(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        results: Sequence[Result | BaseException]
        try:
            results = await self._flush([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} answers to {len(batch)} items")
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - handed to each caller, none is swallowed
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        keys: set[Hashable] = set()
        later: list[tuple[Item, asyncio.Future[Result]]] = []
        parts = max(1, round(len(self._queue) / self.undivided))
        size = min(self._limit, -(-len(self._queue) // parts))
        while self._queue and len(batch) < size:
            item, future = self._queue.popleft()
            if future.done():
                continue  # its caller has gone
            key = self._key(item) if self._key else None
            if key is not None and key in keys:
                later.append((item, future))
                continue
            keys.add(key)
            batch.append((item, future))
        self._queue.extendleft(reversed(later))
        return batch


class Meeting:
    """Brings together again what went different ways at the same time.

    Who is back waits for those that left before anybody was back and are still away, for
    `patience_seconds` at most.
    """

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._leaving = _Party()

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """For the time of going a way of one's own."""
        party = self._leaving
        party.away += 1
        try:
            yield
        finally:
            party.away -= 1
            if party is self._leaving:
                self._leaving = _Party()
            if not party.away:
                party.all_back.set()
        if party.away:
            if party.alarm is None:
                loop = asyncio.get_running_loop()
                party.alarm = loop.call_later(self._patience_seconds, party.all_back.set)
            await party.all_back.wait()
        elif party.alarm is not None:
            party.alarm.cancel()


class _Party:
    """Who left together."""

    def __init__(self) -> None:
        self.away = 0
        self.all_back = asyncio.Event()
        self.alarm: asyncio.TimerHandle | None = None
