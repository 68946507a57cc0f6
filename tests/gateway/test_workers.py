"""Several gateway processes at one address, as the command line starts them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import psutil

from engine.v1 import orders_pb2 as pb
from engine.v1.orders_pb2_grpc import OrderServiceStub
from oee.nats import Nats
from oee.ports import HOST, free_ports
from tests.gateway.running import PATIENCE_SECONDS, UNREACHABLE, eventually, swap


@asynccontextmanager
async def _started(dsn: str, nats: Nats, port: int, *arguments: str) -> AsyncIterator[Any]:
    environment = {
        **os.environ,
        "POSTGRES_DSN": dsn,
        "NATS_URL": nats.url,
        "VENUES": f"raydium={UNREACHABLE}",
        "LISTEN_ADDRESS": f"{HOST}:{port}",
        "DRAIN_SECONDS": "1",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "gateway", *arguments, env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)


def _workers(process: Any) -> dict[int, int]:
    """How many clients' connections each worker has, by its pid."""
    found = {}
    for worker in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            ends = worker.net_connections()
            found[worker.pid] = sum(c.status == psutil.CONN_ESTABLISHED for c in ends)
    return found


@asynccontextmanager
async def _client(port: int) -> AsyncIterator[Any]:
    # A connection of its own: within a process they are shared otherwise.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"{HOST}:{port}", options=options) as channel:
        await asyncio.wait_for(channel.channel_ready(), PATIENCE_SECONDS)
        yield OrderServiceStub(channel)


async def test_workers_share_the_connections_and_one_that_is_killed_comes_back(
    dsn: str, nats: Nats
) -> None:
    [port] = free_ports(1)
    async with _started(dsn, nats, port, "--workers", "2") as process:

        async def both_serve_someone() -> bool:
            async with _client(port) as one, _client(port) as two:
                for number, client in enumerate((one, two)):
                    await client.SubmitOrder(swap(f"key-{number}"), wait_for_ready=True)
                mine = os.getpid()
                ends = psutil.Process(mine).net_connections()
                local = {c.laddr.port for c in ends if c.raddr and c.raddr.port == port}
                served = [
                    {c.raddr.port for c in w.net_connections() if c.raddr} & local
                    for w in psutil.Process(process.pid).children()
                ]
                return len(served) == 2 and all(served)

        await eventually(both_serve_someone)
        killed = min(_workers(process))
        psutil.Process(killed).kill()

        async def two_again() -> bool:
            return len(_workers(process)) == 2 and killed not in _workers(process)

        await eventually(two_again)
        await eventually(both_serve_someone)
        async with _client(port) as client:
            listed = await client.ListOrders(pb.ListOrdersRequest(), wait_for_ready=True)
            assert {order.client_order_id for order in listed.orders} == {"key-0", "key-1"}
        workers = [*_workers(process)]
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) == 0
        assert not any(psutil.pid_exists(pid) for pid in workers)


async def test_workers_end_when_their_supervisor_is_killed(dsn: str, nats: Nats) -> None:
    [port] = free_ports(1)
    async with _started(dsn, nats, port, "--workers", "2") as process:
        async with _client(port):
            workers = [*_workers(process)]
        process.kill()

        async def all_gone() -> bool:
            return not any(psutil.pid_exists(pid) for pid in workers)

        await eventually(all_gone)


async def test_an_address_that_is_taken_is_not_shared(dsn: str, nats: Nats) -> None:
    [port] = free_ports(1)
    async with _started(dsn, nats, port, "--workers", "2"):
        async with _client(port):
            pass
        for arguments in (("--workers", "2"), ()):
            async with _started(dsn, nats, port, *arguments) as second:
                assert await asyncio.wait_for(second.wait(), PATIENCE_SECONDS) == 2


async def test_a_wrong_number_of_workers_is_told(dsn: str, nats: Nats) -> None:
    for wrong in ("0", "x"):
        async with _started(dsn, nats, 1, "--workers", wrong) as process:
            assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) == 2
