"""Real servers for tests: one PostgreSQL a session, a database of its own a test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from engine.bus import Bus, open_bus
from engine.migrate import migrate
from engine.store import Store, open_store
from oee.nats import Nats
from oee.postgres import Postgres

TEMPLATE = "migrated"
_numbers = itertools.count(1)


def database_dsn(postgres: Postgres, name: str) -> str:
    """The DSN of another database of this server."""
    base, _, query = postgres.dsn.partition("?")
    return f"{base.rsplit('/', 1)[0]}/{name}?{query}"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL with a migrated template database; fsync on, as in production."""
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    try:
        asyncio.run(_create_template(server))
        yield server
    finally:
        server.stop()


async def _create_template(server: Postgres) -> None:
    await _execute(server.dsn, f"CREATE DATABASE {TEMPLATE}")
    await migrate(database_dsn(server, TEMPLATE))


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def dsn(postgres: Postgres) -> AsyncIterator[str]:
    """A migrated database of the test's own."""
    name = f"test_{next(_numbers)}"
    await _execute(postgres.dsn, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield database_dsn(postgres, name)
    await _execute(postgres.dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[Store]:
    async with open_store(dsn) as opened:
        yield opened


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[Nats]:
    """A nats-server of the test's own."""
    server = Nats(tmp_path / "nats", 0)
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.stop)


@pytest.fixture
async def bus(nats: Nats) -> AsyncIterator[Bus]:
    async with open_bus(nats.url, "test") as opened:
        connected = asyncio.Event()
        opened.on_connect(connected.set)
        if not opened.connected:
            await asyncio.wait_for(connected.wait(), 10)
        yield opened
