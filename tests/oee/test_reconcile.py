"""`oee reconcile --restored`, with the real database, chain and executor's process."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from engine.errors import StartupError
from oee.console import Exit
from oee.logs import MergedLog
from oee.ports import Ports
from oee.postgres import Postgres
from oee.reconcile import reconcile, summary
from oee.stack import Stack

HALTED = "SELECT halt_time IS NOT NULL FROM signing"


class Words(io.StringIO):
    """A log that tells when these words were said."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.said = threading.Event()
        self._words = words

    def write(self, text: str) -> int:
        if self._words in text:
            self.said.set()
        return super().write(text)


@pytest.fixture
def directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a stack with short slots lives."""
    monkeypatch.setenv("SLOT_MILLISECONDS", "5")
    yield home
    Postgres(home / "postgres").wipe()


async def run(directory: Path, paint: Callable[[str], None] = print) -> Exit:
    return await reconcile(directory, Ports.free(), MergedLog(io.StringIO()), paint, True)


async def is_halted(directory: Path) -> bool:
    postgres = Postgres(directory / "postgres")
    await asyncio.to_thread(postgres.start)
    connection = await asyncpg.connect(postgres.dsn, timeout=10)
    halted: bool = await connection.fetchval(HALTED)
    await connection.close()
    await asyncio.to_thread(postgres.stop)
    return halted


async def test_a_database_without_any_order_may_sign_once_everything_has_expired(
    directory: Path,
) -> None:
    printed: list[str] = []

    code = await run(directory, printed.append)

    [report] = map(json.loads, printed)
    assert code is Exit.DONE
    assert (report["read"], report["signing"]) == (0, "allowed")
    assert report["finalized_block_height"] > report["horizon"] >= 300
    assert not await is_halted(directory)


async def test_a_run_that_is_interrupted_leaves_signing_halted(directory: Path) -> None:
    words = Words("waiting for blockhashes")
    log = MergedLog(words)
    running = asyncio.create_task(reconcile(directory, Ports.free(), log, print, False))
    assert await asyncio.to_thread(words.said.wait, 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert await is_halted(directory)


async def test_it_is_refused_while_the_stack_runs(directory: Path) -> None:
    async with Stack(directory, Ports.free(), gateways=0, routers=0, executors=0):
        with pytest.raises(StartupError, match="already in use"):
            await run(directory)


def test_the_summary_tells_everything_that_needs_a_person() -> None:
    report = {
        "horizon": 310,
        "finalized_block_height": 311,
        "read": 5,
        "confirmed": ["order-1"],
        "failed": ["order-2"],
        "kept": ["order-3"],
        "contradictions": ["order order-4: it swapped twice"],
        "signing": "halted",
    }

    lines = summary(report).splitlines()

    assert [word in line for word, line in zip(ORDERS, lines[1:5], strict=True)] == [True] * 4
    assert lines[-1] == "signing is halted"


ORDERS = ("order-1", "order-2", "order-3", "order-4")
