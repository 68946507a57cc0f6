"""Real servers for tests: one PostgreSQL a session, a database of its own a test."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import pytest

from engine.bus import Bus, open_bus
from engine.migrate import migrate
from engine.store import Store, open_store
from oee import ports
from oee.nats import Nats
from oee.postgres import Postgres

# Servers sync whatever they are told, which for hundreds of new databases is most of the waiting.
MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 * 2**30

_numbers = itertools.count(1)
TESTS = Path(__file__).parent
# Whole stacks: a few tests each, which take longest and mostly wait. Begun last, they would be
# waited for alone.
FIRST = ("system", "oee", "bench")


def pytest_configure() -> None:
    """What is written for a test is kept in memory, where that has room and nobody asks otherwise.

    The servers' settings stay those of production. Of the ports, each process has its own: between
    being found free and being listened at, another's tests would find them free as well.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    setattr(ports, "FREE_RANGE", ports.FREE_RANGE[worker::workers])  # noqa: B010 - it is Final
    may_be_used = "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK)
    if may_be_used and shutil.disk_usage(MEMORY).free >= ROOM_BYTES:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] not in FIRST)


@pytest.fixture(scope="session", autouse=True)
def _folders_may_be_entered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For root, PostgreSQL runs as somebody else. Where that user may not enter, its data go to the
    disk; pytest's folders are closed to others."""
    make = tmp_path_factory.mktemp
    folder = tmp_path_factory.getbasetemp()
    while folder.name.startswith(("popen-", "pytest-")):
        folder.chmod(0o711)
        folder = folder.parent

    def open_to_all(basename: str, numbered: bool = True) -> Path:
        made = make(basename, numbered)
        made.chmod(0o711)
        return made

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tmp_path_factory, "mktemp", open_to_all)
        yield


@pytest.fixture(scope="session", autouse=True)
def _clusters_are_made_once(
    tmp_path_factory: pytest.TempPathFactory, _folders_may_be_entered: None
) -> Iterator[None]:
    """initdb makes the first cluster of a session; those that this process starts later are
    copies of it, for a fifth of the time."""
    model = tmp_path_factory.mktemp("cluster") / "model"
    initialise = Postgres._initialise

    def copy(source: Path, target: Path) -> None:
        subprocess.run(["cp", "-a", f"{source}/.", target], check=True)

    def initialise_once(postgres: Postgres, programs: Path, data: Path) -> None:
        if model.exists():
            copy(model, data)
        else:
            initialise(postgres, programs, data)
            copy(data, model)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Postgres, "_initialise", initialise_once)
        yield


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL with fsync on, as in production.

    It is everybody's, and full of what earlier tests left: who stops or kills one has its own.
    """
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.kill()  # stopped in order, it would first write down what is wiped next
    server.wipe()


@pytest.fixture
async def own_postgres(tmp_path: Path) -> AsyncIterator[Postgres]:
    """A PostgreSQL that the test may kill, with a migrated database."""
    server = Postgres(tmp_path / "postgres")
    await asyncio.to_thread(server.start)
    await migrate(server.dsn)
    yield server
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.wipe)


@pytest.fixture(scope="session")
def migrated(postgres: Postgres) -> str:
    """The name of a migrated database, which others are copied from and nobody connects to."""
    asyncio.run(_execute(postgres.dsn, "CREATE DATABASE migrated"))
    asyncio.run(migrate(_named(postgres, "migrated")))
    return "migrated"


# A copy of a database halts itself; this one is nobody's original.
AT_HOME: Final = """
UPDATE signing SET database = (SELECT oid FROM pg_database WHERE datname = current_database());
UPDATE signing SET home = signing_home();
UPDATE event_log SET home = signing_home();
"""


@asynccontextmanager
async def new_database(postgres: Postgres, migrated: str) -> AsyncIterator[str]:
    """The DSN of a migrated database of one's own; a copy takes a fraction of migrating anew."""
    name = f"test_{next(_numbers)}"
    own = _named(postgres, name)
    await _execute(postgres.dsn, f"CREATE DATABASE {name} TEMPLATE {migrated} STRATEGY FILE_COPY")
    await _execute(own, AT_HOME)
    yield own
    await _execute(postgres.dsn, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def dsn(postgres: Postgres, migrated: str) -> AsyncIterator[str]:
    """A migrated database of the test's own."""
    async with new_database(postgres, migrated) as own:
        yield own


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


def _named(postgres: Postgres, database: str) -> str:
    return urlsplit(postgres.dsn)._replace(path=f"/{database}").geturl()


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
