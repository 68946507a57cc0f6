"""How connections end: with their server, with their client, by a mistake."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import weakref
from collections.abc import AsyncIterator
from typing import Any

import grpc
import ngh2
import pytest

from engine.grpc_server import server
from engine.grpc_server.connection import AGE_PING
from engine.grpc_server.lifetime import MAX_SETTINGS
from engine.grpc_server.messages import write_message
from tests.engine.grpc_server.peers import PATIENCE_SECONDS, Left, served

CHUNK = bytes(4_000)


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
        peer.writer.transport.abort()
        for left in lefts:
            await left.was_left()


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
        peer.writer.close()
        await asyncio.wait_for(stopping, PATIENCE_SECONDS)


async def test_a_call_that_met_the_word_to_leave_is_answered() -> None:
    async with served() as peer:
        await peer.is_served()
        stopping = asyncio.create_task(peer.server.stop(PATIENCE_SECONDS))
        unread = await asyncio.wait_for(peer.reader.read(65_536), PATIENCE_SECONDS)
        stream = peer.call(b"on its way")
        await peer.send()
        peer.http.receive_data(unread)
        assert not peer.http.can_send_request
        assert (await peer.status(stream))[0] is grpc.StatusCode.OK
        peer.writer.close()
        await asyncio.wait_for(stopping, PATIENCE_SECONDS)


async def test_what_outlasts_the_grace_ends_as_unavailable() -> None:
    left = Left()
    async with served(single_Wait=left.single) as peer:
        stream = peer.call(b"x", method="Wait")
        await peer.is_served()
        stopping = asyncio.create_task(peer.server.stop(0))
        assert (await peer.status(stream))[0] is grpc.StatusCode.UNAVAILABLE
        await left.was_left()
        peer.writer.close()
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


async def test_a_client_may_agree_to_leave_and_leave_in_one_piece() -> None:
    ping_answered = bytes([0, 0, 8, 6, 1, 0, 0, 0, 0]) + AGE_PING
    goaway = bytes([0, 0, 8, 7, 0, 0, 0, 0, 0]) + bytes(8)
    async with served() as peer:
        await peer.is_served()
        [one] = peer.server._connections
        one.leave()
        one._flush()
        one.data_received(ping_answered + goaway)
        one.ping()
        one.cut()
        await peer.closed_by_server()


async def test_nothing_begins_on_a_connection_that_is_given_up() -> None:
    left = Left()
    async with served(single_Wait=left.single) as peer:
        await peer.is_served()
        for size in range(2 * MAX_SETTINGS):
            peer.http.update_settings({ngh2.Setting.INITIAL_WINDOW_SIZE: size})
        peer.call(b"x", method="Wait")
        [one] = peer.server._connections
        one.data_received(peer.http.data_to_send())
        assert not one._calls
        await peer.closed_by_server()
        assert not left.begun.is_set()


async def test_a_connection_that_is_gone_is_no_garbage_to_be_searched_for() -> None:
    gc.disable()
    try:
        async with served() as peer:
            await peer.is_served()
            [one] = peer.server._connections
            lost, known = one.lost, weakref.ref(one)
            del one
            peer.writer.close()
            await asyncio.wait_for(lost.wait(), PATIENCE_SECONDS)
            # What told of the loss is on its way out of it.
            await asyncio.sleep(0)
            assert known() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("address", ["localhost:0", "0.0.0.0:0"])
async def test_an_address_is_reached_over_ipv4(address: str) -> None:
    async with served(address) as peer:
        await peer.is_served()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
async def test_all_addresses_of_ipv6_are_those_of_ipv4_too() -> None:
    async with served("[::]:0") as peer:
        await peer.is_served()


async def test_a_name_is_served_where_one_of_its_families_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listening = server._listening

    def without_ipv6(family: int, *how: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return listening(family, *how)

    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(server, "_listening", without_ipv6)
    monkeypatch.setattr(server, "_addresses", lambda host, port: found)
    async with served("localhost:0") as peer:
        await peer.is_served()
