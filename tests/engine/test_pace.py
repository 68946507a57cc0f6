"""Turns at a fixed distance, on a clock that the test moves."""

from __future__ import annotations

import asyncio

import pytest

from engine.pace import Pace


class Clock:
    """The loop's clock and its sleep, without waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: self.now)
        monkeypatch.setattr(asyncio, "sleep", self._sleep)
        self.slept: list[float] = []

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_turns_are_evenly_spread_however_many_ask_at_once(clock: Clock) -> None:
    pace = Pace(4)
    for _ in range(4):
        await pace.turn()
    assert clock.slept == [0.25, 0.5, 0.75]


async def test_time_without_turns_saves_up_none(clock: Clock) -> None:
    pace = Pace(2)
    await pace.turn()
    clock.now += 60
    await pace.turn()
    await pace.turn()
    assert clock.slept == [0.5]


@pytest.mark.parametrize(("rate", "ahead"), [(0.5, 1), (1, 1), (3.7, 3), (1000, 1000)])
def test_nobody_waits_behind_more_than_a_second_of_turns(rate: float, ahead: int) -> None:
    assert Pace(rate).calls_ahead == ahead
