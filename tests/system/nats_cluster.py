"""Three nats-servers on this machine that are one cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from nats.js.api import ClusterInfo

from engine.bus import ABSENT, STREAM, Bus
from oee.nats import Nats
from oee.ports import HOST, free_ports

SERVERS: Final = 3
LOOK_SECONDS: Final = 0.05
# An election takes up to 9 s; a server that was killed is missed only some seconds later.
PATIENCE_SECONDS: Final = 30


class NatsCluster:
    """The servers by their names. Which of them leads is asked through a bus."""

    def __init__(self, directory: Path) -> None:
        routes = [f"nats://{HOST}:{port}" for port in free_ports(SERVERS)]
        self.servers = {
            f"n{number}": Nats(
                directory / f"n{number}",
                port,
                options=[
                    *("--name", f"n{number}"),
                    *("--cluster_name", "test"),
                    *("--cluster", routes[number]),
                    *("--routes", ",".join(routes)),
                ],
            )
            for number, port in enumerate(free_ports(SERVERS))
        }

    @property
    def url(self) -> str:
        """All three, as NATS_URL takes them."""
        return ",".join(server.url for server in self.servers.values())

    async def kill(self, name: str) -> None:
        """SIGKILL one."""
        await asyncio.to_thread(self.servers[name].kill)

    async def start(self, name: str) -> None:
        """Start one that was killed, at its old address, with its store."""
        await asyncio.to_thread(self.servers[name].start)


@asynccontextmanager
async def running_cluster(directory: Path) -> AsyncIterator[NatsCluster]:
    """All three serve inside; who leads them may not be decided yet."""
    cluster = NatsCluster(directory)
    try:
        await asyncio.gather(*(cluster.start(name) for name in cluster.servers))
        yield cluster
    finally:
        servers = cluster.servers.values()
        await asyncio.gather(*(asyncio.to_thread(server.kill) for server in servers))


async def leader(bus: Bus, *, other_than: str = "") -> str:
    """The server that leads the work queue's stream, once there is one."""
    info = await _until(bus, lambda info: info.leader not in (None, "", other_than))
    assert info.leader is not None
    return info.leader


async def replicated(bus: Bus) -> None:
    """Return once the stream has a leader and every other server has all of it."""
    await _until(
        bus,
        lambda info: (
            bool(info.leader)
            and sum(bool(peer.current) for peer in info.replicas or []) == SERVERS - 1
        ),
    )


async def _until(bus: Bus, holds: Callable[[ClusterInfo], bool]) -> ClusterInfo:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (info := await _info(bus)) is None or not holds(info):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
        return info


async def _info(bus: Bus) -> ClusterInfo | None:
    """None while the cluster cannot tell."""
    if bus.client is None:
        return None
    try:
        return (await bus.client.jetstream(timeout=1).stream_info(STREAM)).cluster
    except ABSENT:
        return None
