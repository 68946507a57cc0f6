"""Migrations against a real PostgreSQL: each once, whoever else migrates at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from engine import migrate as module
from engine.errors import StartupError
from engine.migrate import migrate
from engine.store import open_store
from oee.postgres import Postgres

SHIPPED = sorted(path.name for path in Path(module.__file__).parent.glob("migrations/*.sql"))


async def ask(dsn: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        found: list[asyncpg.Record] = await connection.fetch(statement)
        return found
    finally:
        await connection.close()


@pytest.fixture
async def empty(postgres: Postgres) -> AsyncIterator[str]:
    """A schema without a single table."""
    await ask(postgres.dsn, "CREATE SCHEMA fresh")
    yield f"{postgres.dsn}&search_path=fresh"
    await ask(postgres.dsn, "DROP SCHEMA fresh CASCADE")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose scripts are the package's migrations."""
    (tmp_path / "migrations").mkdir()
    monkeypatch.setattr(module, "files", lambda package: tmp_path)
    return tmp_path / "migrations"


async def names(dsn: str) -> list[str]:
    return [row["name"] for row in await ask(dsn, "SELECT name FROM migrations ORDER BY name")]


async def test_an_empty_database_is_ready_after_migrating(empty: str) -> None:
    assert await migrate(empty) == SHIPPED

    async with open_store(empty) as store:
        assert {"SOL", "USDC"} <= {token.symbol for token in store.tokens.all}


async def test_migrating_twice_is_migrating_once(empty: str) -> None:
    await migrate(empty)

    assert await migrate(empty) == []
    assert await names(empty) == SHIPPED


async def test_of_many_at_once_one_migrates_and_the_others_wait_for_it(empty: str) -> None:
    applied = await asyncio.gather(*(migrate(empty) for _ in range(4)))

    assert sorted(applied) == [[], [], [], SHIPPED]
    assert await names(empty) == SHIPPED


async def test_scripts_run_by_name_and_only_those_that_are_missing(empty: str, shelf: Path) -> None:
    (shelf / "0002_second.sql").write_text("INSERT INTO steps VALUES ('second')")
    (shelf / "0001_first.sql").write_text("CREATE TABLE steps (name text)")
    (shelf / "README.md").write_text("not a script")
    assert await migrate(empty) == ["0001_first.sql", "0002_second.sql"]
    (shelf / "0003_third.sql").write_text("INSERT INTO steps VALUES ('third')")

    assert await migrate(empty) == ["0003_third.sql"]

    assert [row["name"] for row in await ask(empty, "SELECT name FROM steps")] == [
        "second",
        "third",
    ]


@pytest.mark.parametrize(
    "flaw",
    [
        "SELECT nonsense",
        # Runs, and can then not be noted down.
        "INSERT INTO migrations (name) VALUES ('0002_second.sql')",
    ],
)
async def test_a_script_that_fails_leaves_nothing_and_can_be_repeated(
    empty: str, shelf: Path, flaw: str
) -> None:
    (shelf / "0001_first.sql").write_text("CREATE TABLE one (name text)")
    broken = shelf / "0002_second.sql"
    broken.write_text(f"CREATE TABLE two (name text); {flaw}")

    with pytest.raises(asyncpg.PostgresError):
        await migrate(empty)

    assert await names(empty) == ["0001_first.sql"]
    broken.write_text("CREATE TABLE two (name text)")
    assert await migrate(empty) == ["0002_second.sql"]


async def test_a_service_refuses_a_database_that_was_never_migrated(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.store.OPEN_SECONDS", 0)

    with pytest.raises(StartupError, match=r"python -m engine\.migrate"):
        async with open_store(empty):
            pass
