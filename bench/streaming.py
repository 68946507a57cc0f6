"""Orders over SubmitOrders, followed by one WatchOrders."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from bench.tally import FINAL, Tally
from engine.v1 import orders_pb2 as pb

if TYPE_CHECKING:
    from engine.v1.orders_pb2_grpc import OrderServiceAsyncStub

# What SubmitOrders takes in one message.
MESSAGE_LIMIT: Final = 500
WATCHING_SECONDS: Final = 10.0
STREAM_SECONDS: Final = 3600.0
TICK_SECONDS: Final = 0.005
# So many unanswered orders are an overloaded client, whatever the engine does.
MAX_UNANSWERED: Final = 10_000


async def stream(stub: OrderServiceAsyncStub, tally: Tally) -> None:
    """Keep `in_flight` orders between sending and their final status."""
    changed = asyncio.Event()
    async with _watching(stub, tally, changed.set), _submitting(stub, tally, changed.set) as submit:
        while allowed := tally.may_send():
            free = min(tally.job.in_flight - tally.open, allowed, MESSAGE_LIMIT)
            if free > 0:
                await submit(free)
            else:
                changed.clear()
                await changed.wait()
        tally.stop_sending()
        await _until_final(tally, changed)


async def offer(stub: OrderServiceAsyncStub, tally: Tally) -> None:
    """Send at the job's rate, whatever the answers; wait for what was accepted."""
    changed = asyncio.Event()
    async with _watching(stub, tally, changed.set), _submitting(stub, tally, changed.set) as submit:
        while allowed := tally.may_send():
            elapsed = time.perf_counter() - tally.started
            offered = len(tally.sent) + tally.held_back
            due = min(int(elapsed * tally.job.orders_per_second) - offered, allowed)
            room = max(0, min(due, MAX_UNANSWERED - tally.unanswered))
            tally.held_back += max(0, due - room)
            while room > 0:
                await submit(min(room, MESSAGE_LIMIT))
                room -= MESSAGE_LIMIT
            await asyncio.sleep(TICK_SECONDS)
        tally.stop_sending()
        await _until_final(tally, changed)


async def accept(stub: OrderServiceAsyncStub, tally: Tally) -> None:
    """Have the orders accepted, `in_flight` of them unanswered at a time."""
    changed = asyncio.Event()
    async with _submitting(stub, tally, changed.set) as submit:
        while allowed := tally.may_send():
            free = min(tally.job.in_flight - tally.unanswered, allowed, MESSAGE_LIMIT)
            if free > 0:
                await submit(free)
            else:
                changed.clear()
                await changed.wait()
        tally.stop_sending()


async def _until_final(tally: Tally, changed: asyncio.Event) -> None:
    while tally.open:
        changed.clear()
        await changed.wait()


@asynccontextmanager
async def _submitting(
    stub: OrderServiceAsyncStub, tally: Tally, changed: Callable[[], None]
) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """Sends so many orders in one message; raises what ends the stream.

    Leaving waits for every answer.
    """
    call = stub.SubmitOrders(timeout=STREAM_SECONDS, wait_for_ready=True)

    async def submit(count: int) -> None:
        orders = [tally.send() for _ in range(count)]
        await call.write(pb.SubmitOrdersRequest(orders=orders))

    async def read() -> None:
        async for response in call:
            for result in response.results:
                if result.HasField("refused"):
                    tally.refuse(result.index, result.refused.reason)
                else:
                    tally.accept(result.index)
            changed()

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        yield submit
        await call.done_writing()


@asynccontextmanager
async def _watching(
    stub: OrderServiceAsyncStub, tally: Tally, changed: Callable[[], None]
) -> AsyncIterator[None]:
    """Notes every event; inside, nothing that is committed is missed."""
    live = asyncio.Event()

    async def read() -> None:
        request = pb.WatchOrdersRequest(snapshot=True)
        request.heartbeat_interval.seconds = 1
        async for response in stub.WatchOrders(
            request, timeout=STREAM_SECONDS, wait_for_ready=True
        ):
            now = time.time()
            ended = False
            for event in response.events.events:
                number = tally.number(event)
                if number is None:
                    continue
                tally.arrived(event, now, since=0)
                if event.status in FINAL:
                    ended |= tally.end(number, event.status)
            if ended:
                changed()
            if response.resume_token:
                live.set()

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read())
        await asyncio.wait_for(live.wait(), WATCHING_SECONDS)
        yield
        reading.cancel()
