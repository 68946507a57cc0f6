"""A run from the command line: its directory, its log, Ctrl-C, its JSON line, its exit code."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, TextIO

from engine.errors import StartupError
from oee.logs import MergedLog
from oee.ports import Ports
from oee.stack import Stack

LOG: Final = "services.log"
INTERRUPTED: Final = 130
USAGE_ERROR: Final = 2

Show = Callable[[str, str], None]
# Does all of it in the directory; what it returns is printed, and is good if its "ok" is true.
Work = Callable[[Path, Show], Awaitable[Mapping[str, Any]]]


def run(name: str, work: Work) -> int:
    """Run it in a throwaway directory, which stays when something was wrong.

    Every log line goes to a file there; what `name` itself says goes to stderr too. Returns the
    exit code: 0, or 1 when the result is not ok, 2 when the stack did not start, 130 on Ctrl-C.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"oee-{name}-"))
    # Run by root, PostgreSQL belongs to another user, who has to get to its data.
    directory.chmod(0o711)
    with (directory / LOG).open("w") as file:
        return asyncio.run(_run(name, work, directory, file))


async def _run(name: str, work: Work, directory: Path, file: TextIO) -> int:
    _cancel_on_signals()
    log = MergedLog(file)

    def show(source: str, line: str) -> None:
        log.show(source, line)
        if source == name:
            sys.stderr.write(f"{line}\n")

    try:
        result = await work(directory, show)
    except asyncio.CancelledError:
        await _throw_away(directory)
        return INTERRUPTED
    except StartupError as error:
        sys.stderr.write(f"{name}: {error}\n{name}: logs are in {directory}\n")
        return USAGE_ERROR
    except BaseException:
        sys.stderr.write(f"{name}: data and logs are in {directory}\n")
        raise
    finally:
        log.close()
    sys.stdout.write(f"{json.dumps(result)}\n")
    if not result["ok"]:
        sys.stderr.write(f"{name}: data and logs are in {directory}\n")
        return 1
    await _throw_away(directory)
    return 0


async def _throw_away(directory: Path) -> None:
    # As root, the database is elsewhere: the stack knows where.
    await Stack(directory, Ports.free(), {}).wipe()
    shutil.rmtree(directory)


def _cancel_on_signals() -> None:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None

    def cancel() -> None:
        # Once: a second Ctrl-C must not cut short the stopping of processes.
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, cancel)
