"""Clients that err or mean harm: refused in words, bounded, and nobody else notices."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

import grpc
import psutil
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.bus import Bus
from engine.grpc_server import lifetime
from engine.lifecycle import Status
from engine.limits import Limits
from engine.order import Order
from engine.relay import Relay
from engine.store import Store
from engine.v1 import admin_pb2
from engine.v1 import orders_pb2 as pb
from engine.v1.orders_pb2_grpc import OrderServiceStub
from gateway import pages
from gateway.service import RESUME_TOKEN
from oee.nats import Nats
from oee.ports import HOST, free_ports
from tests import builders
from tests.gateway.running import (
    PATIENCE_SECONDS,
    UNREACHABLE,
    Gateway,
    code,
    detail,
    eventually,
    reason,
    refusal,
    running,
    stored,
    swap,
    until_followed,
    until_forgotten,
    until_over,
)

# A whole life: accepted, routing, route chosen, building, signed, confirmed.
LIFE: Final = 6
SERVICE: Final = pb.DESCRIPTOR.services_by_name["OrderService"]
ADMIN: Final = admin_pb2.DESCRIPTOR.services_by_name["AdminService"]
# Requests that store nothing, nor does any a few bytes away; what is mangled is one of them.
KNOWN_TO_NOBODY: Final = "01980000-0000-7000-8000-000000000000"
REQUESTS: Final[Mapping[str, Message]] = {
    "SubmitOrder": swap("key-1", token_in="NONE", slippage_bps=50, venues=["raydium"]),
    "WatchOrder": pb.WatchOrderRequest(order_id=KNOWN_TO_NOBODY, after_sequence=1),
    "GetOrder": pb.GetOrderRequest(client_order_id="key-1"),
    "ExplainOrder": pb.ExplainOrderRequest(client_order_id="key-1"),
    "ListOrders": pb.ListOrdersRequest(
        page_size=10,
        statuses=[pb.ORDER_STATUS_PENDING],
        token="SOL",
        create_time_from=Timestamp(seconds=1_800_000_000),
    ),
    "ListOrderEvents": pb.ListOrderEventsRequest(order_id=KNOWN_TO_NOBODY, page_size=10),
    "ListTokens": pb.ListTokensRequest(page_size=2, page_token=pages.TOKENS.token(2)),
    "PreviewOrder": pb.PreviewOrderRequest(token_in="SOL", token_out="USDC", amount_in="1.5"),
    "CancelOrder": pb.CancelOrderRequest(order_id=KNOWN_TO_NOBODY),
    "SubmitOrders": pb.SubmitOrdersRequest(
        orders=[swap("key-1", token_in="NONE"), swap("key-2", amount_in="-1")]
    ),
    "WatchOrders": pb.WatchOrdersRequest(snapshot=True, token="SOL", venue="raydium"),
}
# What any of them may be told; a fault of ours would be INTERNAL, and without a reason.
IN_WORDS: Final = {"OK", "FIELD_INVALID", "ORDER_NOT_FOUND", "NO_ROUTE"}

many_examples = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@asynccontextmanager
async def _another_client(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A connection of its own, which takes in only what is read."""
    options = [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


def _raw(
    channel: grpc.aio.Channel, method: str, sent: bytes, service: Any = SERVICE, **how: Any
) -> Any:
    """The call with these bytes, whatever they are."""
    call: Any = channel.unary_stream(f"/{service.full_name}/{method}")
    return call(sent, timeout=PATIENCE_SECONDS, **how)


async def _told(channel: grpc.aio.Channel, method: str, sent: bytes, service: Any = SERVICE) -> str:
    """OK, or the reason for which these bytes were refused."""
    call = _raw(channel, method, sent, service)
    try:
        if RESUME_TOKEN in dict(await call.initial_metadata()):
            call.cancel()  # it has begun, and does not end by itself
            return "OK"
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        # Without details it is not one of ours: the code then stands for the missing reason.
        status = rpc_status.from_call(error)
        return error.code().name if status is None else reason(status)
    return "OK"


@pytest.fixture
async def channel(gateway: Gateway) -> AsyncIterator[grpc.aio.Channel]:
    async with _another_client(gateway.address) as opened:
        yield opened


async def _assert_serving(channel: grpc.aio.Channel) -> None:
    request = health_pb2.HealthCheckRequest(service=SERVICE.full_name)
    answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=PATIENCE_SECONDS)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def _accept(store: Store) -> Order:
    return (await store.add(builders.new_order())).order


def _watch(client: Any, order: Order, **fields: Any) -> Any:
    return client.WatchOrder(pb.WatchOrderRequest(order_id=str(order.order_id), **fields))


async def _next(watch: AsyncIterator[pb.WatchOrderResponse]) -> pb.WatchOrderResponse:
    return await asyncio.wait_for(anext(watch), PATIENCE_SECONDS)


async def _sequences(watch: AsyncIterator[pb.WatchOrderResponse]) -> list[int]:
    """The sequences of the events until the watch ends with OK."""
    return [response.event.sequence for response in await until_over(watch)]


async def _until_tasks_are(count: int) -> None:
    """Return once no more than so many tasks run here, where the gateway runs too."""

    async def as_few() -> bool:
        return len(asyncio.all_tasks()) <= count

    await eventually(as_few)


# ── bytes and fields ──────────────────────────────────────────────────────────────────────────


@st.composite
def _mangled(draw: st.DrawFn) -> tuple[str, bytes]:
    """A request of which some bytes are changed, dropped or put in."""
    method = draw(st.sampled_from(sorted(REQUESTS)))
    sent = bytearray(REQUESTS[method].SerializeToString())
    edits = st.tuples(st.integers(0, len(sent)), st.integers(0, 2), st.binary(max_size=3))
    for at, dropped, put_in in draw(st.lists(edits, min_size=1, max_size=4)):
        sent[at : at + dropped] = put_in
    return method, bytes(sent)


@given(st.one_of(_mangled(), st.tuples(st.sampled_from(sorted(REQUESTS)), st.binary())))
@many_examples
async def test_bytes_that_are_no_request_are_refused_in_words_and_nothing_is_stored(
    gateway: Gateway, channel: grpc.aio.Channel, call: tuple[str, bytes]
) -> None:
    assert await _told(channel, *call) in IN_WORDS
    await _assert_serving(channel)
    assert await stored(gateway) == []


@pytest.mark.parametrize("method", REQUESTS)
async def test_what_is_not_protobuf_is_named_as_such(
    channel: grpc.aio.Channel, method: str
) -> None:
    async def ask() -> None:
        await anext(aiter(_raw(channel, method, b"\xff" * 20)))

    status = await refusal(ask())
    [violation] = detail(status, error_details_pb2.BadRequest).field_violations
    assert (code(status), violation.field) == ("INVALID_ARGUMENT", "request")


def test_every_method_is_tried_here() -> None:
    assert set(REQUESTS) == set(SERVICE.methods_by_name)


_TEXTS: Final = st.one_of(
    st.text(max_size=50),
    st.sampled_from(["SOL", "USDC", "1.5", "raydium", "\0", "key-1\0", "9" * 200, "💥" * 100]),
)
_NUMBERS: Final = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: st.one_of(st.integers(0, 10), st.integers(-(2**31), 2**31 - 1)),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    one: st.SearchStrategy[Any]
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        one = _messages(field.message_type)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        one = _TEXTS
    else:
        one = _NUMBERS[field.cpp_type]
    return st.lists(one, max_size=5) if field.is_repeated else one


def _messages(descriptor: Descriptor | None) -> st.SearchStrategy[Message]:
    """Messages whose fields hold anything their types allow."""
    assert descriptor is not None
    fields = {field.name: _values(field) for field in descriptor.fields}
    make = GetMessageClass(descriptor)
    return st.fixed_dictionaries({}, optional=fields).map(lambda facts: make(**facts))


@given(
    st.one_of(
        [
            st.tuples(st.just(method.name), _messages(method.input_type))
            for method in SERVICE.methods
        ]
    )
)
@many_examples
async def test_fields_that_hold_anything_are_taken_or_refused_in_words(
    gateway: Gateway, channel: grpc.aio.Channel, call: tuple[str, Message]
) -> None:
    method, request = call
    before = await stored(gateway)
    told = await _told(channel, method, request.SerializeToString())
    assert told in IN_WORDS
    await _assert_serving(channel)
    assert told == "OK" or await stored(gateway) == before


@given(
    st.one_of(
        [
            st.tuples(st.just(method.name), _messages(method.input_type))
            for method in ADMIN.methods
            if method.name != "CreateKey"  # with a key nothing else would be looked at
        ]
    )
)
@many_examples
async def test_operators_too_are_refused_in_words(
    gateway: Gateway, channel: grpc.aio.Channel, call: tuple[str, Message]
) -> None:
    method, request = call
    told = await _told(channel, method, request.SerializeToString(), ADMIN)
    assert told in IN_WORDS | {"KEY_NOT_FOUND"}
    await _assert_serving(channel)


# ── size ──────────────────────────────────────────────────────────────────────────────────────

OVERSIZED: Final[Mapping[str, tuple[bytes, dict[str, Any]]]] = {
    "a message of 5 MB": (bytes(5_000_000), {}),
    "64 MB packed into 64 KB": (bytes(64_000_000), {"compression": grpc.Compression.Gzip}),
    "metadata of 60 KB": (b"", {"metadata": (("absurd", "x" * 60_000),)}),
    "metadata of 1,000 entries": (b"", {"metadata": tuple((f"x{n}", "") for n in range(1_000))}),
}


@pytest.mark.parametrize("size", OVERSIZED)
@pytest.mark.parametrize("method", ["SubmitOrder", "WatchOrder"])
async def test_what_is_too_large_is_refused_and_its_own_connection_goes_on(
    gateway: Gateway, channel: grpc.aio.Channel, store: Store, relay: Relay, size: str, method: str
) -> None:
    order = await _accept(store)
    watch = aiter(_watch(OrderServiceStub(channel), order, after_sequence=0))
    await _next(watch)
    sent, how = OVERSIZED[size]

    call = _raw(channel, method, sent, **how)
    with suppress(grpc.aio.AioRpcError):
        await anext(aiter(call))
    assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    await relay.commit(order.cancel())
    assert await _sequences(watch) == [2]
    assert len(await stored(gateway)) == 1


@pytest.mark.parametrize(
    "metadata",
    [(("absurd", "x" * 100_000),), tuple((f"x{n}", "") for n in range(10_000))],
    ids=["100 KB", "10,000 entries"],
)
async def test_metadata_beyond_all_measure_ends_its_own_connection_and_no_other(
    gateway: Gateway, channel: grpc.aio.Channel, store: Store, relay: Relay, metadata: Any
) -> None:
    order = await _accept(store)
    watch = aiter(_watch(OrderServiceStub(channel), order, after_sequence=0))
    await _next(watch)
    async with _another_client(gateway.address) as another:
        call = _raw(another, "SubmitOrder", b"", metadata=metadata)
        assert await call.code() == grpc.StatusCode.UNAVAILABLE
    await relay.commit(order.cancel())
    assert await _sequences(watch) == [2]
    assert len(await stored(gateway)) == 1


# Far more than any of them takes; what holds up the gateway takes longer.
MOMENT_SECONDS: Final = 2
CROWDED: Final[Mapping[str, Message]] = {
    "SubmitOrder": swap(venues=["nowhere"] * 400_000),
    "PreviewOrder": pb.PreviewOrderRequest(
        token_in="x" * 2_000_000, amount_in="1" * 2_000_000, venues=["raydium"] * 10
    ),
    "ListOrders": pb.ListOrdersRequest(statuses=[pb.ORDER_STATUS_PENDING] * 4_000_000),
    "GetOrder": pb.GetOrderRequest(client_order_id="x" * 4_000_000),
}


@pytest.mark.parametrize("method", CROWDED)
async def test_the_largest_message_taken_holds_nobody_up(
    gateway: Gateway, channel: grpc.aio.Channel, method: str
) -> None:
    sent = CROWDED[method].SerializeToString()
    assert len(sent) < Limits().max_message_bytes
    async with asyncio.timeout(MOMENT_SECONDS):
        assert await _told(channel, method, sent) in IN_WORDS


# ── streams ───────────────────────────────────────────────────────────────────────────────────

IDLE: Final = 1000
MAX_GROWTH_BYTES: Final = 200 * 1024 * 1024


@pytest.fixture
async def process(dsn: str, nats: Nats) -> AsyncIterator[tuple[psutil.Process, str]]:
    """A gateway as a process of its own, and its address."""
    [port] = free_ports(1)
    address = f"{HOST}:{port}"
    settings = {
        "POSTGRES_DSN": dsn,
        "NATS_URL": nats.url,
        "VENUES": f"raydium={UNREACHABLE}",
        "LISTEN_ADDRESS": address,
        "DRAIN_SECONDS": "0",
    }
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "gateway"),
        env=os.environ | settings,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    yield psutil.Process(started.pid), address
    started.terminate()
    await asyncio.wait_for(started.wait(), PATIENCE_SECONDS)


async def test_a_thousand_idle_watches_take_little_and_hold_nobody_up(
    process: tuple[psutil.Process, str], store: Store, bus: Bus, relay: Relay
) -> None:
    gateway, address = process
    order = await _accept(store)
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(_another_client(address)) for _ in range(4)]
        other = OrderServiceStub(await stack.enter_async_context(_another_client(address)))
        found = pb.GetOrderRequest(order_id=str(order.order_id))
        await other.GetOrder(found, wait_for_ready=True, timeout=PATIENCE_SECONDS)
        before = gateway.memory_info().rss
        clients = [OrderServiceStub(channel) for channel in channels]
        watches = [_watch(clients[n % 4], order, after_sequence=0) for n in range(IDLE)]
        responses = [aiter(watch) for watch in watches]
        first = await asyncio.gather(*(_next(response) for response in responses))
        growth = gateway.memory_info().rss - before

        assert {response.event.sequence for response in first} == {1}
        assert growth < MAX_GROWTH_BYTES
        await other.GetOrder(found, timeout=MOMENT_SECONDS)
        await relay.commit(order.start_routing())
        second = await asyncio.gather(*(_next(response) for response in responses))
        assert {response.event.sequence for response in second} == {2}
        for watch in watches:
            watch.cancel()
        await until_forgotten(bus)
        await other.GetOrder(found, timeout=MOMENT_SECONDS)


async def test_streams_nobody_reads_take_nothing_from_those_that_are_read(
    gateway: Gateway, store: Store, bus: Bus, relay: Relay
) -> None:
    order = await _accept(store)
    order = await relay.commit(order.start_routing())
    reading = asyncio.create_task(_sequences(_watch(gateway.client, order, after_sequence=0)))
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(_another_client(gateway.address)) for _ in range(4)
        ]
        unread = [
            _watch(OrderServiceStub(channel), order, after_sequence=0)
            for channel in channels
            for _ in range(25)
        ]
        await until_followed(bus)
        for _ in range(300):
            order = await relay.commit(order.choose_route(builders.decision()))
        await relay.commit(order.fail(builders.FAILURE))
        assert await reading == [*range(1, 304)]
        assert not any(watch.done() for watch in unread)
    await until_forgotten(bus)


async def _routed(relay: Relay, order: Order, times: int) -> Order:
    """The order with so many more events."""
    for _ in range(times):
        order = await relay.commit(order.choose_route(builders.decision()))
    return order


async def _leave_somewhere(client: Any, order: Order, chance: random.Random) -> None:
    """Watch, and cancel at once, a moment later, or after some of the five events there are."""
    watch = _watch(client, order, after_sequence=0)
    await asyncio.sleep(chance.choice([0, chance.uniform(0, 0.05)]))
    responses = aiter(watch)
    for _ in range(chance.choice([0, 0, 1, 3, 5])):
        await _next(responses)
    watch.cancel()


async def test_streams_cancelled_at_every_point_leave_nothing_behind(
    dsn: str, nats: Nats, store: Store, bus: Bus, relay: Relay
) -> None:
    chance = random.Random(7)
    async with running(dsn, nats.url, max_watches=400) as gateway:
        orders = []
        for _ in range(10):
            order = await relay.commit((await _accept(store)).start_routing())
            orders.append(await _routed(relay, order, 3))
        await until_forgotten(bus)
        before = len(asyncio.all_tasks())
        staying = [
            asyncio.create_task(_sequences(_watch(gateway.client, order, after_sequence=0)))
            for order in orders
        ]
        await asyncio.gather(
            *(_leave_somewhere(gateway.client, o, chance) for o in orders for _ in range(30)),
            *(_routed(relay, order, 10) for order in orders),
        )
        orders = [found for o in orders if (found := await store.get(o.order_id))]
        await asyncio.gather(*(relay.commit(order.cancel()) for order in orders))

        assert await asyncio.gather(*staying) == [[*range(1, 17)]] * 10
        await until_forgotten(bus)
        await _until_tasks_are(before)


async def test_a_gateway_serves_so_many_watches_and_room_comes_back(
    dsn: str, nats: Nats, store: Store, bus: Bus
) -> None:
    order = await _accept(store)
    async with running(dsn, nats.url, max_watches=20) as gateway:
        for _ in range(3):
            watches = [_watch(gateway.client, order, after_sequence=0) for _ in range(20)]
            for watch in watches:
                await _next(aiter(watch))
            status = await refusal(_next(aiter(_watch(gateway.client, order, after_sequence=0))))
            assert (code(status), reason(status)) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
            assert detail(status, error_details_pb2.RetryInfo).retry_delay.ToSeconds() == 1
            assert len(await stored(gateway)) == 1
            for watch in watches:
                watch.cancel()
            await until_forgotten(bus)


async def test_calls_begun_and_never_finished_hold_nobody_up(
    gateway: Gateway, channel: grpc.aio.Channel
) -> None:
    before = len(asyncio.all_tasks())
    begun: list[Any] = [
        channel.stream_stream(f"/{SERVICE.full_name}/{method}")()
        for method in REQUESTS
        for _ in range(50)
    ]
    await asyncio.gather(*(call.wait_for_connection() for call in begun))
    await _assert_serving(channel)
    assert await stored(gateway) == []
    for call in begun:
        call.cancel()
    await _until_tasks_are(before)


# ── connections ───────────────────────────────────────────────────────────────────────────────

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NO_GRPC: Final[Sequence[bytes]] = [
    b"",
    b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    random.Random(7).randbytes(10_000),
    PREFACE[:10],
    PREFACE,
    PREFACE + b"\xff" * 1000,
]


async def test_connections_that_do_not_speak_grpc_are_closed_and_hold_nobody_up(
    dsn: str, nats: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetime, "HANDSHAKE_SECONDS", 1.0)
    async with running(dsn, nats.url) as gateway, AsyncExitStack() as stack:
        host, port = gateway.address.split(":")

        async def until_closed(sent: bytes) -> None:
            reader, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
            writer.write(sent)
            with suppress(ConnectionError):
                while await reader.read(1000):
                    pass

        closed = [asyncio.create_task(until_closed(sent)) for sent in NO_GRPC for _ in range(20)]
        channel = await stack.enter_async_context(_another_client(gateway.address))
        await _assert_serving(channel)
        await stored(gateway)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*closed)
        await _assert_serving(channel)


# ── resuming ──────────────────────────────────────────────────────────────────────────────────


async def _read_and_leave(gateway: Gateway, order: Order, after: int, last: int, how: str) -> None:
    """Resume after one event, see each up to `last`, and leave by cancelling or hanging up."""
    async with _another_client(gateway.address) as channel:
        watch = _watch(OrderServiceStub(channel), order, after_sequence=after, until_settled=True)
        responses = aiter(watch)
        for sequence in range(after + 1, last + 1):
            assert (await _next(responses)).event.sequence == sequence
        if how == "cancel":
            watch.cancel()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["cancel", "hang up"])), max_size=6),
    st.integers(0, LIFE),
)
@settings(many_examples, max_examples=30)
async def test_a_watch_resumed_wherever_it_broke_off_shows_every_event_once(
    gateway: Gateway, store: Store, relay: Relay, breaks: list[tuple[int, str]], head_start: int
) -> None:
    order = await _accept(store)
    life = iter(builders.steps(order, Status.CONFIRMED))
    for transition in itertools.islice(life, head_start):
        await relay.commit(transition)

    async def live_on() -> None:
        for transition in life:
            await relay.commit(transition)

    living = asyncio.create_task(live_on())
    after = 0
    for count, how in breaks:
        last = min(after + count, LIFE)
        await _read_and_leave(gateway, order, after, last, how)
        after = last
    assert await _sequences(_watch(gateway.client, order, after_sequence=after)) == [
        *range(after + 1, LIFE + 1)
    ]
    await living
