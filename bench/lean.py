"""A client of single calls that costs little: what is measured is the engine, on the same cores.

grpcio's takes half a millisecond of processor time for an order and its watch, more than any
service does. This one speaks HTTP/2 with nghttp2, on one connection, and what it has to say it
writes in one piece per turn of the loop. It has no deadlines: a job has one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import grpc
import ngh2

from engine.grpc_server.context import BY_NUMBER
from engine.grpc_server.messages import IDENTITY, Assembly, write_message
from engine.v1 import orders_pb2 as pb

SERVICE: Final = "/engine.v1.OrderService/"
CONNECT_SECONDS: Final = 10.0
MAX_MESSAGE_BYTES: Final = 4 * 1_048_576
# Nothing here is slow to read.
_WINDOW: Final = 2**30


class CallFailed(Exception):
    """A call ended with another status than OK."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code


class Orders(asyncio.Protocol):
    """OrderService's single calls, on one connection."""

    def __init__(self) -> None:
        self._http = ngh2.Connection(ngh2.Role.CLIENT)
        self._calls: dict[int, _Call] = {}
        self._loop = asyncio.get_running_loop()
        self._flush_due = False

    async def submit(self, order: pb.SubmitOrderRequest) -> pb.SubmitOrderResponse:
        """The order as accepted. Raises CallFailed."""
        call = self._call("SubmitOrder", order.SerializeToString())
        response = await call.next()
        end = await call.next()
        assert response is not None and end is None  # noqa: PT018 - one answer, and no more
        return pb.SubmitOrderResponse.FromString(response)

    async def watch(self, request: pb.WatchOrderRequest) -> AsyncIterator[pb.WatchOrderResponse]:
        """An order's events to its end. Raises CallFailed."""
        call = self._call("WatchOrder", request.SerializeToString())
        while (response := await call.next()) is not None:
            yield pb.WatchOrderResponse.FromString(response)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._http.initiate_connection({ngh2.Setting.INITIAL_WINDOW_SIZE: _WINDOW})
        self._http.set_local_window_size(_WINDOW)
        host, port = transport.get_extra_info("peername")[:2]
        self._headers = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":authority", f"{host}:{port}".encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        ]
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        event: Any  # which of ngh2's events is told by its type
        for event in self._http.events():
            kind = type(event)
            if kind is ngh2.DataReceived:
                self._calls[event.stream_id].received(event.data)
            elif kind is ngh2.ResponseReceived or kind is ngh2.TrailersReceived:
                self._calls[event.stream_id].told(dict(event.headers))
            elif kind is ngh2.StreamClosed:
                self._calls.pop(event.stream_id).closed()
        self._flush_soon()

    def connection_lost(self, error: Exception | None) -> None:
        for call in self._calls.values():
            call.closed()

    def _call(self, method: str, request: bytes) -> _Call:
        path = (b":path", (SERVICE + method).encode())
        stream_id = self._http.send_request([path, *self._headers])
        self._http.send_data(stream_id, write_message(request), end_stream=True)
        self._flush_soon()
        call = self._calls[stream_id] = _Call(self._loop)
        return call

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if data := self._http.data_to_send():
            self._transport.write(data)


class _Call:
    """What a call has been answered."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._assembly = Assembly(IDENTITY, MAX_MESSAGE_BYTES)
        self._messages: deque[bytes] = deque()
        self._fields: dict[bytes, bytes] = {}
        self._is_closed = False
        self._waiter: asyncio.Future[None] | None = None

    async def next(self) -> bytes | None:
        """The next message; None after the last. Raises CallFailed."""
        while not self._messages and not self._is_closed:
            self._waiter = self._loop.create_future()
            await self._waiter
        if self._messages:
            return self._messages.popleft()
        # A connection that is lost leaves none.
        number = self._fields.get(b"grpc-status", grpc.StatusCode.UNAVAILABLE.value[0])
        code = BY_NUMBER[int(number)]
        if code is not grpc.StatusCode.OK:
            raise CallFailed(code, self._fields.get(b"grpc-message", b"").decode())
        return None

    def received(self, data: bytes) -> None:
        self._messages += [message.payload for message in self._assembly.feed(data)]
        self._wake()

    def told(self, fields: dict[bytes, bytes]) -> None:
        self._fields |= fields

    def closed(self) -> None:
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@asynccontextmanager
async def orders(address: str) -> AsyncIterator[Orders]:
    """The gateway at an address; OSError when it is not there."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_SECONDS):
        transport, opened = await loop.create_connection(Orders, host, int(port))
    try:
        yield opened
    finally:
        transport.abort()
