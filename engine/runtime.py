"""A service's process: arguments, logs, signals, exit code."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog
import uvloop
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from engine import log, native_log
from engine.errors import StartupError
from engine.scheduling import wait_your_turn
from engine.settings import ServiceSettings

USAGE_ERROR = 2
# A loop that has not ended by then is cancelled once more.
CANCEL_SECONDS: Final = 2.0

logger = structlog.get_logger()


S = TypeVar("S", bound=ServiceSettings)


def main(
    service: str,
    settings_type: type[S],
    run: Callable[[S, asyncio.Event], Awaitable[None]],
    *,
    takes_arguments: bool = False,
) -> None:
    """Run one service until SIGTERM or SIGINT sets its stop event; never returns.

    Unless the caller has read the command line's arguments, none is taken. Exit codes: 0 stopped as
    asked, 1 crashed, 2 an argument, or a setting is missing or wrong, or the address is taken.
    """
    if not takes_arguments:
        arguments(settings_type).parse_args()
    try:
        settings = settings_type()
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = "_".join(str(part) for part in problem["loc"][:1]).upper() or service
            sys.stderr.write(f"{service}: {name}: {_expectation(settings_type, problem)}\n")
        sys.exit(USAGE_ERROR)
    native_log.collect()
    log.configure(service, settings.log_level)
    if settings.niceness:
        os.nice(settings.niceness)
    wait_your_turn()
    try:
        uvloop.run(_until_signalled(run, settings))
    except StartupError as error:
        logger.error("cannot start", reason=str(error))
        sys.exit(USAGE_ERROR)
    except Exception:
        logger.critical("crashed", exc_info=True)
        sys.exit(1)
    sys.exit(0)


def arguments(settings_type: type[BaseSettings]) -> argparse.ArgumentParser:
    """The command line of a program that is told everything by its environment."""
    program = sys.modules["__main__"]
    name = program.__spec__.name if program.__spec__ else sys.argv[0]
    fields = settings_type.model_fields.items()
    settings = [f"  {name.upper():32} {field.description or ''}".rstrip() for name, field in fields]
    return argparse.ArgumentParser(
        prog=f"python -m {name.removesuffix('.__main__')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=program.__doc__,
        epilog="\n".join(["settings, from the environment:", *settings]),
    )


def _expectation(settings_type: type[BaseSettings], problem: object) -> str:
    assert isinstance(problem, dict)
    field = settings_type.model_fields.get(str(problem["loc"][0])) if problem["loc"] else None
    expected = f" Expected: {field.description}." if field and field.description else ""
    wrong = problem["msg"].removeprefix("Value error, ").removesuffix(".")
    return ("is not set." if problem["type"] == "missing" else f"{wrong}.") + expected


def collect_seldom() -> None:
    """Look for cycles less often, and never in what is there by now.

    Most of what a service makes lives as long as one order; looking for cycles in all of it every
    few hundred objects costs more than it finds.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def _until_signalled(run: Callable[[S, asyncio.Event], Awaitable[None]], settings: S) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    collect_seldom()
    logger.info("starting")
    await run(settings, stop)
    logger.info("stopped")


async def run_until(stop: asyncio.Event, *loops: Coroutine[Any, Any, None]) -> None:
    """Run endless loops until `stop`; one that ends by itself with an error ends them all."""
    async with asyncio.TaskGroup() as group:
        tasks = {group.create_task(loop) for loop in loops}
        try:
            await stop.wait()
        finally:
            while tasks:
                # More than once: wait_for() of Python 3.11, as nats-py calls it, loses a cancel
                # that meets its answer.
                for task in tasks:
                    task.cancel()
                _, tasks = await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
