"""TLS for gRPC: credentials and channels that follow their files while in use."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Any, Final, Self

import grpc

from engine.certificates import Files, Material, Reloading
from engine.errors import StartupError

CHECK_SECONDS: Final = 1.0


def server_contexts(files: Files) -> Callable[[], ssl.SSLContext]:
    """Looks at the files for every new connection; running calls keep theirs.

    Raises StartupError when the files are no use to begin with.
    """
    if files.certificate_file is None or files.key_file is None:
        raise StartupError("TLS: TLS_CERTIFICATE_FILE and TLS_KEY_FILE must both be set")
    reloading = Reloading(files)

    def newest() -> ssl.SSLContext:
        reloading.refresh()
        return reloading.material.context

    return newest


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
