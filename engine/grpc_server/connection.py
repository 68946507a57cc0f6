"""One client's connection: HTTP/2 as nghttp2 speaks it, and the calls on it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import grpc
import ngh2
import structlog

from engine.grpc_server.backlog import Backlog
from engine.grpc_server.call import Call
from engine.grpc_server.lifetime import Lifetime
from engine.grpc_server.metadata import Field
from engine.grpc_server.outgoing import Outgoing
from engine.grpc_server.request import (
    FIELD_OVERHEAD,
    MAX_METADATA_BYTES,
    Method,
    Refused,
    read_request,
)
from engine.limits import Limits

logger = structlog.get_logger()

# What a client may take to close its side of a connection on which all is said.
LINGER_SECONDS: Final = 2.0
# Header fields above it end their connection; a call of too many is refused long before.
_MAX_HEADER_BYTES: Final = 65_536
# So much of what came is parsed before what it says is dealt with.
_PIECE_BYTES: Final = 16_384
# Of messages that have begun and not ended, in all calls of a connection.
_MAX_HELD_BYTES: Final = 64 * 1_048_576
# What a client may send at a time: of one stream, and of all on its connection.
_STREAM_WINDOW: Final = 262_144
_CONNECTION_WINDOW: Final = 16 * 1_048_576
# Calls that a client may cancel: so many at once, and so many a second. Watches are ended so.
_RESETS: Final = (10_000, 1_000)
# Written to the socket's buffer and not yet taken by the system; then calls keep what they have.
_MAX_BUFFERED_BYTES: Final = 262_144
# All streams alike, and a piece of each in turn: otherwise the oldest goes first until it is dry.
_IN_TURN: Final = ngh2.Priority(urgency=3, incremental=True)
AGE_PING: Final = b"age\0\0\0\0\0"
_CONFIGURATION: Final = ngh2.Configuration(
    auto_window_update=False,
    stream_reset_rate_limit=_RESETS,
    max_inbound_header_list_size=_MAX_HEADER_BYTES,
    max_inbound_header_count=_MAX_HEADER_BYTES // FIELD_OVERHEAD,
)


class Connection(asyncio.Protocol):
    """Reads requests, and writes what all its calls have to say in one piece per turn of the loop.

    It ends when its client leaves or no longer answers pings; when it has grown old, with the
    last of its calls.
    """

    def __init__(
        self,
        methods: Mapping[bytes, Method],
        limits: Limits,
        connections: set[Connection],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.loop = loop
        self.peer = "unknown"
        self.lost = asyncio.Event()
        self._methods = methods
        self._limits = limits
        self._connections = connections
        self._http = ngh2.Connection(ngh2.Role.SERVER, _CONFIGURATION)
        self._outgoing = Outgoing(self._http)
        self._calls: dict[int, Call] = {}
        self._held = 0
        self._lingering: asyncio.TimerHandle | None = None
        self._leaving = False
        self._told_last = False
        self._paused = False
        self._flush_due = False
        self._closed = False

    # asyncio's protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._lifetime = Lifetime(self, self._limits)
        self._backlog = Backlog(self, self._transport, self._outgoing)
        encrypted = transport.get_extra_info("ssl_object")
        if encrypted is not None and encrypted.selected_alpn_protocol() != "h2":
            self.abandon("over TLS it must ask for h2")
            return
        self._transport.set_write_buffer_limits(high=_MAX_BUFFERED_BYTES)
        self.peer = _address(transport.get_extra_info("peername"))
        self._connections.add(self)
        self._http.initiate_connection(
            {
                ngh2.Setting.MAX_CONCURRENT_STREAMS: self._limits.max_concurrent_streams,
                ngh2.Setting.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
                ngh2.Setting.MAX_HEADER_LIST_SIZE: MAX_METADATA_BYTES,
                ngh2.Setting.NO_RFC7540_PRIORITIES: 1,
            }
        )
        self._http.set_local_window_size(_CONNECTION_WINDOW)
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        self._lifetime.heard()
        for start in range(0, len(data), _PIECE_BYTES):
            try:
                self._http.receive_data(data[start : start + _PIECE_BYTES])
            except ngh2.NGH2Error as error:
                self.abandon(f"what came is not HTTP/2 as agreed: {error}")
                return
            self._handle_events()
            if self._closed:
                return
        # What was sent because of it goes together with what the calls now do.
        self._flush_soon()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if not self._closed:
            self._backlog.resume()
            self._flush()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._end_all()
        self._connections.discard(self)
        if self._lingering is not None:
            self._lingering.cancel()
        self.lost.set()
        # They know it as well: unparted, they would wait for a search for garbage.
        del self._lifetime, self._backlog

    def abandon(self, why: str) -> None:
        """Close at once: what is on its way is for nobody."""
        logger.debug("connection closed", peer=self.peer, why=why)
        self._end_all()
        self._transport.abort()

    def _end_all(self) -> None:
        self._closed = True
        self._lifetime.end()
        self._backlog.end()
        for call in list(self._calls.values()):
            call.gone()

    # HTTP/2's events.

    def _handle_events(self) -> None:
        event: Any  # which of ngh2's events is told by its type, at once
        for event in self._http.events():
            if self._closed:
                return
            kind = type(event)
            if kind is ngh2.DataReceived:
                self._data(event)
            elif kind is ngh2.RequestReceived:
                self._request(event)
            elif kind is ngh2.StreamClosed:
                self._outgoing.ended(event.stream_id)
                if event.local_error is not None:
                    logger.error("an answer cannot be sent", why=str(event.local_error))
                if (call := self._calls.pop(event.stream_id, None)) is not None:
                    call.gone()
            elif kind is ngh2.TrailersReceived:
                # A request's trailers say no more than that it ends.
                if (call := self._calls.get(event.stream_id)) is not None:
                    call.received(b"", end_stream=True)
            elif kind is ngh2.SettingsReceived:
                self._lifetime.settings()
            elif kind is ngh2.PingAcknowledged:
                if event.opaque_data == AGE_PING:
                    self._tell_last()
            elif kind is ngh2.ConnectionClosed:
                self._close()

    def _data(self, event: Any) -> None:
        call = self._calls.get(event.stream_id)
        if call is not None:
            call.received(event.data, event.end_stream)
            return
        self._acknowledge(event.stream_id, len(event.data))
        if event.end_stream:
            self._outgoing.ended(event.stream_id)

    def _request(self, event: Any) -> None:
        # Unless its client has cancelled it already, or the connection ends.
        with suppress(ngh2.StreamProtocolError, ngh2.ConnectionStateError):
            self._http.set_stream_priority(event.stream_id, _IN_TURN, ignore_client_signal=True)
        try:
            request = read_request(event.headers, self._methods, self._limits.max_message_bytes)
        except Refused as refused:
            self._outgoing.put(event.stream_id, refused.answer, b"", ())
            if not event.end_stream:
                self._outgoing.await_end(event.stream_id)
            return
        call = self._calls[event.stream_id] = Call(self, event.stream_id, request)
        if event.end_stream:
            call.received(b"", end_stream=True)

    # What calls do.

    def acknowledge(self, call: Call, amount: int) -> None:
        """Let the client send as many bytes more."""
        self._acknowledge(call.stream_id, amount)
        self._flush_soon()

    def _acknowledge(self, stream_id: int, amount: int) -> None:
        if amount and not self._closed:
            with suppress(ngh2.ConnectionStateError):
                self._http.acknowledge_received_data(amount, stream_id)

    def send(
        self,
        call: Call,
        *,
        headers: Sequence[Field] | None = None,
        data: bytes = b"",
        trailers: Sequence[Field] | None = None,
    ) -> None:
        """Any of the three, in this order; trailers are the end."""
        self._outgoing.put(call.stream_id, headers, data, trailers)
        self._flush_soon()

    def has_room(self, call: Call) -> bool:
        """Whether it may write; if not, it is told when it may."""
        return self._outgoing.has_room(call)

    def may_hold(self, change: int) -> bool:
        """Whether its calls may hold so much more that is unfinished; it is counted in any case."""
        self._held += change
        return self._held <= _MAX_HELD_BYTES

    def forget(self, call: Call, *, half_closed: bool) -> None:
        """A call has ended; its client need not send the rest of it."""
        self._outgoing.forget(call)
        if self._calls.pop(call.stream_id, None) is not None and not half_closed:
            self._outgoing.await_end(call.stream_id)
        if self._leaving:
            self._flush_soon()

    # Writing.

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._closed:
            return
        if self._paused:
            self._backlog.watch(paused=True)
            return
        try:
            data = self._outgoing.take()
        except ngh2.NGH2Error as error:
            self.abandon(f"nothing can be sent: {error}")
            return
        if data:
            self._backlog.write(data)
        self._handle_events()
        if not self._closed:
            self._backlog.watch(paused=self._paused)
            self._outgoing.make_room()

    # Its end.

    def _close(self) -> None:
        """All is said. What the client still sends is not read; closed under it, that would make
        its system throw away what it has not read yet."""
        self._end_all()
        if not self._transport.can_write_eof():
            self._transport.close()
            return
        try:
            self._transport.write_eof()
        except OSError:
            self._transport.abort()
            return
        self._linger(self._transport.get_write_buffer_size())

    def _linger(self, unsent: int) -> None:
        self._lingering = self.loop.call_later(LINGER_SECONDS, self._lose_patience, unsent)

    def _lose_patience(self, unsent: int) -> None:
        still = self._transport.get_write_buffer_size()
        if 0 < still < unsent:
            self._linger(still)
        else:
            self._transport.abort()

    def ping(self) -> None:
        """Ask the client whether it is there."""
        with suppress(ngh2.ConnectionStateError):  # it ends already
            self._http.ping()
        self._flush_soon()

    def leave(self) -> None:
        """Take no new calls, and close with the last: in two steps, so that none is lost."""
        if self._leaving or self._closed:
            return
        self._leaving = True
        with suppress(ngh2.ConnectionStateError):  # it ends already
            self._http.send_shutdown_notice()
            self._http.ping(AGE_PING)
        self._flush_soon()

    def _tell_last(self) -> None:
        """The client has read that it is to leave: what it called until now is all."""
        if self._leaving and not self._told_last:
            self._told_last = True
            with suppress(ngh2.ConnectionStateError):  # it ends already
                self._http.send_goaway()
            self._flush_soon()

    def cut(self) -> None:
        """End what still runs, and close; at once if the client takes nothing."""
        if self._closed:
            return
        self._leaving = True
        for call in list(self._calls.values()):
            call.end(grpc.StatusCode.UNAVAILABLE, "the connection was closed by its server")
        self._tell_last()
        self._flush()
        if not self._closed:
            self.abandon("it has not taken what it was told at last")


def _address(found: Any) -> str:
    if not isinstance(found, tuple):
        return f"unix:{found}"
    host, port = found[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
