"""What this machine does for the bare parts of an order: the wire, a commit, a hint.

Each part is loaded as the engine loads it, with nothing of the engine around it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import asyncpg
import grpc
import msgspec
import nats
import uuid_utils.compat
from nats.js import api

from bench.accounting import POSTGRES, read_cpu
from bench.echo import STREAM, UNARY
from bench.load import CODE
from engine import mints, statements
from engine.migrate import migrate
from engine.order import Order, OrderRequest
from oee.health import channel
from oee.nats import Nats
from oee.ports import HOST, free_ports
from oee.postgres import Postgres

CALL_SECONDS: Final = 10.0
SECONDS: Final = 2.0
WARM_UP_SECONDS: Final = 0.5
IN_FLIGHT: Final = 64
# As many orders as share a commit when 64 are in flight and two commits run at a time.
COMMIT_BATCH: Final = 32
COMMITS_IN_FLIGHT: Final = 2
# About as many as an event, or an order to submit, has.
PAYLOAD: Final = bytes(200)
HINT: Final = bytes(16)

# What an order without a detour is: accepted, routed, chosen, built, signed, confirmed,
# finalized; its first two steps leave a hint for the next service.
STEPS: Final = 7
HINTS: Final = 2


class Limit(msgspec.Struct, frozen=True):
    """One bare part: how many a second, and CPU microseconds each, on either side."""

    per_second: float
    server_microseconds: float
    client_microseconds: float


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine can do at best, part by part.

    A row of `group_commit` is a row in orders and one in order_events.
    """

    cores: int
    unary_call: Limit
    stream_message: Limit
    group_commit: Limit
    jetstream_publish: Limit

    @property
    def cpu_ms_per_order(self) -> float:
        """What an order would cost if nothing but these parts had to be done.

        A message in, an event out for each step, as messages on a stream (the server's side; the
        client is apart); each step committed once; a hint for each hand-over, both sides.
        """
        wire = (1 + STEPS) * self.stream_message.server_microseconds
        commit = self.group_commit.server_microseconds + self.group_commit.client_microseconds
        hint = (
            self.jetstream_publish.server_microseconds + self.jetstream_publish.client_microseconds
        )
        return round((wire + STEPS * commit + HINTS * hint) / 1000, 3)

    @property
    def orders_per_second(self) -> float:
        """That, on all cores."""
        return round(self.cores * 1000 / self.cpu_ms_per_order, 1)

    def implied(self) -> dict[str, float]:
        """What all parts together mean for an order, by name."""
        return {
            "cpu_ms_per_order": self.cpu_ms_per_order,
            "orders_per_second": self.orders_per_second,
        }


async def measure_limits(directory: Path) -> Limits:
    """All of them, one after the other, with servers of their own in `directory`."""
    async with _echo_server() as (address, echo_pid), channel(address) as opened:
        unary_call = await _measured("echo", echo_pid, IN_FLIGHT, _unary(opened))
        stream_message = await _measured("echo", echo_pid, 1, _stream(opened))
    group_commit = await _group_commit(Postgres(directory / "postgres"))
    jetstream_publish = await _jetstream_publish(Nats(directory / "nats"))
    return Limits(
        cores=os.cpu_count() or 1,
        unary_call=unary_call,
        stream_message=stream_message,
        group_commit=group_commit,
        jetstream_publish=jetstream_publish,
    )


# Does some of it, and says how many.
Step = Callable[[], Awaitable[int]]


async def _measured(name: str, pid: int, tasks: int, step: Step) -> Limit:
    """What so many tasks get done, each step after step."""

    async def keep_going(seconds: float) -> int:
        end = time.perf_counter() + seconds
        done = 0
        while time.perf_counter() < end:
            done += await step()
        return done

    async def all_tasks(seconds: float) -> int:
        async with asyncio.timeout(seconds + CALL_SECONDS):
            return sum(await asyncio.gather(*(keep_going(seconds) for _ in range(tasks))))

    await all_tasks(WARM_UP_SECONDS)
    before = read_cpu({name: pid})[name, pid]
    own, started = time.process_time(), time.perf_counter()
    done = await all_tasks(SECONDS)
    seconds = time.perf_counter() - started
    server = read_cpu({name: pid})[name, pid] - before
    return Limit(
        per_second=round(done / seconds, 1),
        server_microseconds=round(server / done * 1e6, 1),
        client_microseconds=round((time.process_time() - own) / done * 1e6, 1),
    )


@asynccontextmanager
async def _echo_server() -> AsyncIterator[tuple[str, int]]:
    [port] = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "bench.echo", str(port)),
        env={**os.environ, "PYTHONPATH": CODE},
        start_new_session=True,
    )
    try:
        yield f"{HOST}:{port}", process.pid
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _unary(opened: grpc.aio.Channel) -> Step:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = opened.unary_unary(UNARY)

    async def step() -> int:
        await call(PAYLOAD, wait_for_ready=True, timeout=CALL_SECONDS)
        return 1

    return step


def _stream(opened: grpc.aio.Channel) -> Step:
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = opened.stream_stream(STREAM)
    stream = method(wait_for_ready=True)

    async def step() -> int:
        """One batch there and back: writing and reading at the same time."""

        async def write() -> None:
            for _ in range(IN_FLIGHT):
                await stream.write(PAYLOAD)

        async def read() -> None:
            for _ in range(IN_FLIGHT):
                await stream.read()

        await asyncio.gather(write(), read())
        return IN_FLIGHT

    return step


async def _group_commit(server: Postgres) -> Limit:
    async with AsyncExitStack() as opened:
        opened.push_async_callback(asyncio.to_thread, server.wipe)
        opened.push_async_callback(asyncio.to_thread, server.stop)
        await asyncio.to_thread(server.start)
        await migrate(server.dsn)
        pool = await opened.enter_async_context(
            asyncpg.create_pool(
                server.dsn,
                min_size=COMMITS_IN_FLIGHT,
                max_size=COMMITS_IN_FLIGHT,
                command_timeout=CALL_SECONDS,
            )
        )
        return await _measured(POSTGRES, server.pid, COMMITS_IN_FLIGHT, _commit(pool))


def _commit(pool: asyncpg.Pool) -> Step:
    wanted = OrderRequest(
        token_in=mints.SOL,
        token_out=mints.USDC,
        amount_in=100_000_000,
    )

    async def step() -> int:
        ids = [uuid_utils.compat.uuid7() for _ in range(COMMIT_BATCH)]
        orders = [Order(order_id, "default", str(order_id), wanted) for order_id in ids]
        return len(await pool.fetch(statements.ADD, *statements.new(orders)))

    return step


async def _jetstream_publish(server: Nats) -> Limit:
    async with AsyncExitStack() as opened:
        opened.push_async_callback(asyncio.to_thread, server.stop)
        await asyncio.to_thread(server.start)
        client = await nats.connect(server.url)
        opened.push_async_callback(client.close)
        stream = client.jetstream(timeout=CALL_SECONDS)
        await stream.add_stream(
            api.StreamConfig(name="BENCH", subjects=["bench"], storage=api.StorageType.FILE)
        )

        async def step() -> int:
            acks = [await stream.publish_async("bench", HINT) for _ in range(IN_FLIGHT)]
            await asyncio.gather(*acks)
            return IN_FLIGHT

        return await _measured("nats", server.pid, 1, step)
