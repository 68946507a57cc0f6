"""A client that speaks HTTP/2 frame by frame, and servers for it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import ngh2

from engine.grpc_server.context import BY_NUMBER
from engine.grpc_server.messages import write_message
from engine.grpc_server.server import GrpcServer
from engine.limits import Limits
from oee.ports import HOST

PATIENCE_SECONDS = 15
Handler = Callable[[Any, Any], Any]


class Peer:
    """A client that says what it is told to, frame by frame."""

    def __init__(
        self,
        server: GrpcServer,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        window: int = 2**30,
    ) -> None:
        """`window`: what all streams together may send until it is taken."""
        self.server = server
        self.http = ngh2.Connection(ngh2.Role.CLIENT, ngh2.Configuration(auto_window_update=False))
        self.http.initiate_connection()
        self.http.set_local_window_size(window)
        self.fields: dict[int, dict[bytes, bytes]] = defaultdict(dict)
        self.data: dict[int, bytearray] = defaultdict(bytearray)
        self.resets: dict[int, int] = {}
        self.closed: dict[int, int] = {}
        self.left = False
        self.reader = reader
        self.writer = writer

    @asynccontextmanager
    async def beside(self, window: int) -> AsyncIterator[Peer]:
        """Another client of the same server."""
        port = self.server._listeners[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            yield Peer(self.server, reader, writer, window)
        finally:
            writer.close()

    def request(self, method: str = "Echo", **fields: str) -> int:
        """Headers of a call; nothing goes out before `send`."""
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": f"/test.Test/{method}",
            ":authority": HOST,
            "content-type": "application/grpc",
            "te": "trailers",
            **{name.replace("_", "-"): value for name, value in fields.items()},
        }
        return self.http.send_request([(k.encode(), v.encode()) for k, v in headers.items()])

    def call(self, *messages: bytes, method: str = "Echo", **fields: str) -> int:
        """A whole call."""
        stream = self.request(method, **fields)
        self.http.send_data(stream, b"".join(map(write_message, messages)), end_stream=True)
        return stream

    async def send(self) -> None:
        self.writer.write(self.http.data_to_send())
        await self.writer.drain()

    async def until(self, met: Callable[[], Any]) -> None:
        """Send what is due and read until it holds."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.send()
            while not met():
                data = await self.reader.read(65_536)
                if not data:
                    self.left = True
                    assert met(), "the server closed the connection"
                    return
                self.http.receive_data(data)
                self._note()
                await self.send()

    async def status(self, stream: int) -> tuple[grpc.StatusCode, str]:
        """How the call ended."""
        await self.until(lambda: b"grpc-status" in self.fields[stream])
        found = self.fields[stream]
        code = int(found[b"grpc-status"])
        return (
            BY_NUMBER[code],
            found.get(b"grpc-message", b"").decode(),
        )

    async def is_served(self) -> None:
        """A call on this connection is answered."""
        stream = self.call(b"still there")
        assert (await self.status(stream))[0] is grpc.StatusCode.OK
        assert self.data[stream] == write_message(b"still there")

    def has_read(self, stream: int, amount: int) -> bool:
        return len(self.data[stream]) >= amount

    def has_sent_all_it_may(self, stream: int, but: int) -> bool:
        """It was allowed more than a window, but not what is left."""
        http = self.http
        return http.stream_remote_window_size(stream) == 0 and http.queued_body_size(stream) < but

    async def closed_by_server(self) -> None:
        """Whatever comes, until nothing can come any more."""
        with suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while await self.reader.read(65_536):
                    pass

    def take(self, stream: int, amount: int) -> None:
        """Let the server send as much more."""
        self.http.acknowledge_received_data(amount, stream)

    def _note(self) -> None:
        event: Any
        for event in self.http.events():
            if isinstance(event, ngh2.ResponseReceived | ngh2.TrailersReceived):
                self.fields[event.stream_id].update(dict(event.headers))
            elif isinstance(event, ngh2.DataReceived):
                self.data[event.stream_id] += event.data
            elif isinstance(event, ngh2.StreamReset):
                self.resets[event.stream_id] = event.error_code
            elif isinstance(event, ngh2.StreamClosed):
                self.closed[event.stream_id] = event.error_code


async def _echo(request: bytes, context: Any) -> bytes:
    return request


@asynccontextmanager
async def served(address: str = f"{HOST}:0", /, **handlers: Handler) -> AsyncIterator[Peer]:
    """A peer of a server that has these handlers, by kind and name, and an Echo."""
    server = GrpcServer(Limits())
    made: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(_echo)}
    for name, handler in handlers.items():
        kind, _, method = name.partition("_")
        make = {
            "single": grpc.unary_unary_rpc_method_handler,
            "out": grpc.unary_stream_rpc_method_handler,
            "both": grpc.stream_stream_rpc_method_handler,
        }[kind]
        made[method] = make(handler)
    server.add_registered_method_handlers("test.Test", made)
    port = server.listen(address)
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield Peer(server, reader, writer)
    finally:
        writer.close()
        await asyncio.wait_for(server.stop(0), PATIENCE_SECONDS)


class Left:
    """Handlers that never end by themselves, and tell when they were left."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.taken: list[bytes] = []

    async def _wait(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def single(self, request: bytes, context: Any) -> bytes:
        await self._wait()
        return b""

    async def out(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await self._wait()

    async def both(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Takes one request and no more."""
        self.taken.append(await anext(requests))
        yield b"taken"
        await self._wait()

    async def was_left(self) -> None:
        await asyncio.wait_for(self.ended.wait(), PATIENCE_SECONDS)
