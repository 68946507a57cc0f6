"""How a process of ours takes its turn on a busy core."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress


def wait_your_turn(pid: int = 0) -> None:
    """Where the system knows it (Linux): waking up takes no core from who is at work there.

    Whoever runs a moment later finds more to do at once, and everything here is the cheaper the
    more goes together; a core that is free is taken at once all the same. For all threads of
    `pid`, 0 for this process, and what they begin. Without effect where a container forbids it,
    or where somebody chose another policy.
    """
    if sys.platform != "linux":
        return
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for thread in map(int, os.listdir(f"/proc/{pid or 'self'}/task")):
            if os.sched_getscheduler(thread) == os.SCHED_OTHER:
                os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))


class Crowding:
    """How much of the time this process (its main thread) could have run and had no core."""

    def __init__(self) -> None:
        self._waited, self._looked = _waited_nanoseconds(), time.monotonic_ns()

    def share(self) -> float:
        """As a share of the time since the last look, 0 to 1; 0 where the system does not tell."""
        waited, looked = _waited_nanoseconds(), time.monotonic_ns()
        share = (waited - self._waited) / max(1, looked - self._looked)
        self._waited, self._looked = waited, looked
        return min(1.0, share)


def _waited_nanoseconds() -> int:
    try:
        with open("/proc/self/schedstat") as file:
            return int(file.read().split()[1])
    except (OSError, LookupError, ValueError):
        return 0
