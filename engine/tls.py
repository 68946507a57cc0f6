"""Certificates, keys and CAs from files that may be replaced while they are in use."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

import grpc
import structlog

from engine.errors import StartupError

logger = structlog.get_logger()

CHECK_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Files:
    """Where the PEM files are; the key's content is never kept or logged.

    `ca_file` says whom to trust: a server with one asks every client for a certificate. None
    of the three: no TLS.
    """

    certificate_file: Path | None = None
    key_file: Path | None = None
    ca_file: Path | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class Material:
    """What was in the files, fit for use together."""

    pair: tuple[bytes, bytes] | None
    ca: bytes | None


def read(files: Files) -> Material:
    """The files' contents. Raises StartupError, naming file and remedy, when they are no use."""
    if (files.certificate_file is None) != (files.key_file is None):
        raise StartupError("TLS: a certificate file and a key file belong together; give both")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = None
    if files.certificate_file and files.key_file:
        pair = _contents(files.key_file), _contents(files.certificate_file)
        try:
            # Without a password function, an encrypted key would be asked for on the terminal.
            context.load_cert_chain(files.certificate_file, files.key_file, password=lambda: "")
        except (ssl.SSLError, OSError):
            raise StartupError(
                f"TLS: {files.certificate_file} and {files.key_file} must be a PEM certificate"
                " and its own PEM key without a password"
            ) from None
    ca = _contents(files.ca_file) if files.ca_file else None
    if ca is not None:
        try:
            context.load_verify_locations(cafile=files.ca_file)
        except (ssl.SSLError, OSError):
            raise StartupError(f"TLS: {files.ca_file} must hold PEM certificates of CAs") from None
    return Material(pair, ca)


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartupError(f"TLS: {path} cannot be read: {error.strerror}") from None


class Reloading:
    """The files' newest usable content: half-replaced ones are told of and not used."""

    def __init__(self, files: Files) -> None:
        """Raises StartupError when the files are no use to begin with."""
        self._files = files
        self._seen = self._stamps()
        self.material = read(files)

    def refresh(self) -> bool:
        """Look at the files again; whether `material` is other than it was. Never raises."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        self._seen = stamps
        try:
            material = read(self._files)
        except StartupError as error:
            logger.warning("new certificates are no use; the old ones stay", why=str(error))
            return False
        if material == self.material:
            return False
        self.material = material
        logger.info("certificates reloaded")
        return True

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [
            _stamp(path)
            for path in (self._files.certificate_file, self._files.key_file, self._files.ca_file)
        ]


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return found and (found.st_mtime_ns, found.st_ino, found.st_size)


def server_credentials(files: Files) -> grpc.ServerCredentials:
    """Credentials that look at the files for every new connection; running calls keep theirs.

    Raises StartupError when the files are no use to begin with.
    """
    if files.certificate_file is None or files.key_file is None:
        raise StartupError("TLS: TLS_CERTIFICATE_FILE and TLS_KEY_FILE must both be set")
    reloading = Reloading(files)

    def configuration() -> grpc.ServerCertificateConfiguration:
        material = reloading.material
        pairs = [material.pair] if material.pair else []
        return grpc.ssl_server_certificate_configuration(pairs, material.ca)

    def newer() -> Any:  # the stubs do not know that None means: as before
        return configuration() if reloading.refresh() else None

    return grpc.dynamic_ssl_server_credentials(
        configuration(), newer, require_client_authentication=files.ca_file is not None
    )


def channel_credentials(material: Material) -> grpc.ChannelCredentials:
    """What a client trusts and shows; without a CA, what the system trusts."""
    key, certificate = material.pair or (None, None)
    return grpc.ssl_channel_credentials(material.ca, key, certificate)


class _Connection:
    """A channel that is closed when it is no longer the newest and its last call has ended."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._calls = 0
        self._replaced = False
        self._closing: asyncio.Task[None] | None = None

    def begin(self, call: Any) -> None:
        self._calls += 1
        call.add_done_callback(self._end)

    def replace(self) -> None:
        self._replaced = True
        self._close_when_idle()

    def _end(self, call: Any) -> None:
        self._calls -= 1
        self._close_when_idle()

    def _close_when_idle(self) -> None:
        if self._replaced and self._calls == 0:
            self._closing = asyncio.create_task(self.channel.close())


class ReloadingChannel(grpc.aio.Channel):
    """A TLS channel; calls begun after the files changed go over a connection made with the new.

    Calls under way stay where they are; the connection they use is closed with the last of them.
    """

    def __init__(
        self, files: Files, connect: Callable[[grpc.ChannelCredentials], grpc.aio.Channel]
    ) -> None:
        """Raises StartupError when the files are no use to begin with."""
        self._reloading = Reloading(files)
        self._connect = connect
        self._checked = time.monotonic()
        self._newest = self._open()

    def _open(self) -> _Connection:
        return _Connection(self._connect(channel_credentials(self._reloading.material)))

    def _current(self) -> _Connection:
        now = time.monotonic()
        if now - self._checked >= CHECK_SECONDS:
            self._checked = now
            if self._reloading.refresh():
                replaced, self._newest = self._newest, self._open()
                replaced.replace()
        return self._newest

    def _method(self, kind: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        made: tuple[_Connection, Any] | None = None

        def call(*sent: Any, **how: Any) -> Any:
            nonlocal made
            connection = self._current()
            if made is None or made[0] is not connection:
                made = connection, getattr(connection.channel, kind)(*arguments, **options)
            begun = made[1](*sent, **how)
            connection.begin(begun)
            return begun

        return call

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        return self._method("unary_unary", arguments, options)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        return self._method("unary_stream", arguments, options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        return self._method("stream_unary", arguments, options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        return self._method("stream_stream", arguments, options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        await self._newest.channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._newest.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._newest.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._newest.channel.channel_ready()
