"""The pace of a chain without fixed slots."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from dex_sim import clock
from dex_sim.chain import Chain, Rules
from dex_sim.chance import Chance, Range
from dex_sim.ledger_file import open_ledger

LONG_SECONDS = 1000.0

RULES = Rules(
    skipped_slot_percent=0,
    confirmed_after_slots=2,
    finalized_after_slots=31,
    drift_ppm=0,
    trades_a_slot=0,
    execution_slippage_bps=Range(0, 0),
    nodes=1,
    node_lag_slots=0,
)


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    with open_ledger(tmp_path) as ledger:
        yield Chain(ledger, Chance(1), RULES)


async def slots_wanted_without_end(chain: Chain) -> int:
    """How many slots there were, once more of them is no matter of a moment."""
    before, seen = chain.head.slot, -1
    time = asyncio.create_task(clock.keep_time(chain, 0))
    while seen < chain.head.slot:
        seen = chain.head.slot
        for _ in range(1000):
            chain.wanted.set()
            await asyncio.sleep(0)
    time.cancel()
    return seen - before


async def test_a_block_is_made_at_once_when_it_is_wanted(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "IDLE_SLOT_SECONDS", LONG_SECONDS)
    made = asyncio.Event()
    advance = chain.advance

    def advance_and_tell() -> None:
        advance()
        made.set()

    monkeypatch.setattr(chain, "advance", advance_and_tell)
    before = chain.head.slot
    time = asyncio.create_task(clock.keep_time(chain, 0))

    for number in (1, 2, 3):
        made.clear()
        chain.wanted.set()
        async with asyncio.timeout(10):
            await made.wait()
        assert chain.head.slot == before + number

    time.cancel()


async def test_however_many_blocks_are_wanted_only_a_few_come_before_their_time(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "IDLE_SLOT_SECONDS", LONG_SECONDS)
    monkeypatch.setattr(clock, "BUSY_SLOT_SECONDS", LONG_SECONDS)
    monkeypatch.setattr(clock, "EARLY_SECONDS", 2.5 * LONG_SECONDS)

    assert await slots_wanted_without_end(chain) == 3
