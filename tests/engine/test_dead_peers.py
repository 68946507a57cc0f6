"""A peer that vanishes without a word, a pulled cable: found by pings that nobody answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import pytest

from engine import channel
from engine.channel import open_channel
from engine.grpc_server import lifetime
from engine.limits import Limits
from engine.rpc import serving
from engine.v1 import venue_pb2 as pb
from engine.v1 import venue_pb2_grpc
from oee.ports import HOST
from tests.engine.test_rpc import Failing

PATIENCE_SECONDS = 15
CHUNK_BYTES = 65536


class Cable:
    """Carries bytes between client and server until it is pulled: then nobody hears anything."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._whole = asyncio.Event()
        self._whole.set()
        self._carrying: set[asyncio.Task[Any]] = set()

    def pull(self) -> None:
        self._whole.clear()

    async def remove(self) -> None:
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        there = await asyncio.open_connection(HOST, self._port)
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._one_way(reader, there[1]))
                ways.create_task(self._one_way(there[0], writer))
        finally:
            there[1].close()
            writer.close()

    async def _one_way(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await self._whole.wait()
            writer.write(chunk)


class Quiet(Failing):
    """Sends one answer, and then has nothing to say."""

    def __init__(self) -> None:
        super().__init__()
        self.left = asyncio.Event()

    async def WatchPools(
        self, request: pb.WatchPoolsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.WatchPoolsResponse]:
        try:
            yield pb.WatchPoolsResponse()
            await asyncio.Event().wait()
        finally:
            self.left.set()


def quickened(options: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """The same in a tenth of the time."""
    return tuple((name, value // 10 if name.endswith("_ms") else value) for name, value in options)


@asynccontextmanager
async def watching(quiet: Quiet, limits: Limits) -> AsyncIterator[tuple[Any, Cable]]:
    """A stream that has begun, and the cable it comes through."""
    add = partial(venue_pb2_grpc.add_VenueServiceServicer_to_server, quiet)
    async with serving(f"{HOST}:0", {"engine.v1.VenueService": add}, limits=limits) as server:
        cable = Cable(server.port)
        between = await asyncio.start_server(cable.carry, HOST, 0)
        port = between.sockets[0].getsockname()[1]
        try:
            async with open_channel(f"{HOST}:{port}") as opened:
                call = venue_pb2_grpc.VenueServiceStub(opened).WatchPools(pb.WatchPoolsRequest())
                stream = aiter(call)
                await anext(stream)
                yield stream, cable
        finally:
            between.close()
            await cable.remove()


async def test_a_stream_whose_server_vanished_ends_as_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel, "KEEPALIVE", quickened(channel.KEEPALIVE))

    async with watching(Quiet(), Limits()) as (stream, cable):
        cable.pull()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await asyncio.wait_for(anext(stream), PATIENCE_SECONDS)

    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_stream_whose_client_vanished_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetime, "PING_ANSWER_SECONDS", 1)
    quiet = Quiet()

    async with watching(quiet, Limits(keepalive_seconds=1)) as (_, cable):
        assert not quiet.left.is_set()
        cable.pull()
        await asyncio.wait_for(quiet.left.wait(), PATIENCE_SECONDS)
