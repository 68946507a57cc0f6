"""What a connection may do, and for how long: nothing that a client cannot resume from."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import grpc

from engine.bus import Bus
from engine.lifecycle import Status
from engine.limits import Limits
from engine.relay import Relay
from engine.rpc import serving
from engine.store import Store
from engine.v1 import orders_pb2 as pb
from engine.v1 import venue_pb2, venue_pb2_grpc
from engine.v1.orders_pb2_grpc import OrderServiceStub
from oee.client import CallFailed, Client, connect
from oee.nats import Nats
from tests import builders
from tests.gateway.running import PATIENCE_SECONDS, running, swap


async def test_a_watch_that_ends_with_its_connection_resumes_without_a_hole(
    dsn: str, nats: Nats, store: Store, bus: Bus
) -> None:
    relay = Relay(store, bus)
    cut = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with running(
        dsn, nats.url, max_connection_age_seconds=0.2, max_connection_age_grace_seconds=0.2
    ) as gateway:
        await gateway.client.SubmitOrder(swap("key-1"))

        def interrupted(failure: CallFailed) -> None:
            assert failure.code is grpc.StatusCode.UNAVAILABLE
            loop.call_soon_threadsafe(cut.set)

        def watch() -> list[int]:
            with connect(gateway.address) as channel:
                client = Client(channel, interrupted=interrupted)
                return [event.sequence for event in client.watch("key-1")]

        watching = asyncio.create_task(asyncio.to_thread(watch))
        await asyncio.wait_for(cut.wait(), PATIENCE_SECONDS)
        order = await store.get_by_client_order_id("default", "key-1")
        assert order is not None
        for transition in builders.steps(order, Status.CONFIRMED):
            order = await relay.commit(transition)
        seen = await asyncio.wait_for(watching, PATIENCE_SECONDS)

    assert seen == list(range(1, order.sequence + 1))


class Peers(venue_pb2_grpc.VenueServiceServicer):
    """Remembers which connections it was called on."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    async def Quote(self, request: venue_pb2.QuoteRequest, context: Any) -> venue_pb2.QuoteResponse:
        self.seen.add(context.peer())
        return venue_pb2.QuoteResponse()


async def test_no_unary_call_fails_when_connections_grow_old() -> None:
    peers = Peers()  # type: ignore[abstract]
    add = partial(venue_pb2_grpc.add_VenueServiceServicer_to_server, peers)
    limits = Limits(max_connection_age_seconds=0.05, max_connection_age_grace_seconds=5)
    async with (
        serving("127.0.0.1:0", {"engine.v1.VenueService": add}, limits=limits) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        venue: Any = venue_pb2_grpc.VenueServiceStub(channel)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(peers.seen) < 5:
                await asyncio.gather(*(venue.Quote(venue_pb2.QuoteRequest()) for _ in range(10)))


async def test_a_message_above_the_limit_is_refused_and_the_connection_goes_on(
    dsn: str, nats: Nats
) -> None:
    async with (
        running(dsn, nats.url, max_message_bytes=65_536) as gateway,
        grpc.aio.insecure_channel(gateway.address) as channel,
    ):
        client: Any = OrderServiceStub(channel)
        try:
            await client.ListTokens(pb.ListTokensRequest(page_token="x" * 70_000))
            refused = None
        except grpc.aio.AioRpcError as error:
            refused = error.code()
        assert refused is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await client.ListTokens(pb.ListTokensRequest())).tokens


async def test_calls_beyond_the_streams_of_a_connection_wait_their_turn(
    dsn: str, nats: Nats
) -> None:
    async with running(dsn, nats.url, max_concurrent_streams=1) as gateway:
        await gateway.client.SubmitOrder(swap("key-1"))
        watch = gateway.client.WatchOrder(pb.WatchOrderRequest(client_order_id="key-1"))
        await anext(aiter(watch))
        waiting = asyncio.ensure_future(gateway.client.ListTokens(pb.ListTokensRequest()))
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done
        watch.cancel()
        assert (await asyncio.wait_for(waiting, PATIENCE_SECONDS)).tokens
