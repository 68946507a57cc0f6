"""Routes without an order, on a clock that the test moves."""

from __future__ import annotations

import asyncio

import pytest

from engine.errors import RateLimited
from gateway.route_pace import RoutePace


class Clock:
    """The loop's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def refused(pace: RoutePace, account: str, routes: int) -> float:
    """For how long these routes are refused; 0 when they are not."""
    try:
        pace.take(account, routes)
    except RateLimited as error:
        return error.retry_seconds or 0.0
    return 0.0


async def test_a_second_is_saved_up_and_then_the_pace_holds(clock: Clock) -> None:
    pace = RoutePace(100)
    clock.now += 60
    assert [refused(pace, "desk", 10) for _ in range(11)] == [0.0] * 10 + [pytest.approx(0.1)]
    for _ in range(30):
        clock.now += 0.1001
        assert refused(pace, "desk", 10) == 0
        assert refused(pace, "desk", 10) > 0


async def test_who_waits_as_long_as_told_is_let_in_and_a_refusal_costs_nothing(
    clock: Clock,
) -> None:
    pace = RoutePace(20)
    for _ in range(2):
        assert refused(pace, "desk", 10) == 0
    told = [refused(pace, "desk", 10) for _ in range(5)]
    assert told == [pytest.approx(0.5)] * 5
    clock.now += told[0] + 1e-6
    assert refused(pace, "desk", 10) == 0


async def test_no_account_waits_for_another(clock: Clock) -> None:
    pace = RoutePace(10)
    assert refused(pace, "desk", 10) == 0
    assert refused(pace, "desk", 1) > 0
    assert refused(pace, "other", 10) == 0


async def test_a_pace_below_one_preview_a_second_still_lets_one_through(clock: Clock) -> None:
    pace = RoutePace(0.1)
    assert refused(pace, "desk", 10) == 0
    assert refused(pace, "desk", 10) == pytest.approx(100)


async def test_who_owes_nothing_is_let_in_whatever_the_clock_says(clock: Clock) -> None:
    # Adding 1,000 seconds to most times and taking them away again gives another time.
    for _ in range(100):
        clock.now += 1001.1
        assert refused(RoutePace(0.01), "desk", 10) == 0


async def test_zero_is_any_number(clock: Clock) -> None:
    pace = RoutePace(0)
    assert [refused(pace, "desk", 10) for _ in range(1000)] == [0.0] * 1000
