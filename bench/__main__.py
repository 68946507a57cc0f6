"""`make bench`: scenario after scenario, tables for people, one JSON line at the end."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec
import uvloop
from rich.console import Console

from bench import report
from bench.measurement import Measurement
from bench.scenarios import SCENARIOS, Options
from bench.stack import SERVICES, SIMULATOR, bench_stack
from engine.errors import StartupError
from oee.logs import MergedLog
from oee.ports import Ports
from oee.stack import Stack

INTERRUPTED: Final = 130
USAGE_ERROR: Final = 2
SCENARIO_SECONDS: Final = 900.0
# Wide enough for every table, whatever the terminal.
WIDTH: Final = 160


def main() -> int:
    """The exit code: 0, or 1 on a problem, 2 when the stack did not start, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--scenario", type=_names, default=list(SCENARIOS), help=f"of {', '.join(SCENARIOS)}"
    )
    parser.add_argument("--skip", type=_names, default=[], help="scenarios to leave out")
    parser.add_argument("--seconds", type=float, default=Options.seconds, help="of each load")
    parser.add_argument("--orders", type=int, default=0, help="of each load, instead of seconds")
    parser.add_argument("--backlog", type=int, default=Options.backlog, help="orders that wait")
    parser.add_argument(
        "--stored",
        type=lambda text: [int(count) for count in text.split(",")],
        default=Options.stored,
        help="how many settled orders there are, for growth",
    )
    parser.add_argument("--unary", action="store_true", help="no streams where there is a choice")
    chosen = parser.parse_args()
    options = Options(chosen.seconds, chosen.orders, chosen.backlog, chosen.stored, chosen.unary)
    names = [name for name in chosen.scenario if name not in chosen.skip]
    home = Path(tempfile.mkdtemp(prefix="oee-bench-"))
    # Run by root, PostgreSQL belongs to another user, who has to get to its data.
    home.chmod(0o711)
    for name in names:
        (home / name).mkdir(mode=0o711)
    try:
        with (home / "services.log").open("w") as log_file:
            code = uvloop.run(_run(names, options, home, log_file))
    except StartupError as error:
        sys.stderr.write(f"bench: {error}\nbench: logs are in {home}\n")
        return USAGE_ERROR
    except BaseException:
        sys.stderr.write(f"bench: logs are in {home}\n")
        raise
    shutil.rmtree(home)
    return code


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(SCENARIOS):
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))}: must be of {', '.join(SCENARIOS)}"
        )
    return names


async def _run(names: Sequence[str], options: Options, home: Path, log_file: TextIO) -> int:
    _cancel_on_signals()
    console = Console(stderr=True, width=WIDTH)
    results: dict[str, Sequence[Measurement]] = {}
    try:
        for name in names:
            console.print(f"{name} …", highlight=False)
            results[name] = await _scenario(name, options, home / name, log_file)
            report.show_speed(results[name], console)
    except asyncio.CancelledError:
        return INTERRUPTED
    everything = [m for measurements in results.values() for m in measurements]
    report.show_speed(everything, console)
    report.show_costs(everything, console)
    sys.stdout.write(f"{json.dumps(_result(results))}\n")
    return 1 if any(m.outcome.problem for m in everything) else 0


async def _scenario(
    name: str, options: Options, directory: Path, log_file: TextIO
) -> Sequence[Measurement]:
    """One scenario on a stack of its own, whose data are thrown away."""
    log = MergedLog(log_file)
    try:
        async with bench_stack(directory, log.show) as stack, asyncio.timeout(SCENARIO_SECONDS):
            return await SCENARIOS[name](stack, options)
    finally:
        log.close()
        # As root, the database is elsewhere: the stack knows where.
        await Stack(directory, Ports.free(), {}).wipe()


def _result(results: dict[str, Sequence[Measurement]]) -> dict[str, Any]:
    return {
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "settings": {**SERVICES, **SIMULATOR},
        "scenarios": {
            name: [msgspec.to_builtins(m) for m in measurements]
            for name, measurements in results.items()
        },
    }


def _cancel_on_signals() -> None:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None

    def cancel() -> None:
        # Once: a second Ctrl-C must not cut short the stopping of processes.
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, cancel)


if __name__ == "__main__":
    sys.exit(main())
