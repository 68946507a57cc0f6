"""A worker that has work waiting and takes none says so, and takes it back when it does again."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine.bus import Bus, Queue
from engine.rpc import serving
from engine.work import working
from tests.engine.test_work import Hands, each

PATIENCE_SECONDS = 20


async def test_work_that_waits_while_none_is_taken_is_reported(bus: Bus) -> None:
    hands = Hands(holding=True)
    reports: asyncio.Queue[bool] = asyncio.Queue()
    async with working(bus, Queue.ROUTE, each(hands), slots=1) as worker:
        pulling = asyncio.create_task(worker.pull())
        listening = asyncio.create_task(worker.report_deafness(reports.put, deaf_seconds=0.5))
        await bus.ensure()
        for _ in range(2):
            await bus.publish(Queue.ROUTE.hints([uuid4()]))

        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await reports.get() is False
            await hands.let_go()
            assert await reports.get() is True
        assert len(hands.taken) == 2
        for task in (pulling, listening):
            task.cancel()


async def test_health_tells_which_part_is_deaf() -> None:
    async with serving("127.0.0.1:0", {}, parts=["work.route", "work.execute"]) as server:
        await server.report(False, part="work.execute")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            answers = [
                (await health.Check(health_pb2.HealthCheckRequest(service=name))).status
                for name in ("", "work.route", "work.execute")
            ]

    status = health_pb2.HealthCheckResponse.ServingStatus
    assert answers == [status.NOT_SERVING, status.SERVING, status.NOT_SERVING]


async def test_a_worker_with_nothing_to_do_is_not_deaf(bus: Bus) -> None:
    hands = Hands()
    reports: asyncio.Queue[bool] = asyncio.Queue()
    async with working(bus, Queue.ROUTE, each(hands), slots=1) as worker:
        pulling = asyncio.create_task(worker.pull())
        listening = asyncio.create_task(worker.report_deafness(reports.put, deaf_seconds=0.2))
        await bus.ensure()
        for taken in range(1, 4):
            await bus.publish(Queue.ROUTE.hints([uuid4()]))
            await hands.have(lambda h, taken=taken: len(h.taken) == taken)  # type: ignore[misc]
            # Several looks at an empty queue.
            await asyncio.wait([listening], timeout=0.3)
        for task in (pulling, listening):
            task.cancel()

    assert reports.empty()
