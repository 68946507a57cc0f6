"""The engine under measurement: real processes with their own data, and a load client."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from bench.accounting import POSTGRES, RoundTrips
from bench.load import LoadClient, load_client
from oee.health import channel
from oee.nats import Nats
from oee.ports import HOST, Ports, free_ports
from oee.stack import Stack

SETTLE_POLL_SECONDS: Final = 0.02
OPEN_SECONDS: Final = 10.0

# Nothing waits on purpose: what is left is the engine's own time.
SIMULATOR: Final[Mapping[str, str]] = {
    "QUOTE_DELAY_MILLISECONDS": "0",
    "BUILD_DELAY_MILLISECONDS": "0",
    "CHAIN_DELAY_MILLISECONDS": "0",
    "SLOT_MILLISECONDS": "0",
    "SKIPPED_SLOT_PERCENT": "0",
    "CONFIRMED_AFTER_SLOTS": "0",
    "FINALIZED_AFTER_SLOTS": "0",
    "NODE_LAG_SLOTS": "0",
    # A block comes every few milliseconds: a market that moved with each would be the simulator's
    # work, many times what a real slot brings. Our own swaps move the pools.
    "TRADES_A_SLOT": "0",
    "DRIFT_PPM": "0",
}
SERVICES: Final[Mapping[str, str]] = {
    "LOG_LEVEL": "WARNING",
    "CONCURRENCY": "256",
    "ORDERS_PER_MINUTE": "0",
    "MAX_STREAMS": "0",
    "ROUTES_PER_SECOND": "0",
    # Slots pass every 5 ms here instead of every 400: the same time behind is so many more.
    "MAX_SLOT_LAG": "800",
}

STATUSES: Final = """
SELECT status, count(*) FROM orders
 WHERE client_order_id LIKE $1 AND complete_time IS NOT NULL GROUP BY status
"""
UNSETTLED: Final = "SELECT EXISTS (SELECT FROM orders WHERE NOT settled)"


@dataclass(frozen=True, slots=True)
class BenchStack:
    """One gateway, router, executor and simulator, one database and queue, one load client."""

    stack: Stack
    nats: Nats
    client: LoadClient
    database: asyncpg.Connection[Any]
    round_trips: RoundTrips
    profiled: str | None  # the service that is looked into while it is measured

    @property
    def pids(self) -> Mapping[str, int]:
        """Every process but the load client, by its name; without those that do not run."""
        assert self.stack.postgres is not None
        found = {}
        for name in self.stack.services:
            try:
                found[name] = self.stack.pid(name)
            except RuntimeError:
                continue
        return {**found, "nats": self.nats.pid, POSTGRES: self.stack.postgres.pid}

    async def statuses(self, key: str) -> dict[str, int]:
        """How many orders of this key have which final status."""
        found = await self.database.fetch(STATUSES, f"{key}-%", timeout=OPEN_SECONDS)
        return {row["status"].upper(): row["count"] for row in found}

    async def until_settled(self, within_seconds: float) -> bool:
        """Wait until no order is unsettled; False when that takes longer."""
        deadline = time.monotonic() + within_seconds
        while await self.database.fetchval(UNSETTLED, timeout=OPEN_SECONDS):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(SETTLE_POLL_SECONDS)
        return True


@asynccontextmanager
async def bench_stack(
    directory: Path,
    show: Callable[[str, str], None],
    settings: Mapping[str, str],
    profiled: str | None = None,
) -> AsyncIterator[BenchStack]:
    """A running stack with its data in `directory`; all of it is stopped on leaving.

    The services get SERVICES and `settings`, the simulator SIMULATOR.
    """
    [monitor] = free_ports(1)
    nats = Nats(directory / "nats", options=("--http_port", str(monitor)))
    async with AsyncExitStack() as opened:
        opened.push_async_callback(asyncio.to_thread, nats.stop)
        await asyncio.to_thread(nats.start)
        # Only servers of our own can be measured.
        environment = {
            **os.environ,
            **SERVICES,
            **settings,
            "NATS_URL": nats.url,
            "POSTGRES_DSN": "",
        }
        stack = Stack(
            directory, Ports.free(), environment, settings={"dex_sim": SIMULATOR}, show=show
        )
        await opened.enter_async_context(stack)
        simulator = await opened.enter_async_context(channel(stack.chain_address))
        database = await asyncpg.connect(stack.postgres_dsn, timeout=OPEN_SECONDS)
        opened.push_async_callback(database.close, timeout=OPEN_SECONDS)
        round_trips = RoundTrips(database, f"http://{HOST}:{monitor}", simulator)
        client = await opened.enter_async_context(
            load_client(stack.address, directory / "load.log")
        )
        yield BenchStack(stack, nats, client, database, round_trips, profiled)
