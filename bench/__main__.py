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
from bench.limits import Limits, measure_limits
from bench.measurement import Measurement
from bench.routing import Choosing, measure_routing
from bench.scenarios import SCENARIOS, SETTINGS, Options
from bench.stack import SERVICES, SIMULATOR, bench_stack
from engine.errors import StartupError
from oee.logs import MergedLog
from oee.ports import Ports
from oee.stack import Stack

LIMITS: Final = "limits"
# What needs no stack.
ALONE: Final = (LIMITS, "routing")
PROFILED: Final = ("throughput",)
PROFILABLE: Final = ("gateway", "router", "executor", "dex_sim")
INTERRUPTED: Final = 130
USAGE_ERROR: Final = 2
SCENARIO_SECONDS: Final = 900.0
# Of a load: in less, nothing ends that could be measured.
MIN_SECONDS: Final = 0.1
# Wide enough for every table, whatever the terminal.
WIDTH: Final = 180


def main() -> int:
    """The exit code: 0, or 1 on a problem, 2 when the stack did not start, 130 on Ctrl-C."""
    chosen = _parser().parse_args()
    profiled: str | None = chosen.profile
    options = Options(
        seconds=chosen.seconds,
        orders=chosen.orders,
        in_flight=chosen.in_flight,
        backlog=chosen.backlog,
        stored=chosen.stored,
        unary=chosen.unary,
    )
    names = [
        name
        for name in chosen.scenario or (PROFILED if profiled else (*ALONE, *SCENARIOS))
        if name not in chosen.skip
    ]
    home = Path(tempfile.mkdtemp(prefix="oee-bench-"))
    # Run by root, PostgreSQL belongs to another user, who has to get to its data.
    home.chmod(0o711)
    for name in names:
        (home / name).mkdir(mode=0o711)
    try:
        with (home / "services.log").open("w") as log_file:
            code = uvloop.run(Run(options, home, log_file, profiled).through(names))
    except StartupError as error:
        sys.stderr.write(f"bench: {error}\nbench: logs are in {home}\n")
        return USAGE_ERROR
    except BaseException:
        sys.stderr.write(f"bench: logs are in {home}\n")
        raise
    shutil.rmtree(home)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    everything = f"of {', '.join((*ALONE, *SCENARIOS))}"
    add("--scenario", type=_names, default=[], help=f"{everything}; default: all")
    add("--skip", type=_names, default=[], help="what to leave out")
    add("--seconds", type=_seconds, default=Options.seconds, help="of each load")
    add("--orders", type=int, default=0, help="of each load, instead of seconds")
    add("--in-flight", type=_counts, default=Options.in_flight, help="for throughput: 64,256")
    add("--backlog", type=int, default=Options.backlog, help="orders that wait for recovery")
    add("--stored", type=_counts, default=Options.stored, help="settled orders, for growth: 1000,…")
    add("--unary", action="store_true", help="no streams where there is a choice")
    add("--profile", choices=PROFILABLE, help="look into this service while it is measured")
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - {*ALONE, *SCENARIOS}:
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))}: must be of {', '.join((*ALONE, *SCENARIOS))}"
        )
    return names


def _seconds(text: str) -> float:
    seconds = float(text)
    if not MIN_SECONDS <= seconds <= SCENARIO_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} must be {MIN_SECONDS:g} to {SCENARIO_SECONDS:g}")
    return seconds


def _counts(text: str) -> list[int]:
    return [int(count) for count in text.split(",")]


class Run:
    """One run of the benchmarks, its results as they come."""

    def __init__(
        self, options: Options, home: Path, log_file: TextIO, profiled: str | None
    ) -> None:
        self._options = options
        self._home = home
        self._log_file = log_file
        self._profiled = profiled
        self._console = Console(stderr=True, width=WIDTH)
        self._limits: Limits | None = None
        self._routing: Sequence[Choosing] = ()
        self._results: dict[str, Sequence[Measurement]] = {}

    async def through(self, names: Sequence[str]) -> int:
        """Measure all these, report, and return the exit code."""
        _cancel_on_signals()
        try:
            for name in names:
                self._console.print(f"{name} …", highlight=False)
                if name == LIMITS:
                    self._limits = await measure_limits(self._home / name)
                elif name in ALONE:
                    self._routing = measure_routing()
                    report.show_routing(self._routing, self._console)
                else:
                    self._results[name] = await self._measured(name)
                    for measurement in self._results[name]:
                        report.show_progress(measurement, self._console)
        except asyncio.CancelledError:
            return INTERRUPTED
        everything = [m for measurements in self._results.values() for m in measurements]
        report.show(everything, self._limits, self._profiled, self._console)
        sys.stdout.write(f"{json.dumps(self._json())}\n")
        return 1 if any(m.outcome.problem for m in everything) else 0

    async def _measured(self, name: str) -> Sequence[Measurement]:
        """One scenario on a stack of its own, whose data are thrown away."""
        log = MergedLog(self._log_file)
        directory = self._home / name
        try:
            async with (
                bench_stack(directory, log.show, SETTINGS.get(name, {}), self._profiled) as stack,
                asyncio.timeout(SCENARIO_SECONDS),
            ):
                return await SCENARIOS[name](stack, self._options)
        finally:
            log.close()
            # As root, the database is elsewhere: the stack knows where.
            await Stack(directory, Ports.free(), {}).wipe()

    def _json(self) -> dict[str, Any]:
        limits = self._limits
        return {
            "machine": {
                "cores": os.cpu_count(),
                "system": platform.platform(),
                "python": platform.python_version(),
            },
            "settings": {**SERVICES, **SIMULATOR},
            "settings_of": SETTINGS,
            "routing": msgspec.to_builtins(self._routing),
            "limits": limits and msgspec.to_builtins(limits) | limits.implied(),
            "scenarios": {
                name: [
                    msgspec.to_builtins(m) | {"share_of_limit": limits and m.shares(limits)}
                    for m in measurements
                ]
                for name, measurements in self._results.items()
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
