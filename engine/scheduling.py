"""How a process of ours takes its turn on a busy core."""

from __future__ import annotations

import os
import sys
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
