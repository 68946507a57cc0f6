"""Orders over SubmitOrder, each followed by WatchOrder."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Final

import grpc

from bench.tally import FINAL, Tally
from engine.v1 import orders_pb2 as pb

if TYPE_CHECKING:
    from engine.v1.orders_pb2_grpc import OrderServiceAsyncStub

CALL_SECONDS: Final = 60.0


async def unary(stub: OrderServiceAsyncStub, tally: Tally) -> None:
    """As many clients as orders in flight: each submits, watches to the end, and again."""
    async with asyncio.TaskGroup() as group:
        for _ in range(tally.job.in_flight):
            group.create_task(_keep_trading(stub, tally, watchers=1))


async def watchers(stub: OrderServiceAsyncStub, tally: Tally) -> None:
    """The same with all the job's watchers spread evenly over the orders in flight."""
    few, more = divmod(tally.job.watchers, tally.job.in_flight)
    async with asyncio.TaskGroup() as group:
        for slot in range(tally.job.in_flight):
            group.create_task(_keep_trading(stub, tally, watchers=few + (slot < more)))


async def accept(stub: OrderServiceAsyncStub, tally: Tally) -> None:
    """Submit only, `in_flight` calls at a time."""

    async def keep_submitting() -> None:
        while tally.may_send():
            await _submit(stub, tally)

    async with asyncio.TaskGroup() as group:
        for _ in range(tally.job.in_flight):
            group.create_task(keep_submitting())
    tally.stop_sending()


async def _keep_trading(stub: OrderServiceAsyncStub, tally: Tally, *, watchers: int) -> None:
    while tally.may_send():
        order_id = await _submit(stub, tally)
        if order_id:
            async with asyncio.TaskGroup() as group:
                for _ in range(watchers):
                    group.create_task(_watch(stub, tally, order_id))
    tally.stop_sending()


async def _submit(stub: OrderServiceAsyncStub, tally: Tally) -> str:
    number = len(tally.sent)
    order = tally.send()
    try:
        answer = await stub.SubmitOrder(order, timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        tally.refuse(number, error.code().name)
        return ""
    tally.accept(number)
    return answer.order.order_id


async def _watch(stub: OrderServiceAsyncStub, tally: Tally, order_id: str) -> None:
    since = math.inf
    request = pb.WatchOrderRequest(order_id=order_id, after_sequence=0)
    async for response in stub.WatchOrder(request, timeout=CALL_SECONDS):
        now = time.time()
        since = min(since, now)
        event = response.event
        number = tally.number(event)
        if number is None:
            continue
        tally.arrived(event, now, since)
        if event.status in FINAL:
            tally.end(number, event.status)
