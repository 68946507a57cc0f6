"""Watches through a real gateway: every event once, in order, whatever gets lost between."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import sysconfig
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from msgspec.structs import replace

from engine import wire
from engine.bus import EVENTS_SUBJECT, Bus, open_bus
from engine.lifecycle import Status
from engine.order import Order
from engine.relay import Relay
from engine.store import Store
from engine.v1 import orders_pb2 as pb
from engine.v1.orders_pb2_grpc import OrderServiceStub
from gateway import watch as module
from oee.nats import Nats
from oee.ports import HOST, free_ports
from tests import builders
from tests.gateway.running import (
    PATIENCE_SECONDS,
    Gateway,
    code,
    detail,
    eventually,
    reason,
    refusal,
    running,
    swap,
    until_followed,
    until_forgotten,
    until_over,
)

# A whole life: accepted, routing, route chosen, building, signed, confirmed, finalized.
LIFE: Final = 7
ONE_SECOND: Final = Duration(seconds=1)


async def _accept(store: Store) -> Order:
    return (await store.add(builders.new_order())).order


async def _lead(relay: Relay, order: Order, status: Status) -> Order:
    """What routers and executors do: each step committed, then announced."""
    for transition in builders.steps(order, status):
        order = await relay.commit(transition)
    return order


async def _finish(relay: Relay, order: Order) -> Order:
    """The rest of a SUBMITTED order's life."""
    order = await relay.commit(order.confirm(builders.fill(order)))
    return await relay.commit(order.finalize(builders.EVIDENCE))


def _watch(gateway: Gateway, order: Order, **fields: Any) -> Any:
    """A running watch; a fresh one replays the whole life unless told otherwise."""
    request = pb.WatchOrderRequest(order_id=str(order.order_id), **fields)
    return gateway.client.WatchOrder(request)


def _replay(gateway: Gateway, order: Order) -> Any:
    return _watch(gateway, order, after_sequence=0, until_settled=True)


async def _next(watch: AsyncIterator[pb.WatchOrderResponse]) -> pb.WatchOrderResponse:
    return await asyncio.wait_for(anext(watch), PATIENCE_SECONDS)


async def _rest(watch: AsyncIterator[pb.WatchOrderResponse]) -> list[pb.OrderEvent]:
    """The events until the watch ends with OK."""
    return [response.event for response in await until_over(watch)]


async def _started(watch: Any, bus: Bus) -> AsyncIterator[pb.WatchOrderResponse]:
    """The watch, past its first message and with its subscription in place."""
    responses: AsyncIterator[pb.WatchOrderResponse] = aiter(watch)
    await _next(responses)
    await until_followed(bus)
    return responses


def _sequences(events: Sequence[pb.OrderEvent]) -> list[int]:
    return [event.sequence for event in events]


async def _stored(gateway: Gateway, order: Order) -> list[pb.OrderEvent]:
    request = pb.ListOrderEventsRequest(order_id=str(order.order_id), page_size=1000)
    return list((await gateway.client.ListOrderEvents(request)).events)


# ── what a watch shows ────────────────────────────────────────────────────────────────────────


async def test_watchers_that_come_before_during_and_after_a_life_see_the_same(
    gateway: Gateway, store: Store, relay: Relay
) -> None:
    order = await _accept(store)
    before = asyncio.create_task(_rest(_replay(gateway, order)))
    order = await _lead(relay, order, Status.SUBMITTED)
    during = asyncio.create_task(_rest(_replay(gateway, order)))
    order = await _finish(relay, order)
    after = asyncio.create_task(_rest(_replay(gateway, order)))

    stored = await _stored(gateway, order)
    assert _sequences(stored) == [*range(1, LIFE + 1)]
    assert [await before, await during, await after] == [stored] * 3


async def test_a_watcher_that_leaves_after_any_event_resumes_with_the_next_one(
    gateway: Gateway, store: Store, relay: Relay
) -> None:
    order = await _accept(store)

    async def one_event_a_stream() -> list[pb.OrderEvent]:
        seen: list[pb.OrderEvent] = []
        for sequence in range(LIFE):
            watch = _watch(gateway, order, after_sequence=sequence, until_settled=True)
            seen.append((await _next(aiter(watch))).event)
            watch.cancel()
        return seen

    watching = asyncio.create_task(one_event_a_stream())
    await _finish(relay, await _lead(relay, order, Status.SUBMITTED))
    stored = await _stored(gateway, order)
    assert await watching == stored
    for sequence in range(LIFE + 1):
        watch = _watch(gateway, order, after_sequence=sequence, until_settled=True)
        assert await _rest(watch) == stored[sequence:]


async def test_a_watch_without_a_sequence_begins_with_the_order_as_it_is(
    gateway: Gateway, store: Store, relay: Relay
) -> None:
    order = await _lead(relay, await _accept(store), Status.BUILDING)
    watch = aiter(_watch(gateway, order))

    shown = (await _next(watch)).snapshot
    found = await gateway.client.GetOrder(pb.GetOrderRequest(order_id=str(order.order_id)))
    assert (shown, shown.sequence) == (found.order, 4)
    order = await relay.commit(order.sign(builders.attempt(order)))
    await relay.commit(order.confirm(builders.fill(order)))
    assert _sequences(await _rest(watch)) == [5, 6]


@pytest.mark.parametrize("status", [Status.CONFIRMED, Status.FAILED, Status.CANCELLED])
async def test_a_watch_of_an_order_that_has_ended_shows_it_and_ends(
    gateway: Gateway, store: Store, relay: Relay, status: Status
) -> None:
    order = await _lead(relay, await _accept(store), status)

    [only] = await until_over(_watch(gateway, order))
    assert only.snapshot.status == wire.STATUS[status]
    assert await until_over(_watch(gateway, order, after_sequence=order.sequence)) == []


async def test_a_watch_finds_its_order_by_the_clients_key(gateway: Gateway, store: Store) -> None:
    order = (await store.add(builders.new_order("key-1"))).order
    request = pb.WatchOrderRequest(client_order_id="key-1")

    response = await _next(aiter(gateway.client.WatchOrder(request)))
    assert response.snapshot.order_id == str(order.order_id)


@pytest.mark.parametrize("ahead", [2, 2**31, 2**64 - 1])
async def test_resuming_after_an_event_that_does_not_exist_yet_is_out_of_range(
    gateway: Gateway, store: Store, ahead: int
) -> None:
    watch = _watch(gateway, await _accept(store), after_sequence=ahead)

    status = await refusal(_next(aiter(watch)))
    assert (code(status), reason(status)) == ("OUT_OF_RANGE", "FUTURE_SEQUENCE")
    metadata = detail(status, error_details_pb2.ErrorInfo).metadata
    assert dict(metadata) == {"latest_sequence": "1"}


async def test_until_settled_goes_on_past_confirmed_until_finalized(
    gateway: Gateway, store: Store, relay: Relay
) -> None:
    order = await _lead(relay, await _accept(store), Status.SUBMITTED)
    until_final = aiter(_watch(gateway, order, after_sequence=4))
    until_settled = aiter(_watch(gateway, order, after_sequence=4, until_settled=True))
    assert [(await _next(w)).event.sequence for w in (until_final, until_settled)] == [5, 5]

    order = await relay.commit(order.confirm(builders.fill(order)))
    [last] = await _rest(until_final)
    assert (last.status, last.settled) == (pb.ORDER_STATUS_CONFIRMED, False)
    assert (await _next(until_settled)).event == last
    await relay.commit(order.finalize(builders.EVIDENCE))
    [last] = await _rest(until_settled)
    assert (last.status, last.settled) == (pb.ORDER_STATUS_CONFIRMED, True)


async def test_the_replay_of_a_reorged_order_goes_on_past_its_first_confirmation(
    gateway: Gateway, store: Store, relay: Relay
) -> None:
    order = await _lead(relay, await _accept(store), Status.CONFIRMED)
    order = await relay.commit(order.reorg())
    during = aiter(_watch(gateway, order, after_sequence=0))
    assert [(await _next(during)).event.sequence for _ in range(7)] == [*range(1, 8)]

    await relay.commit(order.confirm(builders.fill(order)))
    assert _sequences(await _rest(during)) == [8]
    after = await _rest(_watch(gateway, order, after_sequence=0))
    assert [event.status for event in after[5:]] == [
        pb.ORDER_STATUS_CONFIRMED,
        pb.ORDER_STATUS_SUBMITTED,
        pb.ORDER_STATUS_CONFIRMED,
    ]


async def test_a_confirmation_already_taken_back_when_it_is_read_does_not_end_a_watch(
    gateway: Gateway, store: Store, bus: Bus, relay: Relay
) -> None:
    order = await _lead(relay, await _accept(store), Status.SUBMITTED)
    watch = await _started(_watch(gateway, order), bus)

    # The confirmation's message is lost: it is read together with what took it back.
    order = (await store.save(order.confirm(builders.fill(order)))).order
    order = await relay.commit(order.reorg())
    assert [(await _next(watch)).event.sequence for _ in range(2)] == [6, 7]
    await relay.commit(order.confirm(builders.fill(order)))
    assert _sequences(await _rest(watch)) == [8]


async def test_heartbeats_say_how_far_the_stream_has_delivered(
    gateway: Gateway, store: Store, relay: Relay
) -> None:
    order = await _accept(store)
    watch = aiter(_watch(gateway, order, after_sequence=0, heartbeat_interval=ONE_SECOND))

    assert (await _next(watch)).event.sequence == 1
    heartbeat = (await _next(watch)).heartbeat
    assert heartbeat.sequence == 1
    assert heartbeat.server_time.ToSeconds() > order.create_time.timestamp()  # type: ignore[union-attr]
    await relay.commit(order.start_routing())
    assert (await _next(watch)).event.sequence == 2
    assert (await _next(watch)).heartbeat.sequence == 2


async def test_a_watch_that_has_shown_a_snapshot_has_delivered_what_is_in_it(
    gateway: Gateway, store: Store, relay: Relay
) -> None:
    order = await _lead(relay, await _accept(store), Status.BUILDING)
    watch = aiter(_watch(gateway, order, heartbeat_interval=ONE_SECOND))

    assert (await _next(watch)).snapshot.sequence == 4
    assert (await _next(watch)).heartbeat.sequence == 4


async def _submitted(gateway: Gateway, store: Store) -> Order:
    """An order that this gateway accepted."""
    accepted = (await gateway.client.SubmitOrder(swap())).order
    found = await store.get(UUID(accepted.order_id))
    assert found is not None
    return found


@asynccontextmanager
async def _nothing_read(dsn: str) -> AsyncIterator[None]:
    """Whoever reads orders or events meanwhile waits until it is over."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE orders, order_events IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def test_an_order_accepted_here_just_now_is_watched_without_reading_anything(
    gateway: Gateway, dsn: str, store: Store, bus: Bus, relay: Relay
) -> None:
    await _started(_watch(gateway, await _accept(store)), bus)  # so that events are heard
    order = await _submitted(gateway, store)
    first = _replay(gateway, order)
    accepted = (await _next(aiter(first))).event  # which the gateway announces, the others we do
    await _finish(relay, await _lead(relay, order, Status.SUBMITTED))
    whole = [accepted, *await _rest(first)]

    async with _nothing_read(dsn):
        for after in (0, 3, LIFE):
            watch = _watch(gateway, order, after_sequence=after, until_settled=True)
            assert await _rest(watch) == whole[after:]


async def test_so_is_one_that_was_accepted_a_moment_after_the_last_watch_ended(
    gateway: Gateway,
    dsn: str,
    store: Store,
    bus: Bus,
    relay: Relay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LINGER_SECONDS", PATIENCE_SECONDS)
    earlier = await _accept(store)
    watch = await _started(_replay(gateway, earlier), bus)
    await _finish(relay, await _lead(relay, earlier, Status.SUBMITTED))
    await _rest(watch)

    order = await _submitted(gateway, store)
    async with _nothing_read(dsn):
        assert (await _next(aiter(_replay(gateway, order)))).event.sequence == 1


async def test_an_order_accepted_here_of_which_a_message_got_lost_is_read(
    gateway: Gateway, store: Store, bus: Bus, relay: Relay
) -> None:
    await _started(_watch(gateway, await _accept(store)), bus)
    order = await _submitted(gateway, store)
    order = await builders.led(store, order, Status.SUBMITTED)
    order = await _finish(relay, order)

    assert _sequences(await _rest(_replay(gateway, order))) == [*range(1, LIFE + 1)]
    status = await refusal(_next(aiter(_watch(gateway, order, after_sequence=LIFE + 1))))
    assert reason(status) == "FUTURE_SEQUENCE"


# ── messages ──────────────────────────────────────────────────────────────────────────────────


async def test_an_event_arrives_with_its_message_not_with_the_next_look(
    gateway: Gateway, store: Store, bus: Bus, relay: Relay
) -> None:
    order = await _accept(store)
    watch = _watch(gateway, order, heartbeat_interval=ONE_SECOND)
    responses = await _started(watch, bus)
    # The looks that follow a subscription are over; the next one is a minute away.
    assert (await _next(responses)).heartbeat.sequence == 1

    await relay.commit(order.start_routing())
    assert (await _next(responses)).event.sequence == 2


async def test_an_order_accepted_here_whose_end_was_taken_back_unheard_is_read(
    gateway: Gateway, store: Store, bus: Bus, relay: Relay
) -> None:
    await _started(_watch(gateway, await _accept(store)), bus)  # so that events are heard
    order = await _submitted(gateway, store)
    first = _watch(gateway, order, after_sequence=0)
    order = await _lead(relay, order, Status.CONFIRMED)
    assert _sequences(await _rest(first)) == [*range(1, order.sequence + 1)]
    # What `store` commits nobody hears of.
    order = (await store.save(order.reorg())).order

    again = aiter(_watch(gateway, order, after_sequence=0))
    sequences = [(await _next(again)).event.sequence for _ in range(order.sequence)]

    assert sequences == [*range(1, order.sequence + 1)]


@pytest.mark.parametrize("left", [None, 4])
@pytest.mark.parametrize("until_settled", [False, True])
async def test_a_watch_of_events_that_were_deleted_is_out_of_range(
    gateway: Gateway,
    dsn: str,
    store: Store,
    relay: Relay,
    left: int | None,
    until_settled: bool,
) -> None:
    order = await _lead(relay, await _accept(store), Status.CONFIRMED)
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "DELETE FROM order_events WHERE order_id = $1 AND sequence < $2",
        order.order_id,
        left or 1000,
    )
    await connection.close()
    request = pb.WatchOrderRequest(
        order_id=str(order.order_id), after_sequence=1, until_settled=until_settled
    )

    status = await refusal(anext(aiter(gateway.client.WatchOrder(request))))

    assert (code(status), reason(status)) == ("OUT_OF_RANGE", "RESUME_TOKEN_TOO_OLD")
    assert "after 1 were deleted" in status.message


async def test_a_gap_is_filled_as_soon_as_it_shows(
    gateway: Gateway, store: Store, bus: Bus, relay: Relay
) -> None:
    order = await _accept(store)
    watch = _watch(gateway, order, heartbeat_interval=ONE_SECOND)
    responses = await _started(watch, bus)
    assert (await _next(responses)).heartbeat.sequence == 1

    order = await builders.led(store, order, Status.BUILDING)
    await relay.commit(order.fail(builders.FAILURE))
    assert _sequences(await _rest(responses)) == [2, 3, 4, 5]


async def test_a_lost_last_message_is_made_up_for_by_the_next_look(
    dsn: str, nats: Nats, store: Store, bus: Bus
) -> None:
    order = await _accept(store)
    async with running(dsn, nats.url, recheck_seconds=0.1) as gateway:
        watch = _watch(gateway, order, heartbeat_interval=ONE_SECOND)
        responses = await _started(watch, bus)
        assert (await _next(responses)).heartbeat.sequence == 1

        await builders.led(store, order, Status.FAILED)
        assert _sequences(await _rest(responses)) == [2, 3]


async def test_without_nats_a_watch_still_completes(dsn: str, nats: Nats, store: Store) -> None:
    order = await _accept(store)
    async with running(dsn, nats.url, recheck_seconds=0.1) as gateway:
        watch = aiter(_replay(gateway, order))
        await _next(watch)

        await asyncio.to_thread(nats.stop)
        order = await builders.led(store, order, Status.CONFIRMED)
        await store.save(order.finalize(builders.EVIDENCE))
        assert _sequences(await _rest(watch)) == [*range(2, LIFE + 1)]


async def test_what_happened_while_nats_was_away_arrives_when_it_is_back(
    gateway: Gateway, nats: Nats, store: Store, bus: Bus, relay: Relay
) -> None:
    order = await _accept(store)
    watch = await _started(_replay(gateway, order), bus)

    await asyncio.to_thread(nats.stop)
    order = await builders.led(store, order, Status.SUBMITTED)
    await asyncio.to_thread(nats.start)
    assert [(await _next(watch)).event.sequence for _ in range(4)] == [2, 3, 4, 5]
    # From here on by message again: the subscription has survived.
    await until_followed(bus)
    await _finish(relay, order)
    assert _sequences(await _rest(watch)) == [6, 7]


async def test_a_watch_that_began_without_nats_is_followed_once_it_is_there(
    dsn: str, nats: Nats, store: Store
) -> None:
    await asyncio.to_thread(nats.stop)
    order = await _accept(store)
    async with running(dsn, nats.url) as gateway:
        watch = aiter(_replay(gateway, order))
        await _next(watch)

        await asyncio.to_thread(nats.start)
        async with open_bus(nats.url, "router") as bus:
            await eventually(lambda: _connected(bus))
            await until_followed(bus)
            relay = Relay(store, bus)
            await _finish(relay, await _lead(relay, order, Status.SUBMITTED))
            assert _sequences(await _rest(watch)) == [*range(2, LIFE + 1)]


async def _connected(bus: Bus) -> bool:
    return bus.connected


def _in_order_but_thrice(messages: list[bytes]) -> list[bytes]:
    return [message for message in messages for _ in range(3)]


def _backwards_and_again(messages: list[bytes]) -> list[bytes]:
    return [*reversed(messages), *messages]


def _shuffled(messages: list[bytes]) -> list[bytes]:
    return random.Random(11).sample(messages * 3, len(messages) * 3)


def _first_and_last_swapped(messages: list[bytes]) -> list[bytes]:
    return [messages[-1], *messages[1:-1], messages[0]]


@pytest.mark.parametrize(
    "mangled", [_in_order_but_thrice, _backwards_and_again, _shuffled, _first_and_last_swapped]
)
async def test_repeated_and_reordered_messages_do_not_show(
    gateway: Gateway, store: Store, bus: Bus, mangled: Any
) -> None:
    assert bus.client is not None
    order = await _accept(store)
    watch = await _started(_replay(gateway, order), bus)
    order = await builders.led(store, order, Status.CONFIRMED)
    await store.save(order.finalize(builders.EVIDENCE))
    stored = await _stored(gateway, order)

    for message in mangled([event.SerializeToString() for event in stored[1:]]):
        [batch] = wire.batches([message])
        await bus.client.publish(EVENTS_SUBJECT, batch)
    assert await _rest(watch) == stored[1:]


async def test_what_is_no_event_where_events_are_announced_does_not_disturb(
    gateway: Gateway, store: Store, bus: Bus, relay: Relay
) -> None:
    assert bus.client is not None
    order = await _accept(store)
    watch = await _started(_replay(gateway, order), bus)

    await bus.client.publish(EVENTS_SUBJECT, b"\xff no events")
    await _finish(relay, await _lead(relay, order, Status.SUBMITTED))
    assert _sequences(await _rest(watch)) == [*range(2, LIFE + 1)]


# ── subscriptions ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def monitored_nats(tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    """A nats-server's URL, and the address of its monitoring endpoint."""
    port, monitoring = free_ports(2)
    program = Path(sysconfig.get_path("scripts")) / "nats-server"
    listen = ["--addr", HOST, "--port", str(port), "--http_port", str(monitoring)]
    server = await asyncio.create_subprocess_exec(
        program, *listen, "--jetstream", "--store_dir", str(tmp_path), "--log", "/dev/null"
    )
    yield f"nats://{HOST}:{port}", f"http://{HOST}:{monitoring}"
    server.terminate()
    await server.wait()


async def test_all_watchers_share_one_subscription_until_the_last_leaves(
    dsn: str, monitored_nats: tuple[str, str], store: Store
) -> None:
    url, monitoring = monitored_nats
    order, other = await _accept(store), await _accept(store)

    async def subjects() -> list[str]:
        def ask() -> list[str]:
            with urllib.request.urlopen(f"{monitoring}/subsz?subs=1", timeout=2) as answer:
                found = json.load(answer)["subscriptions_list"]
            return sorted(s["subject"] for s in found if s["subject"].startswith("orders."))

        return await asyncio.to_thread(ask)

    async def until_subscribed(*wanted: str) -> None:
        async def as_wanted() -> bool:
            return await subjects() == [*wanted]

        await eventually(as_wanted)

    async with running(dsn, url) as gateway:
        watches = [_watch(gateway, one) for one in (order, order, other)]
        for watch in watches:
            await _next(aiter(watch))
        await until_subscribed(EVENTS_SUBJECT)
        watches[0].cancel()
        watches[2].cancel()
        await until_subscribed(EVENTS_SUBJECT)
        watches[1].cancel()
        await until_subscribed()


async def test_a_client_that_leaves_or_vanishes_leaves_nothing_behind(
    gateway: Gateway, store: Store, bus: Bus
) -> None:
    order = await _accept(store)
    async with _another_client(gateway) as vanishing:
        leaving = _watch(gateway, order)
        await _started(leaving, bus)
        await _started(_watch(vanishing, order), bus)
        leaving.cancel()
    await until_forgotten(bus)


async def test_three_hundred_watches_at_once_are_all_complete(
    gateway: Gateway, store: Store, relay: Relay
) -> None:
    orders = await asyncio.gather(*(_accept(store) for _ in range(300)))
    watching = [asyncio.create_task(_rest(_replay(gateway, order))) for order in orders]

    async def live(order: Order) -> None:
        await _finish(relay, await _lead(relay, order, Status.SUBMITTED))

    await asyncio.gather(*(live(order) for order in orders))
    seen = [_sequences(events) for events in await asyncio.gather(*watching)]
    assert seen == [[*range(1, LIFE + 1)]] * 300


# ── slow readers, drain ───────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def _another_client(gateway: Gateway) -> AsyncIterator[Gateway]:
    """The gateway over a connection of its own, which takes in only what is read."""
    options = [("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(gateway.address, options=options) as channel:
        yield dataclasses.replace(gateway, client=OrderServiceStub(channel))


async def _route_again_and_again(relay: Relay, order: Order, times: int) -> Order:
    """Many large events: more than the network between gateway and reader takes in."""
    long = replace(builders.decision(), why="because " * 500)
    for _ in range(times):
        order = await relay.commit(order.choose_route(long))
    return order


async def test_a_reader_that_does_not_read_is_told_where_to_resume(
    gateway: Gateway, store: Store, bus: Bus, relay: Relay
) -> None:
    order = await _lead(relay, await _accept(store), Status.ROUTING)
    fast = asyncio.create_task(_rest(_watch(gateway, order, after_sequence=1)))
    late: list[pb.OrderEvent] = []
    async with _another_client(gateway) as client:
        slow = await _started(_watch(client, order, after_sequence=1), bus)
        order = await _route_again_and_again(relay, order, 400)
        order = await relay.commit(order.fail(builders.FAILURE))
        # What the fast one has seen was offered to the slow one too.
        seen = await fast

        async def read() -> None:
            async for response in slow:
                late.append(response.event)

        status = await refusal(read())
    assert _sequences(seen) == [*range(2, order.sequence + 1)]
    assert (code(status), reason(status)) == ("RESOURCE_EXHAUSTED", "SLOW_CONSUMER")
    metadata = detail(status, error_details_pb2.ErrorInfo).metadata
    assert dict(metadata) == {"last_sequence": str(late[-1].sequence)}
    resumed = await _rest(_watch(gateway, order, after_sequence=late[-1].sequence))
    assert [*late, *resumed] == seen[1:]


async def test_a_reader_that_does_not_read_and_leaves_leaves_nothing_behind(
    gateway: Gateway, store: Store, bus: Bus, relay: Relay
) -> None:
    order = await _lead(relay, await _accept(store), Status.ROUTING)
    async with _another_client(gateway) as client:
        slow = _watch(client, order, after_sequence=1)
        await _started(slow, bus)
        await _route_again_and_again(relay, order, 100)
        slow.cancel()
        await until_forgotten(bus)


async def test_a_gateway_that_stops_sends_its_watchers_elsewhere(
    dsn: str, nats: Nats, store: Store, bus: Bus, relay: Relay
) -> None:
    order = await _accept(store)
    async with running(dsn, nats.url) as stopping, running(dsn, nats.url) as other:
        watch = await _started(_replay(stopping, order), bus)
        order = await relay.commit(order.start_routing())
        assert (await _next(watch)).event.sequence == 2

        stopping.stop.set()
        status = await refusal(_next(watch))
        assert (code(status), reason(status)) == ("UNAVAILABLE", "SHUTTING_DOWN")
        assert detail(status, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
        resumed = _watch(other, order, after_sequence=2)
        await relay.commit(order.fail(builders.FAILURE))
        assert _sequences(await _rest(resumed)) == [3]
