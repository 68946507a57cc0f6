"""Connections to PostgreSQL: what waiting mends on the way there, and what it does not."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import asyncpg
import structlog

from engine.errors import StartupError, StoreUnavailable

logger = structlog.get_logger()

ACQUIRE_SECONDS: Final = 2.0
STATEMENT_SECONDS: Final = 5.0
OPEN_SECONDS: Final = 30.0
CONNECTIONS: Final = 10
# A new one has every statement to prepare.
CONNECTION_QUERIES: Final = 1_000_000

# The server is unreachable, going down, coming up, or did not answer in time.
_AWAY: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.QueryCanceledError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InternalClientError,
)
_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
# The other end broke off: it may be starting, or stopping.
_BROKEN_OFF: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)

First = TypeVar("First")
Query = Callable[[Any], Awaitable[list[asyncpg.Record]]]


class Connections:
    """A few connections to one database. Methods raise StoreUnavailable when it is away."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def ask(self, query: Query) -> list[asyncpg.Record]:
        """What `query` finds with one of them."""
        try:
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                return await query(connection)
        except _AWAY as error:
            why = {"reason": found} if (found := refusal(error)) else {}
            logger.warning("database is away", error=type(error).__name__, **why)
            raise StoreUnavailable(
                "the order store cannot be reached; nothing is lost: repeat the call"
            ) from error

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """What a statement finds."""
        return await self.ask(lambda connection: connection.fetch(statement, *arguments))


@asynccontextmanager
async def open_connections(
    dsn: str, begin: Callable[[Any], Awaitable[First]]
) -> AsyncIterator[tuple[Connections, First]]:
    """Connections to `dsn` and what `begin` found with the first of them, waiting for a server
    that is still coming up.

    Raises StartupError when none answers in OPEN_SECONDS, when it would lose acknowledged
    commits in a power cut, or when `begin` misses a table; at once when TLS with it is not
    possible, or it does not let us in.
    """
    pool = asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=CONNECTIONS,
        timeout=ACQUIRE_SECONDS,
        command_timeout=STATEMENT_SECONDS,
        max_queries=CONNECTION_QUERIES,
        reset=_as_it_is,
        server_settings={
            "application_name": "order-execution-engine",
            "timezone": "UTC",
            # Planning a batch costs more than running it, and no plan here gets better by
            # knowing the values. A plan made while a table was small must serve when it is large.
            "plan_cache_mode": "force_generic_plan",
            "enable_seqscan": "off",
            # Every order that settles leaves a dead entry in the index of open orders. An index
            # scan that meets one marks it; a bitmap scan fetches it again each time, until vacuum.
            "enable_bitmapscan": "off",
            "jit": "off",
        },
    )
    async with pool:
        with reaching(dsn):
            first = await _ready(pool, begin)
        yield Connections(pool), first


async def _as_it_is(connection: object) -> None:
    """Nothing here changes a connection for good, so a statement that undoes that is saved."""


async def _ready(pool: asyncpg.Pool, begin: Callable[[Any], Awaitable[First]]) -> First:
    waited = 0.0
    while True:
        try:
            async with pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                await _require_durable(connection)
                return await begin(connection)
        except (*_AWAY, asyncpg.UndefinedTableError) as error:
            if refusal(error):
                raise
            if waited >= OPEN_SECONDS:
                raise StartupError(
                    f"POSTGRES_DSN: no migrated database answered in {OPEN_SECONDS:.0f} s "
                    f"({type(error).__name__}); start PostgreSQL and run python -m engine.migrate"
                ) from error
            if waited == 0:
                logger.warning("waiting for the database", error=type(error).__name__)
            await asyncio.sleep(0.25)
            waited += 0.25


async def _require_durable(connection: Any) -> None:
    for setting in ("fsync", "synchronous_commit"):
        value = await connection.fetchval(f"SHOW {setting}")
        if value == "off":
            raise StartupError(
                f"PostgreSQL runs with {setting} = off and would lose accepted orders "
                "in a power cut; switch it on"
            )


@contextmanager
def reaching(dsn: str) -> Iterator[None]:
    """Connecting to `dsn`, in which what stays wrong is a StartupError that says what."""
    # What cannot be opened looks to asyncpg's callers like a socket that is not there yet.
    for name, [file, *_] in parse_qs(urlsplit(dsn).query).items():
        if name in _FILES and not os.access(file, os.R_OK):
            raise StartupError(f"POSTGRES_DSN: {name} names {file}, which cannot be read")
    try:
        yield
    except Exception as error:
        if (why := refusal(error)) is None:
            raise
        raise StartupError(f"POSTGRES_DSN: {why}") from error


def refusal(error: BaseException | None) -> str | None:
    """What must change before a connection is possible; None when it may be enough to wait."""
    if isinstance(error, asyncpg.ConnectionDoesNotExistError):
        # A server that misses our certificate says so only after the handshake.
        return refusal(error.__cause__)
    if isinstance(error, ssl.SSLError) and not isinstance(error, _BROKEN_OFF):
        return f"TLS failed: {_words(error)}; see sslmode, sslrootcert, sslcert and sslkey"
    if isinstance(error, asyncpg.ClientConfigurationError):
        return str(error)
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return f"the server refuses us: {error}"
    return None


def _words(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted ({error.verify_message})"
    return (error.reason or str(error.strerror)).lower().replace("_", " ")
