"""One call: what its client sends, what its handler answers, how it ends."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog

from engine.grpc_server.context import Context
from engine.grpc_server.messages import PREFIX_BYTES, Packed, Unreadable, write_message
from engine.grpc_server.metadata import Metadata, write_metadata, write_status
from engine.grpc_server.request import HEADERS, Request

if TYPE_CHECKING:
    from engine.grpc_server.connection import Connection

logger = structlog.get_logger()

# What is sent of a stream's requests and not yet taken by its handler; more waits in the client.
MAX_UNTAKEN_BYTES: Final = 65_536
_OK: Final = write_status(0, "")


class Call(Context):
    """A call under way, and its handler's context.

    The handler is a task that is cancelled when nobody waits for it any more: the client is gone
    or has cancelled, the deadline is over, the server ends.
    """

    def __init__(self, connection: Connection, stream_id: int, request: Request) -> None:
        super().__init__(request.metadata, connection.peer)
        self.stream_id = stream_id
        self._connection = connection
        self._method = request.method
        self._assembly = request.assembly
        self._loop = connection.loop
        self._task: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        if request.timeout_seconds is not None:
            self._deadline = self._loop.call_later(request.timeout_seconds, self._expire)
        self._requests: deque[Packed] = deque()
        self._untaken = 0
        # Bytes of a message that is not all here yet.
        self._held = 0
        # Bytes of data of which the client was not told that it was taken.
        self._owed = 0
        self._half_closed = False
        self._request_waiter: asyncio.Future[None] | None = None
        self._room_waiter: asyncio.Future[None] | None = None
        self._headers_sent = False
        if self._method.request_streaming:
            self._start(self._each_request())

    # What the connection tells it.

    def received(self, data: bytes, end_stream: bool) -> None:
        """Bytes of its requests; the last of them with `end_stream`."""
        self._half_closed = self._half_closed or end_stream
        if self.ended:
            self._connection.acknowledge(self, len(data))
            return
        self._owed += len(data)
        try:
            messages = self._assembly.feed(data)
            self._hold(self._assembly.held_bytes)
            if end_stream and self._held:
                raise Unreadable(grpc.StatusCode.INTERNAL, "the last message is cut short")
            if not self._method.request_streaming:
                self._take_single(messages)
        except Unreadable as error:
            self.end(error.code, str(error))
            return
        if self._method.request_streaming:
            self._requests += messages
            self._untaken += sum(map(_room_of, messages))
            if self._request_waiter is not None and (messages or end_stream):
                _wake(self._request_waiter)
        self._acknowledge()

    def gone(self) -> None:
        """The client has cancelled it, or cannot be reached any more."""
        self.left = self.left or not self.ended
        self._finish()
        if self._task is not None:
            self._task.cancel()

    def end(self, code: grpc.StatusCode, message: str) -> None:
        """End it with this status whatever its handler does."""
        if not self.ended:
            self._send_status(code, message, ())
        if self._task is not None:
            self._task.cancel()

    def has_room(self) -> None:
        """The client took some of what was written."""
        if self._room_waiter is not None:
            _wake(self._room_waiter)

    # Requests.

    def _hold(self, amount: int) -> None:
        """Raises Unreadable when a connection's calls hold too much that is unfinished."""
        change, self._held = amount - self._held, amount
        if not self._connection.may_hold(change):
            raise Unreadable(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "too many messages at once of which this connection has sent only a part",
            )

    def _take_single(self, messages: list[Packed]) -> None:
        if len(messages) > 1 or (messages and self._task is not None):
            raise Unreadable(grpc.StatusCode.INTERNAL, "this method takes one message, not more")
        if messages:
            self._start(self._assembly.unpack(messages[0]))
        elif self._half_closed and self._task is None:
            raise Unreadable(grpc.StatusCode.INTERNAL, "this method takes one message, not none")

    async def _each_request(self) -> Any:
        read = self._method.read
        while (request := await self.read()) is not grpc.aio.EOF:
            yield read(request) if read else request

    async def read(self) -> Any:
        """The next request's bytes, or grpc.aio.EOF; that too when the call has ended."""
        while not self._requests:
            if self._half_closed or self.ended:
                return grpc.aio.EOF
            self._request_waiter = self._loop.create_future()
            try:
                await self._request_waiter
            finally:
                self._request_waiter = None
        request = self._requests.popleft()
        self._untaken -= _room_of(request)
        self._acknowledge()
        try:
            return self._assembly.unpack(request)
        except Unreadable as error:
            self.end(error.code, str(error))
            return grpc.aio.EOF

    def _acknowledge(self) -> None:
        """Let the client send as much again, unless too much waits to be taken."""
        if self._owed and self._untaken < MAX_UNTAKEN_BYTES:
            self._connection.acknowledge(self, self._owed)
            self._owed = 0

    # The handler.

    def _start(self, request: Any) -> None:
        self._task = self._loop.create_task(self._run(request))

    async def _run(self, request: Any) -> None:
        method = self._method
        try:
            if method.read is not None and not method.request_streaming:
                request = method.read(request)
            produced = method.function(request, self)
            if not method.response_streaming:
                self._send_single(await produced)
                return
            if isinstance(produced, Awaitable):
                await produced
            else:
                async with aclosing(produced):
                    async for response in produced:
                        await self.write(response)
            self._end_by_handler(self._code or grpc.StatusCode.OK, self._details)
        except grpc.aio.AbortError:
            self._end_by_handler(self._code or grpc.StatusCode.UNKNOWN, self._details)
        except asyncio.CancelledError:
            self._end_by_handler(grpc.StatusCode.CANCELLED, "the call was given up here")
            raise
        except Exception as error:
            if self._code is None:
                logger.error("call failed", method=method.name, exc_info=error)
                self._code = grpc.StatusCode.UNKNOWN
                self._details = "internal error; it is in the server's log"
            self._end_by_handler(self._code, self._details)
        finally:
            self._task = None

    def _end_by_handler(self, code: grpc.StatusCode, details: str) -> None:
        if not self.ended:
            self._send_status(code, details, self._trailing)

    # Responses.

    def _send_single(self, response: Any) -> None:
        if self.ended:
            return
        if self._code is not None and self._code is not grpc.StatusCode.OK:
            self._send_status(self._code, self._details, self._trailing)
            return
        write = self._method.write
        payload = write_message(write(response) if write else response)
        trailers = _OK + write_metadata(self._trailing) if self._trailing else _OK
        headers = None if self._headers_sent else HEADERS
        self._connection.send(self, headers=headers, data=payload, trailers=trailers)
        self._finish()

    async def write(self, message: Any) -> None:
        """Send one response; waits while the client takes none."""
        if self.ended:
            # Nobody reads it; a task that was cancelled learns of it here.
            await asyncio.sleep(0)
            return
        if not self._headers_sent:
            self._send_headers(())
        write = self._method.write
        self._connection.send(self, data=write_message(write(message) if write else message))
        while not self.ended and not self._connection.has_room(self):
            self._room_waiter = self._loop.create_future()
            try:
                await self._room_waiter
            finally:
                self._room_waiter = None

    async def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        if self._headers_sent:
            raise grpc.aio.UsageError("initial metadata is sent already")
        if not self.ended:
            self._send_headers(initial_metadata)

    def _send_headers(self, metadata: Metadata) -> None:
        headers = [*HEADERS, *write_metadata(metadata)] if metadata else HEADERS
        self._headers_sent = True
        self._connection.send(self, headers=headers)

    def _send_status(self, code: grpc.StatusCode, details: str, metadata: Metadata) -> None:
        try:
            trailers = write_status(code.value[0], details, metadata)
        except (TypeError, ValueError, AttributeError) as error:
            logger.error("a status cannot be sent", method=self._method.name, why=str(error))
            trailers = write_status(code.value[0], "what more there is to say cannot be sent")
        headers = None if self._headers_sent else HEADERS
        self._connection.send(self, headers=headers, trailers=trailers)
        self._finish()

    def _finish(self) -> None:
        if self.ended:
            return
        self.ended = True
        if self._deadline is not None:
            self._deadline.cancel()
        if self._owed:
            self._connection.acknowledge(self, self._owed)
            self._owed = 0
        self._connection.may_hold(-self._held)
        self._requests.clear()
        for waiter in (self._room_waiter, self._request_waiter):
            if waiter is not None:
                _wake(waiter)
        self._connection.forget(self, half_closed=self._half_closed)
        for callback in self._callbacks:
            self._loop.call_soon(callback, self)

    def _expire(self) -> None:
        self.left = not self.ended
        self.end(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def time_remaining(self) -> float | None:  # type: ignore[override]
        if self._deadline is None:
            return None
        return max(0.0, self._deadline.when() - self._loop.time())


def _room_of(message: Packed) -> int:
    # Empty ones take room too.
    return len(message.payload) + PREFIX_BYTES


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
