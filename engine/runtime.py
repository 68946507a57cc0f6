"""A service's process: settings, logs, signals, exit code."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import structlog
import uvloop
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from engine import log, native_log
from engine.certificates import Files
from engine.errors import StartupError
from engine.limits import Limits
from engine.routing.market import MAX_SHARE_BPS
from engine.routing.paths import INTERMEDIATES, Rules
from engine.scheduling import wait_your_turn
from engine.token import Tokens

USAGE_ERROR = 2
# A loop that has not ended by then is cancelled once more.
CANCEL_SECONDS: Final = 2.0

logger = structlog.get_logger()


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


def _names(value: object) -> object:
    return (
        tuple(filter(None, value.replace(" ", "").split(","))) if isinstance(value, str) else value
    )


Address = Annotated[str, BeforeValidator(_address)]
Addresses = Annotated[dict[str, str], NoDecode, BeforeValidator(_addresses)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]


class ServiceSettings(BaseSettings):
    """Read from the environment, once, without prefix; unknown variables are not ours."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True)

    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)
    ] = "INFO"
    niceness: int = Field(
        0, ge=0, le=19, description="how far it steps back for others on the machine, 0 to 19"
    )


class ServingSettings(ServiceSettings):
    """What every process that serves can be told of its listener."""

    tls_certificate_file: Path | None = Field(
        None, description="a PEM certificate (chain); with it, the server speaks TLS only"
    )
    tls_key_file: Path | None = Field(None, description="the certificate's PEM key")
    tls_client_ca_file: Path | None = Field(
        None, description="PEM CAs; with it, every client must show a certificate of theirs"
    )

    max_message_bytes: int = Field(
        Limits().max_message_bytes, ge=65_536, description="largest request, at least 65536"
    )
    max_concurrent_streams: int = Field(
        Limits().max_concurrent_streams,
        ge=1,
        description="calls one connection may have under way; more wait in the client",
    )
    max_connection_age_seconds: float = Field(
        Limits().max_connection_age_seconds,
        gt=0,
        le=86_400,
        description="age from which a connection takes no new calls, at most 86400",
    )
    max_connection_age_grace_seconds: float = Field(
        Limits().max_connection_age_grace_seconds,
        gt=0,
        le=86_400,
        description="how long calls of a connection that old may go on, at most 86400",
    )
    keepalive_seconds: float = Field(
        Limits().keepalive_seconds,
        ge=1,
        le=7_200,
        description="silence after which a connection is asked whether it lives, 1 to 7200",
    )

    @property
    def limits(self) -> Limits:
        return Limits(
            self.max_message_bytes,
            self.max_concurrent_streams,
            self.max_connection_age_seconds,
            self.max_connection_age_grace_seconds,
            self.keepalive_seconds,
        )

    @property
    def tls(self) -> Files:
        return Files(self.tls_certificate_file, self.tls_key_file, self.tls_client_ca_file)


class PeerSettings(ServiceSettings):
    """What a process that calls venues or the chain can be told of trust."""

    peer_ca_file: Path | None = Field(
        None, description="PEM CAs that venues' and the chain's certificates must be from"
    )
    peer_certificate_file: Path | None = Field(
        None, description="a PEM certificate to show to venues and the chain"
    )
    peer_key_file: Path | None = Field(None, description="the PEM key of peer_certificate_file")

    @property
    def peer_tls(self) -> Files:
        return Files(self.peer_certificate_file, self.peer_key_file, self.peer_ca_file)


class RoutingSettings(ServiceSettings):
    """How routes are found; for the router, and for the gateway that previews what it would do."""

    venues: Addresses = Field(description="raydium=HOST:PORT,meteora=HOST:PORT")
    quote_timeout_seconds: float = Field(
        2, gt=0, le=20, description="how long all venues together have to quote, at most 20"
    )
    quote_locally: bool = Field(
        True, description="false: ask the venues for every quote, and follow no stream of pools"
    )
    max_slot_lag: int = Field(
        10, ge=0, le=1000, description="slots that a stream of pools may be behind the newest one"
    )
    max_pool_share_bps: int = Field(
        MAX_SHARE_BPS,
        ge=1,
        le=10_000,
        description="what part of the token received a swap may take of a pool, 1 to 10000",
    )
    max_legs: int = Field(
        Rules().max_legs, ge=1, le=4, description="swaps in one transaction, 1 to 4"
    )
    intermediate_tokens: Names = Field(
        tuple(INTERMEDIATES), description="SYMBOL[,SYMBOL…] that a route may pass, or none"
    )
    hop_reserve_bps: int = Field(
        Rules().hop_reserve_bps,
        ge=0,
        le=1000,
        description="what the second swap of a hop leaves of the first one's quote, 0 to 1000",
    )

    def rules(self, tokens: Tokens) -> Rules:
        """What routes may be; raises StartupError for a token that the table does not have."""
        intermediates = [(name, tokens.find(name)) for name in self.intermediate_tokens]
        if unknown := [name for name, token in intermediates if token is None]:
            raise StartupError(
                f"INTERMEDIATE_TOKENS names {', '.join(unknown)}; "
                f"known are {', '.join(token.symbol for token in tokens.all)}"
            )
        return Rules(
            max_legs=self.max_legs,
            intermediates=tuple(token.mint for _, token in intermediates if token is not None),
            hop_reserve_bps=self.hop_reserve_bps,
        )


class NatsSettings(ServiceSettings):
    """Where the queues are, and how to be let in."""

    nats_url: SecretStr = Field(description="nats://HOST:PORT[,nats://HOST:PORT…], or tls://")
    nats_ca_file: Path | None = Field(
        None, description="PEM CAs that the NATS servers' certificates must be from; implies TLS"
    )
    nats_certificate_file: Path | None = Field(
        None, description="a PEM certificate to show to NATS; implies TLS"
    )
    nats_key_file: Path | None = Field(None, description="the PEM key of nats_certificate_file")
    nats_creds_file: Path | None = Field(None, description="a NATS credentials file (.creds)")

    @property
    def nats_tls(self) -> Files:
        return Files(self.nats_certificate_file, self.nats_key_file, self.nats_ca_file)


_HOST: Final = r"(?:[^@/?#:,\[\]]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?"
_DSN: Final = re.compile(
    rf"postgres(?:ql)?://(?:[^@/?#]*@)?{_HOST}(?:,{_HOST})*(?:/[^@?#]*)?(?:\?[^#]*)?"
)


def _dsn(value: SecretStr) -> SecretStr:
    # Read amiss, a part of the password passes for host or port and ends in an error message.
    if not _DSN.fullmatch(value.get_secret_value()):
        raise ValueError("must be a URL, special characters of the password written as %XX")
    return value


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
