"""What a call is, whatever its client sends and its handler does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import ngh2
import pytest

from engine.grpc_server.messages import write_message
from engine.grpc_server.request import MAX_METADATA_BYTES
from tests.engine.grpc_server.peers import PATIENCE_SECONDS, Left, served


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
        peer.writer.write(sent + peer.http.data_to_send())
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


@pytest.mark.parametrize("how", ["answered", "cancelled", "late"])
async def test_a_handler_learns_whether_anybody_waited_for_its_end(how: str) -> None:
    told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    begun = asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        context.set_compression(grpc.Compression.Gzip)  # which is allowed, and changes nothing
        context.add_done_callback(lambda done: told.set_result(done.cancelled()))
        begun.set()
        if how != "answered":
            await asyncio.Event().wait()
        return request

    async with served(single_Wait=wait) as peer:
        limit = {"grpc_timeout": "50m"} if how == "late" else {}
        stream = peer.call(b"x", method="Wait", **limit)
        await peer.send()
        await asyncio.wait_for(begun.wait(), PATIENCE_SECONDS)
        if how == "cancelled":
            peer.http.reset_stream(stream)
            await peer.send()
        assert await asyncio.wait_for(told, PATIENCE_SECONDS) is (how != "answered")


async def test_metadata_is_named_as_with_grpcio() -> None:
    async def told(request: bytes, context: Any) -> bytes:
        return b",".join(f"{m.key}={m.value}".encode() for m in context.invocation_metadata())

    async with served(single_Tell=told) as peer:
        stream = peer.call(b"x", method="Tell", x_one="1", x_two="2")
        assert (await peer.status(stream))[0] is grpc.StatusCode.OK
        assert peer.data[stream] == write_message(b"x-one=1,x-two=2")


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


async def test_a_compressed_message_that_is_none_ends_a_stream_of_them() -> None:
    left = Left()
    async with served(both_One=left.both) as peer:
        stream = peer.request("One", grpc_encoding="gzip")
        peer.http.send_data(stream, b"\x01\x00\x00\x00\x07no gzip")
        code, message = await peer.status(stream)
        assert (code, message) == (grpc.StatusCode.INTERNAL, "the message is not gzip")
