"""Applies the migrations that a database lacks, each once: `python -m engine.migrate`."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import Final

import asyncpg
import structlog
from pydantic import Field

from engine import runtime
from engine.connections import reaching
from engine.settings import PostgresDsn, ServiceSettings

# Any constant: it only has to be the same in every process that migrates.
ADVISORY_LOCK: Final = 0x0EE
DEADLINE_SECONDS: Final = 60.0
# A script may have to write every order and event anew, some ten thousand a second.
SCRIPT_SECONDS: Final = 3 * 3600.0

logger = structlog.get_logger()


class Settings(ServiceSettings):
    postgres_dsn: PostgresDsn = Field(description="postgresql://USER@HOST/DATABASE")


async def migrate(dsn: str) -> list[str]:
    """Bring the database up to date and return the names of what was applied; safe to repeat.

    Each migration is its own transaction; concurrent callers wait for each other.
    Raises StartupError when TLS with the server is not possible, or it does not let us in.
    """
    applied = []
    with reaching(dsn):
        connection = await asyncpg.connect(dsn, timeout=10, command_timeout=DEADLINE_SECONDS)
    try:
        await connection.execute(
            "SELECT pg_advisory_lock($1)", ADVISORY_LOCK, timeout=SCRIPT_SECONDS
        )
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations "
            "(name text PRIMARY KEY, apply_time timestamptz NOT NULL DEFAULT now())"
        )
        known = {row["name"] for row in await connection.fetch("SELECT name FROM migrations")}
        scripts = sorted(files("engine").joinpath("migrations").iterdir(), key=lambda f: f.name)
        for script in scripts:
            if script.name in known or not script.name.endswith(".sql"):
                continue
            async with connection.transaction():
                await connection.execute(script.read_text(), timeout=SCRIPT_SECONDS)
                await connection.execute("INSERT INTO migrations (name) VALUES ($1)", script.name)
            applied.append(script.name)
    finally:
        await connection.close(timeout=5)
    return applied


async def run(settings: Settings, stop: asyncio.Event) -> None:
    applied = await migrate(settings.postgres_dsn.get_secret_value())
    logger.info("database is up to date", applied=applied)


if __name__ == "__main__":
    runtime.main("migrate", Settings, run)
