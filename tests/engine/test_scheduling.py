"""Processes that wait for their turn on a busy core."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from engine.scheduling import Crowding, wait_your_turn

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the policy is known to Linux alone"
)

THREADED = """
import threading
done = threading.Event()
threading.Thread(target=done.wait, daemon=True).start()
print("up", flush=True)
input()
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", THREADED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "up\n"
        yield started
        started.kill()


def policies(pid: int) -> list[int]:
    return [os.sched_getscheduler(int(thread)) for thread in os.listdir(f"/proc/{pid}/task")]


def test_every_thread_waits(process: subprocess.Popen[str]) -> None:
    wait_your_turn(process.pid)

    assert policies(process.pid) == [os.SCHED_BATCH] * 2


def test_a_policy_that_somebody_chose_stays(process: subprocess.Popen[str]) -> None:
    os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))

    wait_your_turn(process.pid)

    assert sorted(policies(process.pid)) == sorted([os.SCHED_IDLE, os.SCHED_BATCH])


def test_a_process_that_has_ended_is_left_alone(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()

    wait_your_turn(process.pid)


def test_who_shares_a_core_with_somebody_busy_knows_how_long_it_waits_for_it(
    process: subprocess.Popen[str],
) -> None:
    cores = os.sched_getaffinity(0)
    one = {min(cores)}
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        os.sched_setaffinity(busy.pid, one)
        os.sched_setaffinity(0, one)
        try:
            crowding = Crowding()
            until = time.process_time() + 0.2
            while time.process_time() < until:
                pass
            share = crowding.share()
        finally:
            os.sched_setaffinity(0, cores)
            busy.kill()

    assert 0.2 < share <= 1
