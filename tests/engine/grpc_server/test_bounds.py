"""What a client can make a server hold, and how far each side may be ahead of the other."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
import ngh2
import pytest

from engine.grpc_server import backlog, connection, lifetime
from engine.grpc_server.backlog import Backlog
from engine.grpc_server.call import MAX_UNTAKEN_BYTES
from engine.grpc_server.connection import Connection
from engine.grpc_server.messages import Assembly, Packed, write_message
from engine.grpc_server.outgoing import MAX_UNSENT_BYTES
from tests.engine.grpc_server.peers import PATIENCE_SECONDS, Left, served

CHUNK = bytes(4_000)
# What a client that says nothing allows a stream, and what a server does.
CLIENT_WINDOW = 65_535
SERVER_WINDOW = 262_144


def filled(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once the system takes nothing more for a client."""
    full = asyncio.Event()
    pause_writing = Connection.pause_writing

    def pausing(self: Connection) -> None:
        pause_writing(self)
        full.set()

    monkeypatch.setattr(Connection, "pause_writing", pausing)
    return full


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
    monkeypatch.setattr(backlog, "MAX_BYTES", 10 * len(CHUNK))
    monkeypatch.setattr(backlog, "STALLED_SECONDS", 0.05)
    async with served() as peer:
        peer.http.update_settings({ngh2.Setting.INITIAL_WINDOW_SIZE: 0})
        for _ in range(11):
            peer.call(CHUNK)
        await peer.send()
        await peer.closed_by_server()


async def test_who_takes_its_answers_is_kept_however_much_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = asyncio.Event()
    look_again = Backlog._look_again

    def looking(self: Backlog, taken_before: int) -> None:
        look_again(self, taken_before)
        looked.set()

    monkeypatch.setattr(backlog, "MAX_BYTES", 10 * len(CHUNK))
    monkeypatch.setattr(backlog, "STALLED_SECONDS", 0.5)
    monkeypatch.setattr(Backlog, "_look_again", looking)
    async with served() as peer:
        stream = peer.call(bytes(1_000_000))
        for read in range(CLIENT_WINDOW, 4 * CLIENT_WINDOW, CLIENT_WINDOW):
            await peer.until(partial(peer.has_read, stream, read))
            looked.clear()
            peer.take(stream, CLIENT_WINDOW)
            await peer.send()
            await asyncio.wait_for(looked.wait(), PATIENCE_SECONDS)
        await peer.is_served()


async def test_who_takes_nothing_is_not_heard_until_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backlog, "MAX_BYTES", 1_000_000)
    # More than the system keeps for the two of them.
    size = 16 * 1_048_576
    begun: list[bytes] = []

    async def large(request: bytes, context: Any) -> bytes:
        begun.append(request)
        return bytes(size)

    full = filled(monkeypatch)
    async with served(single_Large=large) as peer:
        peer.http.update_settings({ngh2.Setting.INITIAL_WINDOW_SIZE: 2**30})
        first = peer.call(b"first", method="Large")
        await peer.send()
        await asyncio.wait_for(full.wait(), PATIENCE_SECONDS)
        [one] = peer.server._connections
        assert not one._transport.is_reading()
        second = peer.call(b"second", method="Large")
        await peer.send()
        assert begun == [b"first"]
        for stream in (first, second):
            await peer.until(partial(peer.has_read, stream, size))
        assert begun == [b"first", b"second"]


async def test_streams_that_share_a_connection_get_their_turns() -> None:
    async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
        while True:
            yield CHUNK

    async with served(out_Endless=endless) as wide, wide.beside(CLIENT_WINDOW) as peer:
        # All of them together may send a window at a time; each of them as much as it likes.
        peer.http.update_settings({ngh2.Setting.INITIAL_WINDOW_SIZE: 2**30})
        streams = [peer.call(b"x", method="Endless") for _ in range(5)]
        taken = dict.fromkeys(streams, 0)

        def new() -> dict[int, int]:
            found = {stream: len(peer.data[stream]) - taken[stream] for stream in streams}
            return {stream: amount for stream, amount in found.items() if amount}

        async def take_what_comes() -> None:
            await peer.until(new)
            for stream, amount in new().items():
                peer.take(stream, amount)
                taken[stream] += amount

        while sum(taken.values()) < 40 * CLIENT_WINDOW:
            await take_what_comes()
        assert min(taken.values()) > max(taken.values()) // 2
        # A short call is answered beside them.
        short = peer.call(b"short")
        while not peer.data[short]:
            await take_what_comes()


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


async def test_a_handler_writes_no_further_ahead_than_its_client_reads() -> None:
    written = 0

    async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
        nonlocal written
        while True:
            yield CHUNK
            written += len(CHUNK)

    async with served(out_Endless=endless) as peer:
        stream = peer.call(b"x", method="Endless")
        for read in range(CLIENT_WINDOW, 4 * CLIENT_WINDOW, CLIENT_WINDOW):
            await peer.until(partial(peer.has_read, stream, read))
            await peer.is_served()
            assert written <= read + MAX_UNSENT_BYTES + 2 * len(CHUNK)
            peer.take(stream, CLIENT_WINDOW)


async def test_a_client_that_allows_much_and_reads_nothing_is_not_written_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = 0

    async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
        nonlocal written
        while True:
            yield CHUNK
            written += len(CHUNK)

    full = filled(monkeypatch)
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
        limit = len(CHUNK) + MAX_UNTAKEN_BYTES + SERVER_WINDOW
        assert 100 * len(write_message(CHUNK)) - peer.http.queued_body_size(stream) <= limit
        assert left.taken == [CHUNK]


async def test_what_was_not_taken_of_a_cancelled_call_leaves_room_for_others() -> None:
    left = Left()
    async with served(both_One=left.both) as peer:
        # More than a connection's window, all of it in calls that take next to nothing.
        for _ in range(100):
            stream = peer.request("One")
            peer.http.send_data(stream, write_message(CHUNK) * 100)
            await peer.until(partial(peer.has_sent_all_it_may, stream, 40 * len(CHUNK)))
            peer.http.reset_stream(stream)
        await peer.is_served()
