"""The worker loop: pulls hints from a queue, as many as there are free slots."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final
from uuid import UUID

import structlog
from asyncpg.pgproto import pgproto
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from engine.bus import ABSENT, HINT_ORDERS, STREAM, Bus, Queue
from engine.errors import StoreUnavailable
from engine.log import order_in_hand

logger = structlog.get_logger()

# Deals with orders, and returns those of several that are to be dealt with each by itself.
Handle = Callable[[Sequence[UUID]], Awaitable[Sequence[UUID]]]

PULL_SECONDS: Final = 15.0
HEARTBEAT_SECONDS: Final = 1.0
MAX_DELAY_SECONDS: Final = 2.0
CANCEL_SECONDS: Final = 1.0
ID_BYTES: Final = 16
# Longer than any handling takes with all its deadlines.
DEAF_SECONDS: Final = 15.0

# Statuses that merely end one pull; any other says that stream, consumer or leader is gone.
_PULL_IS_OVER: Final = frozenset({"404", "408"})
_HEARTBEAT: Final = "100"


class Worker:
    """Keeps a pull request open on a queue, for as many orders as there are free slots.

    A hint is only delivered when its handling can start at once; since it may be about several
    orders, a few more than `slots` may be in hand for a while. Not built on fetch(), which
    sleeps through a server restart and spins on a missing stream. A pull that falls silent, or
    whose stream, consumer or leader is gone, is given up and begun anew on a new inbox, with a
    growing delay, after re-creating what is missing.
    """

    def __init__(self, bus: Bus, queue: Queue, handle: Handle, *, slots: int) -> None:
        self._bus = bus
        self._queue = queue
        self._handle = handle
        self._slots = slots
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{queue.value}"
        self._taken: set[asyncio.Task[None]] = set()
        self._in_hand = 0  # orders
        self._credits = 0  # hints the server may still send us
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._broken: str | None = "start"
        self._heard = 0.0
        self._wake = asyncio.Event()
        self._draining = False
        self._took = False
        bus.on_connect(lambda: self._break("reconnected"))

    async def pull(self) -> None:
        """Pull until cancelled."""
        loop = asyncio.get_running_loop()
        delay = 0.0
        while True:
            self._wake.clear()
            try:
                if self._broken and self._bus.connected:
                    await asyncio.sleep(delay * random.uniform(0.5, 1.5))
                    delay = min(MAX_DELAY_SECONDS, (delay or 0.05) * 2)
                    await self._begin_anew()
                if not self._broken:
                    await self._ask_for_more()
            except ABSENT as error:
                self._break(repr(error))
            if self._broken and self._bus.connected:
                continue
            # Not wait_for(), which loses a cancel that meets what it waits for.
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._wake.wait()
            silence = loop.time() - self._heard
            if self._broken is None and silence < HEARTBEAT_SECONDS:
                delay = 0.0
            elif self._credits and silence > 2.5 * HEARTBEAT_SECONDS:
                self._break("silent")

    async def report_deafness(
        self, report: Callable[[bool], Awaitable[None]], deaf_seconds: float = DEAF_SECONDS
    ) -> None:
        """Call `report(False)` once work has waited so long without any being taken here, and
        `report(True)` once that is over; until cancelled."""
        loop = asyncio.get_running_loop()
        attentive, deaf = loop.time(), False
        while True:
            await asyncio.sleep(min(HEARTBEAT_SECONDS, deaf_seconds / 2))
            waiting = await self._bus.waiting(self._queue)
            if not waiting or self._took:
                attentive = loop.time()
            self._took = False
            if deaf is (loop.time() - attentive > deaf_seconds):
                continue
            deaf = not deaf
            if deaf:
                why = f"{waiting} hints wait and none was taken for {deaf_seconds:g} s"
                logger.error("deaf: not serving", queue=self._queue.value, why=why)
            else:
                logger.info("hearing again", queue=self._queue.value)
            await report(not deaf)

    async def drain(self, grace_seconds: float) -> None:
        """Hand back what was not started, and wait for what was, at most the grace.

        What is still not done is cancelled: its hint is not acked and comes again.
        """
        self._draining = True
        if self._subscription is not None:
            with suppress(*ABSENT):
                await asyncio.wait_for(self._subscription.drain(), MAX_DELAY_SECONDS)  # type: ignore[no-untyped-call]
        for seconds in (grace_seconds, CANCEL_SECONDS):
            if self._taken:
                await asyncio.wait(set(self._taken), timeout=seconds)
            for task in self._taken:
                task.cancel()

    def _break(self, why: str) -> None:
        if self._broken is None:
            logger.debug("pull given up", queue=self._queue.value, why=why)
        self._broken = self._broken or why
        self._wake.set()

    async def _begin_anew(self) -> None:
        client = self._bus.client
        assert client is not None
        await self._bus.ensure()
        old, self._subscription = self._subscription, None
        if old is not None:
            await old.unsubscribe()  # the server drops a pull nobody listens to
        self._inbox = client.new_inbox()
        self._subscription = await client.subscribe(self._inbox, cb=self._receive)
        self._credits, self._heard = 0, asyncio.get_running_loop().time()
        self._broken = None

    async def _ask_for_more(self) -> None:
        free = self._slots - self._in_hand - self._credits * HINT_ORDERS
        hints = free // HINT_ORDERS
        if hints <= 0:
            if self._credits or self._in_hand >= self._slots:
                return
            hints = 1
        elif self._credits and free < self._slots // 4:
            return
        assert self._bus.client is not None
        if not self._credits:  # no pull was open, so nothing was to be heard until now
            self._heard = asyncio.get_running_loop().time()
        self._credits += hints
        request = {
            "batch": hints,
            "expires": int(PULL_SECONDS * 1e9),
            "idle_heartbeat": int(HEARTBEAT_SECONDS * 1e9),
        }
        await self._bus.client.publish(self._next, json.dumps(request).encode(), reply=self._inbox)

    async def _receive(self, message: Msg) -> None:
        if self._subscription is None or message.sid != self._subscription._id:
            return  # late traffic of an inbox given up
        self._heard = asyncio.get_running_loop().time()
        headers = message.headers
        status = headers.get("Status") if headers and not message.data else None
        if status is not None:
            self._receive_status(status, headers or {})
            return
        self._credits = max(0, self._credits - 1)
        if self._draining:
            await message.nak()
            return
        self._took = True
        self._wake.set()
        order_ids = _order_ids(message.data)
        self._in_hand += len(order_ids)
        task = asyncio.create_task(self._settle(message, order_ids))
        self._taken.add(task)
        task.add_done_callback(self._done)

    def _receive_status(self, status: str, headers: dict[str, str]) -> None:
        description = headers.get("Description", "").lower()
        if status == _HEARTBEAT:
            return
        if status in _PULL_IS_OVER or description == "batch completed":
            unused = headers.get("Nats-Pending-Messages")
            self._credits = max(0, self._credits - int(unused)) if unused else 0
            self._wake.set()
        else:
            self._break(f"{status} {description}")

    def _done(self, task: asyncio.Task[None]) -> None:
        self._taken.discard(task)
        self._wake.set()

    async def _settle(self, message: Msg, order_ids: Sequence[UUID]) -> None:
        if not order_ids:
            # Not ours; left alone it would come back for ever.
            logger.warning("not a hint", queue=self._queue.value, bytes=len(message.data))
        elif not await self._is_finished(order_ids):
            return
        with suppress(*ABSENT):
            await message.ack()

    async def _is_finished(self, order_ids: Sequence[UUID]) -> bool:
        """Handle these orders; False when their hint has to come again.

        One that cannot be handled fails alone: after a failure of several each is tried by itself.
        """
        are_several = len(order_ids) > 1
        if not are_several:
            order_in_hand.set(order_ids[0])
        finished = True
        left: Sequence[UUID] = ()
        try:
            left = await self._handle(order_ids)
        except StoreUnavailable:
            finished = False
        except Exception:
            if are_several:
                left = order_ids
                logger.warning(
                    "orders that failed together are tried one by one",
                    queue=self._queue.value,
                    exc_info=True,
                )
            else:
                logger.error("work failed", queue=self._queue.value, exc_info=True)
                finished = False
        finally:
            self._in_hand -= len(order_ids) - len(left)
            self._wake.set()
        rest = await asyncio.gather(*[self._is_finished([order_id]) for order_id in left])
        return finished and all(rest)


def _order_ids(data: bytes) -> list[UUID]:
    """The orders that a hint is about; none when it is not one."""
    count, rest = divmod(len(data), ID_BYTES)
    if rest or count > HINT_ORDERS:
        return []
    return [pgproto.UUID(data[i * ID_BYTES : (i + 1) * ID_BYTES]) for i in range(count)]


@asynccontextmanager
async def working(
    bus: Bus, queue: Queue, handle: Handle, *, slots: int, grace_seconds: float = 10
) -> AsyncIterator[Worker]:
    """A worker that hands each hint's orders to `handle`, together; run its `pull`.

    Leaving waits for what was taken, at most the grace. `handle` must be safe to repeat and to
    run twice at once: a queue is never the lock. What it raises makes the hint come again. Of
    several orders it may leave some, which it then gets each by itself: a slow one takes its own
    slot and no other's.
    """
    worker = Worker(bus, queue, handle, slots=slots)
    try:
        yield worker
    finally:
        await worker.drain(grace_seconds)
