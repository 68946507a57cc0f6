"""A service's process: settings, logs, signals, exit code."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, Final, Literal, TypeVar

import structlog
import uvloop
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from engine import log
from engine.errors import StartupError

USAGE_ERROR = 2

logger = structlog.get_logger()


class ServiceSettings(BaseSettings):
    """Read from the environment, once, without prefix; unknown variables are not ours."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True)

    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)
    ] = "INFO"
    niceness: int = Field(
        0, ge=0, le=19, description="how far it steps back for others on the machine, 0 to 19"
    )


def _address(value: object) -> object:
    host, _, port = str(value).rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError("must be HOST:PORT, for example 127.0.0.1:50051")
    return value


def _addresses(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [item.strip().partition("=") for item in value.split(",") if item.strip()]
    if not pairs or not all(name and address for name, _, address in pairs):
        raise ValueError("must be NAME=HOST:PORT[,NAME=HOST:PORT…]")
    return {name.strip(): _address(address.strip()) for name, _, address in pairs}


_HOST: Final = r"(?:[^@/?#:,\[\]]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?"
_DSN: Final = re.compile(
    rf"postgres(?:ql)?://(?:[^@/?#]*@)?{_HOST}(?:,{_HOST})*(?:/[^@?#]*)?(?:\?[^#]*)?"
)


def _dsn(value: SecretStr) -> SecretStr:
    # Read amiss, a part of the password passes for host or port and ends in an error message.
    if not _DSN.fullmatch(value.get_secret_value()):
        raise ValueError("must be a URL, special characters of the password written as %XX")
    return value


Address = Annotated[str, BeforeValidator(_address)]
Addresses = Annotated[dict[str, str], NoDecode, BeforeValidator(_addresses)]
PostgresDsn = Annotated[SecretStr, AfterValidator(_dsn)]

S = TypeVar("S", bound=ServiceSettings)


def main(
    service: str, settings_type: type[S], run: Callable[[S, asyncio.Event], Awaitable[None]]
) -> None:
    """Run one service until SIGTERM or SIGINT sets its stop event; never returns.

    Exit codes: 0 stopped as asked, 1 crashed, 2 a setting is missing or wrong, or the
    address is taken.
    """
    try:
        settings = settings_type()
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = "_".join(str(part) for part in problem["loc"][:1]).upper() or service
            sys.stderr.write(f"{service}: {name}: {_expectation(settings_type, problem)}\n")
        sys.exit(USAGE_ERROR)
    log.configure(service, settings.log_level)
    if settings.niceness:
        os.nice(settings.niceness)
    try:
        uvloop.run(_until_signalled(run, settings))
    except StartupError as error:
        logger.error("cannot start", reason=str(error))
        sys.exit(USAGE_ERROR)
    except Exception:
        logger.critical("crashed", exc_info=True)
        sys.exit(1)
    sys.exit(0)


def _expectation(settings_type: type[BaseSettings], problem: object) -> str:
    assert isinstance(problem, dict)
    field = settings_type.model_fields.get(str(problem["loc"][0])) if problem["loc"] else None
    expected = f" Expected: {field.description}." if field and field.description else ""
    wrong = problem["msg"].removeprefix("Value error, ").removesuffix(".")
    return ("is not set." if problem["type"] == "missing" else f"{wrong}.") + expected


async def _until_signalled(run: Callable[[S, asyncio.Event], Awaitable[None]], settings: S) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Most of what a service makes lives as long as one order; looking for cycles in all of it
    # every few hundred objects costs more than it finds.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    logger.info("starting")
    await run(settings, stop)
    logger.info("stopped")


async def run_until(stop: asyncio.Event, *loops: Coroutine[Any, Any, None]) -> None:
    """Run endless loops until `stop`; one that ends by itself with an error ends them all."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in loops]
        await stop.wait()
        for task in tasks:
            task.cancel()
