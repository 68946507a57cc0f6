"""Two of each service on three nats-servers: any one process may be killed, and nobody notices."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from engine.bus import open_bus
from engine.v1 import orders_pb2 as pb
from tests.system.conftest import PATIENCE_SECONDS, Engine, assert_swapped_once, running_engine
from tests.system.nats_cluster import leader, replicated, running_cluster

ORDER_EVERY_SECONDS = 0.25
OUTAGE_SECONDS = 5
LOST, BACK = "nats connection lost", "nats connected"
A_HANDFUL = 4
SERVICES = ("gateway", "router", "executor")


@asynccontextmanager
async def steady_load(engine: Engine) -> AsyncIterator[list[pb.Order]]:
    """Orders that are submitted one after the other inside; all that were accepted."""
    accepted: list[pb.Order] = []
    stop = asyncio.Event()

    async def submit() -> None:
        while not stop.is_set():
            accepted.append(await engine.submit())
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), ORDER_EVERY_SECONDS)

    async with asyncio.TaskGroup() as group:
        group.create_task(submit())
        yield accepted
        stop.set()


async def test_a_cluster_loses_its_leader_a_follower_and_one_of_each_service_under_load(
    tmp_path: Path,
) -> None:
    async with (
        running_cluster(tmp_path / "nats") as cluster,
        running_engine(
            tmp_path / "stack",
            gateways=2,
            routers=2,
            executors=2,
            environment={**os.environ, "NATS_URL": cluster.url},
        ) as engine,
        open_bus(cluster.url, "test") as bus,
    ):
        await replicated(bus)
        async with steady_load(engine) as orders:
            await assert_swapped_once(engine, await engine.submit())

            led = await leader(bus)
            await cluster.kill(led)
            await assert_swapped_once(engine, await engine.submit())
            successor = await leader(bus, other_than=led)
            await cluster.start(led)
            await replicated(bus)

            [follower] = cluster.servers.keys() - {led, successor}
            await cluster.kill(follower)
            for name in SERVICES:
                await engine.stack.kill(name)
                await assert_swapped_once(engine, await engine.submit())
            await cluster.start(follower)
            await replicated(bus)

        await asyncio.gather(*(assert_swapped_once(engine, order) for order in orders))


@pytest.mark.asyncio(loop_scope="session")
async def test_each_service_says_once_that_nats_is_away_and_once_that_it_is_back(
    engine: Engine,
) -> None:
    nats = engine.stack.nats
    assert nats is not None
    await assert_swapped_once(engine, await engine.submit())
    before = len(engine.said)

    def lines_of(service: str) -> list[str]:
        return [line for source, line in engine.said[before:] if source == service]

    def all_are_back() -> bool:
        return all(any(BACK in line for line in lines_of(service)) for service in SERVICES)

    await asyncio.to_thread(nats.kill)
    await asyncio.sleep(OUTAGE_SECONDS)  # the outage itself
    await asyncio.to_thread(nats.start)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not all_are_back():  # noqa: ASYNC110 - other processes say it
            await asyncio.sleep(0.01)

    for service in SERVICES:
        lines = lines_of(service)
        assert [sum(words in line for line in lines) for words in (LOST, BACK)] == [1, 1]
        assert len(lines) <= A_HANDFUL
