"""The bus in a cluster of three real servers: as many replicas as it allows, and no fewer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import pytest
import pytest_asyncio
from nats.js import JetStreamContext, api

from engine.bus import ABSENT, STREAM, Bus, Queue, open_bus
from tests.system.nats_cluster import NatsCluster, leader, replicated, running_cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORDER = UUID("01890000-0000-7000-8000-000000000001")
PATIENCE_SECONDS = 30


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsCluster]:
    async with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def bus(cluster: NatsCluster) -> AsyncIterator[Bus]:
    """Connected to a cluster that has no stream."""
    async with open_bus(cluster.url, "test") as opened:
        connected = asyncio.Event()
        opened.on_connect(connected.set)
        if not opened.connected:
            await asyncio.wait_for(connected.wait(), PATIENCE_SECONDS)
        await until_done(opened.ensure)  # who leads the cluster may not be decided yet
        await until_done(lambda: stream_of(opened).delete_stream(STREAM))
        yield opened


def stream_of(bus: Bus) -> JetStreamContext:
    assert bus.client is not None
    return bus.client.jetstream(timeout=5)


async def until_done(act: Callable[[], Awaitable[object]]) -> None:
    """Try it until the cluster can do it, under one timeout."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                await act()
                return
            except ABSENT:
                await asyncio.sleep(0.05)


async def config_of(bus: Bus) -> api.StreamConfig:
    return (await stream_of(bus).stream_info(STREAM)).config


async def test_in_a_cluster_the_queues_have_three_replicas(bus: Bus) -> None:
    await until_done(bus.ensure)

    await replicated(bus)
    assert (await config_of(bus)).num_replicas == 3


async def test_many_may_create_the_queues_of_a_cluster_at_once(
    cluster: NatsCluster, bus: Bus
) -> None:
    await asyncio.gather(*(until_done(bus.ensure) for _ in range(5)))

    assert (await config_of(bus)).num_replicas == 3


async def test_a_stream_from_before_the_cluster_gets_its_replicas_and_keeps_the_rest(
    bus: Bus,
) -> None:
    subjects = [queue.subject for queue in Queue]
    await stream_of(bus).add_stream(
        api.StreamConfig(
            name=STREAM, subjects=subjects, retention=api.RetentionPolicy.WORK_QUEUE, max_msgs=7
        )
    )
    await until_done(lambda: hint_once(bus))

    await until_done(bus.ensure)
    await replicated(bus)

    config = await config_of(bus)
    assert (config.num_replicas, config.max_msgs) == (3, 7)
    await until_done(lambda: one_waits(bus))


async def test_replicas_are_never_taken_away(bus: Bus) -> None:
    await until_done(bus.ensure)
    await stream_of(bus).update_stream((await config_of(bus)).evolve(max_msgs=7))

    await until_done(bus.ensure)

    config = await config_of(bus)
    assert (config.num_replicas, config.max_msgs) == (3, 7)


async def test_a_hint_outlives_the_server_that_led_the_queue(
    cluster: NatsCluster, bus: Bus
) -> None:
    await until_done(bus.ensure)
    await replicated(bus)
    await until_done(lambda: hint_once(bus))
    first = await leader(bus)

    await cluster.kill(first)

    assert await leader(bus, other_than=first) != first
    await until_done(lambda: one_waits(bus))
    await cluster.start(first)


async def hint_once(bus: Bus) -> None:
    """A hint on the route queue; to be repeated, for who answers may not know the stream yet."""
    once = {api.Header.MSG_ID.value: "the hint"}
    await stream_of(bus).publish(Queue.ROUTE.subject, ORDER.bytes, headers=once)


async def one_waits(bus: Bus) -> None:
    """TimeoutError while the route queue does not hold exactly one hint."""
    if await bus.waiting(Queue.ROUTE) != 1:
        raise TimeoutError
