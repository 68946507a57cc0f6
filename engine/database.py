"""What no waiting mends on the way to PostgreSQL: TLS, its files, and whom the server lets in."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import parse_qs, urlsplit

import asyncpg

from engine.errors import StartupError

_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
# The other end broke off: it may be starting, or stopping.
_BROKEN_OFF: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


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
