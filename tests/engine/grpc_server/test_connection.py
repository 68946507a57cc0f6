"""What a connection does with clients that do what grpcio's never would."""

from __future__ import annotations

import asyncio
import gzip
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import grpc
import ngh2
import pytest

from engine.grpc_server import connection, lifetime
from engine.grpc_server.call import MAX_UNSENT_BYTES, MAX_UNTAKEN_BYTES
from engine.grpc_server.connection import Connection
from engine.grpc_server.messages import Assembly, Packed, write_message
from engine.grpc_server.request import MAX_METADATA_BYTES
from engine.grpc_server.server import GrpcServer
from engine.limits import Limits

PATIENCE_SECONDS = 15
HOST = "127.0.0.1"
CHUNK = bytes(4_000)
STREAM_WINDOW = 65_535

Handler = Callable[[Any, Any], Any]


class Peer:
    """A client that says what it is told to, frame by frame."""

    def __init__(
        self, server: GrpcServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server = server
        self.http = ngh2.Connection(ngh2.Role.CLIENT, ngh2.Configuration(auto_window_update=False))
        self.http.initiate_connection()
        self.http.set_local_window_size(2**30)
        self.fields: dict[int, dict[bytes, bytes]] = defaultdict(dict)
        self.data: dict[int, bytes] = defaultdict(bytes)
        self.resets: dict[int, int] = {}
        self.closed: dict[int, int] = {}
        self.left = False
        self._reader = reader
        self._writer = writer

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
        self._writer.write(self.http.data_to_send())
        await self._writer.drain()

    async def until(self, met: Callable[[], Any]) -> None:
        """Send what is due and read until it holds."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.send()
            while not met():
                data = await self._reader.read(65_536)
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
            next(one for one in grpc.StatusCode if one.value[0] == code),
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
                while await self._reader.read(65_536):
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
async def served(**handlers: Handler) -> AsyncIterator[Peer]:
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
    port = server.listen(f"{HOST}:0")
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


async def test_many_calls_in_one_piece_are_all_answered() -> None:
    async with served() as peer:
        streams = [peer.call(b"%d" % n) for n in range(50)]
        for n, stream in enumerate(streams):
            assert await peer.status(stream) == (grpc.StatusCode.OK, "")
            assert peer.data[stream] == write_message(b"%d" % n)


@pytest.mark.parametrize("path", ["Echo", "Nowhere"])
async def test_a_call_that_is_cancelled_in_the_piece_it_comes_in_harms_nobody(path: str) -> None:
    async with served() as peer:
        stream = peer.call(b"x", method=path)
        sent = peer.http.data_to_send()
        peer.http.reset_stream(stream)
        peer._writer.write(sent + peer.http.data_to_send())
        await peer.is_served()


@pytest.mark.parametrize(("messages", "said"), [((), "not none"), ((b"one", b"two"), "not more")])
async def test_a_method_that_takes_one_message_takes_just_one(
    messages: tuple[bytes, ...], said: str
) -> None:
    async with served() as peer:
        code, message = await peer.status(peer.call(*messages))
        assert code is grpc.StatusCode.INTERNAL
        assert said in message
        await peer.is_served()


async def test_a_second_message_after_the_first_was_taken_ends_the_call() -> None:
    left = Left()
    async with served(single_Wait=left.single) as peer:
        stream = peer.request("Wait")
        peer.http.send_data(stream, write_message(b"one"))
        await peer.send()
        await asyncio.wait_for(left.begun.wait(), PATIENCE_SECONDS)
        peer.http.send_data(stream, write_message(b"two"))
        assert (await peer.status(stream))[0] is grpc.StatusCode.INTERNAL
        await left.was_left()


async def test_a_message_that_is_cut_short_is_no_message() -> None:
    async with served() as peer:
        stream = peer.request()
        peer.http.send_data(stream, write_message(b"whole")[:-1], end_stream=True)
        code, message = await peer.status(stream)
        assert (code, message) == (grpc.StatusCode.INTERNAL, "the last message is cut short")


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"grpc_timeout": "soon"}, grpc.StatusCode.INVALID_ARGUMENT, "grpc-timeout must be"),
        ({"token_bin": "?"}, grpc.StatusCode.INVALID_ARGUMENT, "'token-bin' must be base64"),
        ({"grpc_encoding": "zstd"}, grpc.StatusCode.UNIMPLEMENTED, "identity,gzip,deflate"),
        (
            {"long": "x" * MAX_METADATA_BYTES},
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "metadata of more than",
        ),
    ],
)
async def test_fields_that_are_no_use_are_named(
    fields: dict[str, str], code: grpc.StatusCode, said: str
) -> None:
    async with served() as peer:
        ended, message = await peer.status(peer.call(b"x", **fields))
        assert ended is code
        assert said in message
        await peer.is_served()


@pytest.mark.parametrize("content_type", ["application/json", "application/grpc-web", ""])
async def test_what_is_not_grpc_is_told_so_in_http(content_type: str) -> None:
    async with served() as peer:
        stream = peer.call(b"x", content_type=content_type)
        await peer.until(lambda: stream in peer.closed)
        assert peer.fields[stream][b":status"] == b"415"
        await peer.is_served()


async def test_a_client_that_still_sends_to_an_answered_call_is_told_that_it_need_not() -> None:
    async with served() as peer:
        stream = peer.request("Nowhere")
        peer.http.send_data(stream, write_message(b"x"))
        assert (await peer.status(stream))[0] is grpc.StatusCode.UNIMPLEMENTED
        await peer.until(lambda: stream in peer.resets)
        assert peer.resets[stream] == ngh2.ErrorCode.NO_ERROR
        await peer.is_served()


async def test_a_call_whose_deadline_is_over_is_ended_and_its_handler_left() -> None:
    left = Left()
    async with served(single_Wait=left.single) as peer:
        stream = peer.call(b"x", method="Wait", grpc_timeout="50m")
        assert (await peer.status(stream))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        await left.was_left()


@pytest.mark.parametrize(
    ("details", "metadata"), [("\ud800", ()), ("well", (("line", "a\nb"),)), ("well", (("K", ""),))]
)
async def test_a_status_that_cannot_be_sent_ends_its_call_all_the_same(
    details: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    async def failing(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.DATA_LOSS, details, metadata)
        raise AssertionError("abort raises")

    async with served(single_Fail=failing) as peer:
        code, message = await peer.status(peer.call(b"x", method="Fail"))
        assert (code, message) == (
            grpc.StatusCode.DATA_LOSS,
            "what more there is to say cannot be sent",
        )


@pytest.mark.parametrize("kind", ["single", "out"])
async def test_a_handler_that_fails_tells_nothing_of_the_inside(kind: str) -> None:
    async def single(request: bytes, context: Any) -> bytes:
        raise RuntimeError("the inside")

    async def out(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        raise RuntimeError("the inside")

    handler = single if kind == "single" else out
    async with served(**{f"{kind}_Fail": handler}) as peer:
        code, message = await peer.status(peer.call(b"x", method="Fail"))
        assert (code, message) == (
            grpc.StatusCode.UNKNOWN,
            "internal error; it is in the server's log",
        )


@pytest.mark.parametrize("kind", ["single", "out"])
async def test_initial_metadata_that_cannot_be_sent_ends_its_call(kind: str) -> None:
    async def single(request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("line", "a\nb"),))
        return request

    async def out(request: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("line", "a\nb"),))
        yield request

    handler = single if kind == "single" else out
    async with served(**{f"{kind}_Tell": handler}) as peer:
        assert (await peer.status(peer.call(b"x", method="Tell")))[0] is grpc.StatusCode.UNKNOWN


async def test_a_code_may_be_a_number_as_with_grpcio() -> None:
    async def failing(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND.value[0], "nowhere")
        raise AssertionError("abort raises")

    async with served(single_Fail=failing) as peer:
        ended = await peer.status(peer.call(b"x", method="Fail"))
        assert ended == (grpc.StatusCode.NOT_FOUND, "nowhere")


async def test_a_reader_beside_the_handler_ends_with_the_call() -> None:
    read: list[bytes] = []
    readers: list[asyncio.Task[None]] = []
    reading = asyncio.Event()

    async def forgetful(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async def take() -> None:
            async for request in requests:
                read.append(request)
                reading.set()

        readers.append(asyncio.create_task(take()))
        await asyncio.Event().wait()
        yield b"never"

    async with served(both_Take=forgetful) as peer:
        stream = peer.request("Take")
        peer.http.send_data(stream, write_message(b"x"))
        await peer.send()
        await asyncio.wait_for(reading.wait(), PATIENCE_SECONDS)
        peer.http.reset_stream(stream)
        await peer.is_served()
        await asyncio.wait_for(readers[0], PATIENCE_SECONDS)
    assert read == [b"x"]


async def test_unfinished_messages_of_all_calls_together_have_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_MAX_HELD_BYTES", 11 * len(CHUNK))
    async with served() as peer:
        started = []
        for _ in range(10):
            started.append(peer.request())
            peer.http.send_data(started[-1], write_message(CHUNK)[:-1])
        one_more = peer.request()
        peer.http.send_data(one_more, write_message(CHUNK)[:-1])
        assert (await peer.status(one_more))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        for stream in started:
            peer.http.send_data(stream, CHUNK[:1], end_stream=True)
            assert (await peer.status(stream))[0] is grpc.StatusCode.OK
        # What was finished or refused counts no more.
        again = [peer.request() for _ in range(10)]
        for stream in again:
            peer.http.send_data(stream, write_message(CHUNK)[:-1])
        await peer.is_served()


async def test_who_lets_answers_pile_up_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_MAX_QUEUED_BYTES", 10 * len(CHUNK))
    async with served() as peer:
        peer.http.update_settings({ngh2.Setting.INITIAL_WINDOW_SIZE: 0})
        for _ in range(11):
            peer.call(CHUNK)
        await peer.send()
        await peer.closed_by_server()


async def test_who_does_nothing_but_change_settings_is_left() -> None:
    async with served() as peer:
        with suppress(ConnectionError):
            for size in range(2 * lifetime.MAX_SETTINGS):
                peer.http.update_settings({ngh2.Setting.INITIAL_WINDOW_SIZE: size})
                await peer.send()
        await peer.closed_by_server()


async def test_a_compressed_message_is_unpacked_when_it_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = Left()
    unpacked: list[bytes] = []
    unpack = Assembly.unpack

    def counting(self: Assembly, message: Packed) -> bytes:
        unpacked.append(message.payload)
        return unpack(self, message)

    monkeypatch.setattr(Assembly, "unpack", counting)
    async with served(both_One=left.both) as peer:
        stream = peer.request("One", grpc_encoding="gzip")
        payload = gzip.compress(CHUNK)
        packed = b"\x01" + len(payload).to_bytes(4, "big") + payload
        peer.http.send_data(stream, packed * 10)
        await peer.until(lambda: peer.data[stream])
        assert unpacked == [payload]
        assert left.taken == [CHUNK]


async def test_a_compressed_message_that_is_none_ends_a_stream_of_them() -> None:
    left = Left()
    async with served(both_One=left.both) as peer:
        stream = peer.request("One", grpc_encoding="gzip")
        peer.http.send_data(stream, b"\x01\x00\x00\x00\x07no gzip")
        code, message = await peer.status(stream)
        assert (code, message) == (grpc.StatusCode.INTERNAL, "the message is not gzip")


async def test_handlers_are_left_with_the_connection() -> None:
    lefts = [Left(), Left(), Left()]
    single, out, both = lefts
    async with served(single_A=single.single, out_B=out.out, both_C=both.both) as peer:
        for method in "ABC":
            stream = peer.request(method)
            peer.http.send_data(stream, write_message(b"x"))
        await peer.send()
        for left in lefts:
            await asyncio.wait_for(left.begun.wait(), PATIENCE_SECONDS)
        peer._writer.transport.abort()
        for left in lefts:
            await left.was_left()


async def test_a_handler_writes_no_further_ahead_than_its_client_reads() -> None:
    written = 0

    async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
        nonlocal written
        while True:
            yield CHUNK
            written += len(CHUNK)

    async with served(out_Endless=endless) as peer:
        stream = peer.call(b"x", method="Endless")
        for read in range(STREAM_WINDOW, 4 * STREAM_WINDOW, STREAM_WINDOW):
            await peer.until(partial(peer.has_read, stream, read))
            await peer.is_served()
            assert written <= read + MAX_UNSENT_BYTES + 2 * len(CHUNK)
            peer.take(stream, STREAM_WINDOW)


async def test_a_client_that_allows_much_and_reads_nothing_is_not_written_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = 0
    full = asyncio.Event()
    pause_writing = Connection.pause_writing

    async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
        nonlocal written
        while True:
            yield CHUNK
            written += len(CHUNK)

    def pausing(self: Connection) -> None:
        pause_writing(self)
        full.set()

    monkeypatch.setattr(Connection, "pause_writing", pausing)
    async with served(out_Endless=endless) as peer:
        peer.http.update_settings({ngh2.Setting.INITIAL_WINDOW_SIZE: 2**30})
        stream = peer.call(b"x", method="Endless")
        await peer.send()
        await asyncio.wait_for(full.wait(), PATIENCE_SECONDS)
        before = written
        for _ in range(100):
            await asyncio.sleep(0)
        assert written <= before + MAX_UNSENT_BYTES + 2 * len(CHUNK)
        await peer.until(partial(peer.has_read, stream, written + MAX_UNSENT_BYTES))


async def test_a_client_sends_no_further_ahead_than_its_handler_reads() -> None:
    left = Left()
    async with served(both_One=left.both) as peer:
        stream = peer.request("One")
        peer.http.send_data(stream, write_message(CHUNK) * 100)
        await peer.until(lambda: peer.data[stream])
        await peer.is_served()
        # What is held here, and what was on its way when no more was allowed.
        limit = len(CHUNK) + MAX_UNTAKEN_BYTES + STREAM_WINDOW
        assert 100 * len(write_message(CHUNK)) - peer.http.queued_body_size(stream) <= limit
        assert left.taken == [CHUNK]


async def test_what_was_not_taken_of_a_cancelled_call_leaves_room_for_others() -> None:
    left = Left()
    async with served(both_One=left.both) as peer:
        # More than a connection's window, all of it in calls that take next to nothing.
        for _ in range(400):
            stream = peer.request("One")
            peer.http.send_data(stream, write_message(CHUNK) * 40)
            await peer.until(partial(peer.has_sent_all_it_may, stream, 20 * len(CHUNK)))
            peer.http.reset_stream(stream)
        await peer.is_served()


async def test_a_stopping_server_waits_for_what_runs_and_tells_the_client_to_leave() -> None:
    finish = asyncio.Event()

    async def slow(request: bytes, context: Any) -> bytes:
        await finish.wait()
        return request

    async with served(single_Slow=slow) as peer:
        stream = peer.call(b"x", method="Slow")
        await peer.is_served()
        stopping = asyncio.create_task(peer.server.stop(PATIENCE_SECONDS))
        await peer.until(lambda: not peer.http.can_send_request)
        assert not stopping.done()
        finish.set()
        assert (await peer.status(stream))[0] is grpc.StatusCode.OK
        await peer.until(lambda: peer.left)
        # It closes with its client, not under it.
        assert not (await asyncio.wait({stopping}, timeout=0.1))[0]
        peer._writer.close()
        await asyncio.wait_for(stopping, PATIENCE_SECONDS)


async def test_a_call_that_met_the_word_to_leave_is_answered() -> None:
    async with served() as peer:
        await peer.is_served()
        stopping = asyncio.create_task(peer.server.stop(PATIENCE_SECONDS))
        unread = await asyncio.wait_for(peer._reader.read(65_536), PATIENCE_SECONDS)
        stream = peer.call(b"on its way")
        await peer.send()
        peer.http.receive_data(unread)
        assert not peer.http.can_send_request
        assert (await peer.status(stream))[0] is grpc.StatusCode.OK
        peer._writer.close()
        await asyncio.wait_for(stopping, PATIENCE_SECONDS)


async def test_what_outlasts_the_grace_ends_as_unavailable() -> None:
    left = Left()
    async with served(single_Wait=left.single) as peer:
        stream = peer.call(b"x", method="Wait")
        await peer.is_served()
        stopping = asyncio.create_task(peer.server.stop(0))
        assert (await peer.status(stream))[0] is grpc.StatusCode.UNAVAILABLE
        await left.was_left()
        peer._writer.close()
        await asyncio.wait_for(stopping, PATIENCE_SECONDS)


async def test_a_client_that_reads_nothing_does_not_keep_a_server_from_stopping() -> None:
    async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
        while True:
            yield CHUNK

    async with served(out_Endless=endless) as peer:
        peer.call(b"x", method="Endless")
        await peer.is_served()
        await asyncio.wait_for(peer.server.stop(0), PATIENCE_SECONDS)
        await peer.closed_by_server()


async def test_a_connection_that_ends_with_an_error_may_be_told_to_end_all_the_same() -> None:
    window_update_of_nothing = bytes([0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    async with served() as peer:
        await peer.is_served()
        [one] = peer.server._connections
        one.data_received(window_update_of_nothing)
        one.ping()
        one.leave()
        one.cut()
        await peer.closed_by_server()
