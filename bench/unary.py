"""Orders over SubmitOrder, each followed by WatchOrder."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle

import grpc

from bench.lean import CallFailed, Orders
from bench.tally import FINAL, Tally
from engine.v1 import orders_pb2 as pb


async def unary(orders: Orders, tally: Tally) -> None:
    """As many clients as orders in flight: each submits, watches to the end, and again."""

    async def keep_trading() -> None:
        while tally.may_send():
            order_id = await _submit(orders, tally)
            if order_id is not None:
                await _watch(orders, tally, order_id, lambda: None)
        tally.stop_sending()

    async with asyncio.TaskGroup() as group:
        for _ in range(tally.job.in_flight):
            group.create_task(keep_trading())


async def watchers(orders: Orders, tally: Tally) -> None:
    """Round after round: all watchers are there before the orders in flight may move."""
    job = tally.job
    assert job.held_pid is not None
    while tally.may_send():
        async with asyncio.TaskGroup() as group:
            with _held(job.held_pid):
                answers = [_submit(orders, tally) for _ in range(job.in_flight)]
                accepted = [order for order in await asyncio.gather(*answers) if order is not None]
                live = []
                for order_id, _ in zip(cycle(accepted), range(job.watchers), strict=False):
                    live.append(asyncio.Event())
                    group.create_task(_watch(orders, tally, order_id, live[-1].set))
                for event in live:
                    await event.wait()
                tally.released()
    tally.stop_sending()


@contextmanager
def _held(pid: int) -> Iterator[None]:
    """The process stands still meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def accept(orders: Orders, tally: Tally) -> None:
    """Submit only, `in_flight` calls at a time."""

    async def keep_submitting() -> None:
        while tally.may_send():
            await _submit(orders, tally)

    async with asyncio.TaskGroup() as group:
        for _ in range(tally.job.in_flight):
            group.create_task(keep_submitting())
    tally.stop_sending()


async def _submit(orders: Orders, tally: Tally) -> str | None:
    number = len(tally.sent)
    order = tally.send()
    try:
        answer = await orders.submit(order)
    except CallFailed as error:
        if error.code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        tally.refuse(number, error.code.name)
        return None
    tally.accept(number)
    return answer.order.order_id


async def _watch(orders: Orders, tally: Tally, order_id: str, live: Callable[[], object]) -> None:
    since = math.inf
    request = pb.WatchOrderRequest(order_id=order_id, after_sequence=0)
    async for response in orders.watch(request):
        now = time.time()
        since = min(since, now)
        live()
        event = response.event
        number = tally.number(event)
        if number is None:
            continue
        tally.arrived(event, now, since)
        if event.status in FINAL:
            tally.end(number, event.status)
