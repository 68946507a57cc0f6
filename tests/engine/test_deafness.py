"""A worker that has work waiting and takes none says so, and takes it back when it does again."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from engine.bus import Bus, Queue
from engine.work import working
from tests.engine.test_work import Hands

PATIENCE_SECONDS = 20


async def test_work_that_waits_while_none_is_taken_is_reported(bus: Bus) -> None:
    hands = Hands(holding=True)
    reports: asyncio.Queue[bool] = asyncio.Queue()
    async with working(bus, Queue.ROUTE, hands, slots=1) as worker:
        pulling = asyncio.create_task(worker.pull())
        listening = asyncio.create_task(worker.report_deafness(reports.put, deaf_seconds=0.5))
        await bus.ensure()
        for _ in range(2):
            await bus.offer(Queue.ROUTE, uuid4())

        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await reports.get() is False
            await hands.let_go()
            assert await reports.get() is True
        assert len(hands.taken) == 2
        for task in (pulling, listening):
            task.cancel()


async def test_a_worker_with_nothing_to_do_is_not_deaf(bus: Bus) -> None:
    hands = Hands()
    reports: asyncio.Queue[bool] = asyncio.Queue()
    async with working(bus, Queue.ROUTE, hands, slots=1) as worker:
        pulling = asyncio.create_task(worker.pull())
        listening = asyncio.create_task(worker.report_deafness(reports.put, deaf_seconds=0.2))
        await bus.ensure()
        for taken in range(1, 4):
            await bus.offer(Queue.ROUTE, uuid4())
            await hands.have(lambda h, taken=taken: len(h.taken) == taken)  # type: ignore[misc]
            # Several looks at an empty queue.
            await asyncio.wait([listening], timeout=0.3)
        for task in (pulling, listening):
            task.cancel()

    assert reports.empty()
