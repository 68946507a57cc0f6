"""Processes that wait for their turn on a busy core."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from engine.scheduling import wait_your_turn

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
