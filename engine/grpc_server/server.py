"""A gRPC server on asyncio: listens, and gives every connection its calls."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from engine.grpc_server.connection import Connection
from engine.grpc_server.lifetime import HANDSHAKE_SECONDS
from engine.grpc_server.request import Method, method_of
from engine.handshakes import Handshakes
from engine.limits import Limits

logger = structlog.get_logger()

BACKLOG: Final = 1_024
# After an error of the system's, such as too many open files, until the next try.
_ACCEPT_AGAIN_SECONDS: Final = 0.1
# What a client that is told to leave may take to read it.
_LEAVE_SECONDS: Final = 0.5


class GrpcServer:
    """Serves grpcio's handlers; takes what generated `add_…Servicer_to_server` give a server."""

    def __init__(
        self, limits: Limits, wrap: Callable[[str, Any], Any] = lambda path, handler: handler
    ) -> None:
        """`wrap` may put another handler in each's place, known by its /package.Service/Name."""
        self._limits = limits
        self._wrap = wrap
        self._methods: dict[bytes, Method] = {}
        self._connections: set[Connection] = set()
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._handshakes = Handshakes()

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Any]
    ) -> None:
        """What generated code calls; a handler is a grpc.RpcMethodHandler."""
        for name, handler in method_handlers.items():
            path = f"/{service_name}/{name}"
            self._methods[path.encode()] = method_of(path, self._wrap(path, handler))

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Any) -> None:
        """What generated code calls beside the other, with the same handlers."""

    def listen(
        self,
        address: str,
        *,
        share_port: bool = False,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> int:
        """Accept connections at HOST:PORT from now on; returns the port.

        `tls` is asked for every connection. Raises OSError when the address cannot be bound.
        """
        self._listeners = _bind(address, share_port)
        self._accepting = [
            asyncio.create_task(self._accept(listener, tls)) for listener in self._listeners
        ]
        port: int = self._listeners[0].getsockname()[1]
        return port

    async def stop(self, grace_seconds: float) -> None:
        """Accept nothing more, let what runs go on for the grace, then end it."""
        for task in (*self._accepting, *self._opening):
            task.cancel()
        await asyncio.gather(*self._accepting, *self._opening, return_exceptions=True)
        for listener in self._listeners:
            listener.close()
        for connection in self._connections:
            connection.leave()
        await self._all_lost(grace_seconds)
        for connection in list(self._connections):
            connection.cut()
        await self._all_lost(_LEAVE_SECONDS)

    async def _all_lost(self, seconds: float) -> None:
        waiting = [asyncio.create_task(one.lost.wait()) for one in self._connections]
        if waiting and seconds > 0:
            await asyncio.wait(waiting, timeout=seconds)
        for task in waiting:
            task.cancel()

    async def _accept(
        self, listener: socket.socket, tls: Callable[[], ssl.SSLContext] | None
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listener)
            except OSError as error:
                logger.warning("a connection was not accepted", why=str(error))
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)
                continue
            opening = asyncio.create_task(self._open(accepted, tls))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(
        self, accepted: socket.socket, tls: Callable[[], ssl.SSLContext] | None
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                lambda: Connection(self._methods, self._limits, self._connections, loop),
                accepted,
                ssl=tls() if tls else None,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if tls else None,
            )
        except ssl.SSLError as error:
            self._handshakes.tell_error(error)
            accepted.close()
        except (OSError, TimeoutError) as error:
            logger.debug("a connection was not opened", why=str(error))
            accepted.close()


def _bind(address: str, share_port: bool) -> list[socket.socket]:
    """Listening sockets for each address of the host, on one port."""
    host, _, port_text = address.rpartition(":")
    host, port = host.strip("[]"), int(port_text)
    bound: list[socket.socket] = []
    failed: OSError | None = None
    for family, kind, protocol, _, where in _addresses(host, port):
        try:
            listener = _listening(family, kind, protocol, (where[0], port, *where[2:]), share_port)
        except OSError as error:
            # A name may have an address that this machine does not have, or a family of them.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                for one in bound:
                    one.close()
                raise
            failed = error
            continue
        port = listener.getsockname()[1]
        bound.append(listener)
    if not bound:
        raise failed or OSError(f"{host} has no address")
    return bound


def _addresses(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)


def _listening(
    family: int, kind: int, protocol: int, where: tuple[Any, ...], share_port: bool
) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # [::] takes IPv4 too, as everybody expects of it.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(where[0] != "::"))
        listener.bind(where)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
