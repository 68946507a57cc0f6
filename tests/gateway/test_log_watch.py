"""WatchOrders through a real gateway: every event of all orders, whatever is lost or late."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from msgspec.structs import replace

from engine import statements, wire, written_rows
from engine.bus import EVENTS_SUBJECT, Bus
from engine.event_log import EventLog, Extent, Logged
from engine.lifecycle import Status
from engine.order import Order
from engine.relay import Relay
from engine.store import Store
from engine.v1 import orders_pb2 as pb
from engine.v1.orders_pb2_grpc import OrderServiceStub
from gateway import log_watch
from gateway.service import RESUME_TOKEN
from oee.nats import Nats
from tests import builders
from tests.gateway.running import (
    PATIENCE_SECONDS,
    Gateway,
    code,
    reason,
    refusal,
    running,
    until_forgotten,
    violations,
)

LIFE: Final = 7
ONE_SECOND: Final = Duration(seconds=1)

Seen = tuple[str, int]


class Client:
    """One WatchOrders stream, read as a client would."""

    def __init__(self, gateway: Gateway, **fields: Any) -> None:
        self.call = gateway.client.WatchOrders(pb.WatchOrdersRequest(**fields))
        self._responses: AsyncIterator[pb.WatchOrdersResponse] = aiter(self.call)
        self.token = ""
        self.events: list[pb.OrderEvent] = []
        self.snapshot: list[pb.Order] = []

    async def begin(self) -> Client:
        """Return once nothing is missed any more."""
        metadata = await asyncio.wait_for(self.call.initial_metadata(), PATIENCE_SECONDS)
        self.token = str(dict(metadata)[RESUME_TOKEN])
        return self

    async def next(self) -> pb.WatchOrdersResponse:
        """The next message, noted."""
        response = await asyncio.wait_for(anext(self._responses), PATIENCE_SECONDS)
        self.events.extend(response.events.events)
        self.snapshot.extend(response.snapshot.orders)
        self.token = response.resume_token or self.token
        return response

    async def until(self, *seen: Seen) -> None:
        """Read on until all of these have been seen."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not set(seen) <= set(self.seen):
                await self.next()

    async def heartbeat(self) -> None:
        """Read on until nothing has happened for a while."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (await self.next()).HasField("heartbeat"):
                pass

    @property
    def seen(self) -> list[Seen]:
        return [(event.order_id, event.sequence) for event in self.events]

    def of(self, order: Order) -> list[int]:
        return [sequence for order_id, sequence in self.seen if order_id == str(order.order_id)]


async def _watch(gateway: Gateway, **fields: Any) -> Client:
    return await Client(gateway, **fields).begin()


async def _accept(store: Store, **request: object) -> Order:
    return (await store.add(builders.new_order(**request))).order  # type: ignore[arg-type]


async def _lead(relay: Relay, order: Order, status: Status) -> Order:
    for transition in builders.steps(order, status):
        order = await relay.commit(transition)
    return order


def _life(*orders: Order, after: int = 0, until: int = LIFE) -> list[Seen]:
    return [(str(o.order_id), n) for o in orders for n in range(after + 1, until + 1)]


async def _settle(relay: Relay, order: Order) -> Order:
    order = await _lead(relay, order, Status.CONFIRMED)
    return await relay.commit(order.finalize(builders.EVIDENCE))


# ── what a watch shows ────────────────────────────────────────────────────────────────────────


async def test_every_event_of_all_orders_comes_once_and_in_sequence(
    gateway: Gateway, store: Store, relay: Relay
) -> None:
    client = await _watch(gateway)
    orders = await asyncio.gather(*(_accept(store) for _ in range(20)))
    await asyncio.gather(*(_settle(relay, order) for order in orders))

    await client.until(*_life(*orders))
    assert sorted(client.seen) == sorted(_life(*orders))
    assert all(client.of(order) == [*range(1, LIFE + 1)] for order in orders)
    stored = await gateway.client.ListOrderEvents(
        pb.ListOrderEventsRequest(order_id=str(orders[0].order_id))
    )
    assert [e for e in client.events if e.order_id == str(orders[0].order_id)] == list(
        stored.events
    )


async def test_a_watch_begins_now_unless_told_otherwise(
    gateway: Gateway, store: Store, relay: Relay
) -> None:
    order = await _lead(relay, await _accept(store), Status.BUILDING)
    client = await _watch(gateway)
    await relay.commit(order.fail(builders.FAILURE))

    await client.until((str(order.order_id), 5))
    assert client.of(order) == [5]


async def test_a_snapshot_shows_what_is_open_and_the_stream_goes_on_from_there(
    gateway: Gateway, store: Store, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_watch, "PAGE", 2)
    orders = [await _lead(relay, await _accept(store), Status.BUILDING) for _ in range(5)]
    await _settle(relay, await _accept(store))

    client = await _watch(gateway, snapshot=True)
    responses = [await client.next()]
    while not responses[-1].snapshot.complete:
        responses.append(await client.next())
    assert [bool(r.resume_token) for r in responses] == [*[False] * (len(responses) - 1), True]
    assert {(o.order_id, o.sequence) for o in client.snapshot} == {
        (str(order.order_id), 4) for order in orders
    }
    await relay.commit(orders[0].fail(builders.FAILURE))
    await client.until((str(orders[0].order_id), 5))
    assert client.seen == [(str(orders[0].order_id), 5)]


async def test_what_happens_during_a_snapshot_is_not_repeated_after_it(
    gateway: Gateway, store: Store, relay: Relay
) -> None:
    orders = [await _accept(store) for _ in range(30)]
    moving = asyncio.create_task(
        _all_of(_settle(relay, order) for order in orders)  # while snapshots are read
    )
    clients = [await _watch(gateway, snapshot=True) for _ in range(10)]
    await moving
    for client in clients:
        last = [(str(order.order_id), LIFE) for order in orders]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (await client.next()).snapshot.complete:
                pass
        shown = {o.order_id: o.sequence for o in client.snapshot}
        await client.until(*(seen for seen in last if seen[0] in shown))
        for order in orders:
            after = shown.get(str(order.order_id))
            if after is not None:
                assert client.of(order) == [*range(after + 1, LIFE + 1)]


async def _all_of(work: Any) -> None:
    await asyncio.gather(*work)


async def test_events_are_selected_by_status_token_and_venue(
    gateway: Gateway, store: Store, relay: Relay
) -> None:
    ends = await _watch(gateway, statuses=[pb.ORDER_STATUS_CONFIRMED, pb.ORDER_STATUS_FAILED])
    usdt = await _watch(gateway, token="USDT")
    raydium = await _watch(gateway, venue="raydium")
    meteora = await _watch(gateway, venue="meteora", heartbeat_interval=ONE_SECOND)
    tether = "Es9vMFrzaCERmJfrF4H2FYD4KCoNkY11McCe8BenwNYB"

    routed = await _settle(relay, await _accept(store))
    failed = await _lead(relay, await _accept(store, token_out=tether), Status.FAILED)

    await ends.until((str(routed.order_id), 7), (str(failed.order_id), 3))
    assert (ends.of(routed), ends.of(failed)) == ([6, 7], [3])
    await usdt.until((str(failed.order_id), 3))
    assert (usdt.of(routed), usdt.of(failed)) == ([], [1, 2, 3])
    await raydium.until((str(routed.order_id), 7))
    assert (raydium.of(routed), raydium.of(failed)) == ([3, 4, 5, 6, 7], [])
    await meteora.heartbeat()
    assert meteora.seen == []


async def test_a_selection_is_the_same_for_what_is_replayed(
    gateway: Gateway, store: Store, relay: Relay
) -> None:
    start = (await _watch(gateway)).token
    orders = [await _settle(relay, await _accept(store)) for _ in range(3)]

    client = await _watch(gateway, resume_token=start, venue="raydium")
    await client.until(*_life(*orders, after=2))
    assert sorted(client.seen) == sorted(_life(*orders, after=2))


# ── resuming ──────────────────────────────────────────────────────────────────────────────────


async def test_resuming_from_any_token_skips_nothing(
    gateway: Gateway, store: Store, relay: Relay
) -> None:
    client = await _watch(gateway)
    tokens = [(client.token, 0)]
    orders = []
    for _ in range(6):
        order = await _settle(relay, await _accept(store))
        orders.append(order)
        await client.until((str(order.order_id), LIFE))
        tokens.append((client.token, len(client.events)))

    for token, delivered in tokens:
        resumed = await _watch(gateway, resume_token=token)
        await resumed.until(*client.seen[delivered:])
        assert len(set(resumed.seen)) == len(resumed.seen)


async def test_a_heartbeat_moves_the_token_past_all_that_was_delivered(
    gateway: Gateway, store: Store, relay: Relay
) -> None:
    client = await _watch(gateway, heartbeat_interval=ONE_SECOND)
    order = await _settle(relay, await _accept(store))
    await client.until((str(order.order_id), LIFE))
    await client.heartbeat()

    resumed = await _watch(gateway, resume_token=client.token, heartbeat_interval=ONE_SECOND)
    await resumed.heartbeat()
    assert resumed.seen == []


async def test_an_event_committed_late_is_skipped_by_no_token(
    gateway: Gateway, dsn: str, store: Store, relay: Relay
) -> None:
    late, other = await _accept(store), await _accept(store)
    client = await _watch(gateway, heartbeat_interval=ONE_SECOND)
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        transaction = connection.transaction()
        await transaction.start()
        # It has its position now, and is committed after others with positions behind it.
        assert await connection.fetch(
            statements.SAVE, *written_rows.written([late.start_routing()])
        )
        other = await _settle(relay, other)
        await client.until((str(other.order_id), LIFE))
        await client.heartbeat()
        before = client.token
        await transaction.commit()
    finally:
        await connection.close()

    await client.until((str(late.order_id), 2))
    resumed = await _watch(gateway, resume_token=before)
    await resumed.until((str(late.order_id), 2))


async def test_of_many_new_orders_that_nobody_announced_none_is_lost(
    gateway: Gateway, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_watch, "PAGE", 10)
    monkeypatch.setattr(log_watch, "LOOK_EVENTS", 25)
    client = await _watch(gateway, heartbeat_interval=ONE_SECOND)
    before = client.token

    orders = await asyncio.gather(*[_accept(store) for _ in range(70)])

    everything = _life(*orders, until=1)
    await client.until(*everything)
    await client.heartbeat()
    assert sorted(client.seen) == sorted(everything)
    resumed = await _watch(gateway, resume_token=before)
    await resumed.until(*everything)


async def test_a_transaction_that_stays_open_holds_back_tokens_and_nothing_else(
    gateway: Gateway, dsn: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_watch, "LOOK_EVENTS", 5)
    client = await _watch(gateway, heartbeat_interval=ONE_SECOND)
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        await connection.fetchval("SELECT pg_current_xact_id()")
        await _accept(store)
        orders = await asyncio.gather(*[_accept(store) for _ in range(30)])
        await client.until(*_life(*orders, until=1))
        await client.heartbeat()
        held = client.token

        other = await _watch(gateway)
        last = await _accept(store)
        for reader in (client, other):
            await reader.until((str(last.order_id), 1))
        await client.heartbeat()
        assert client.token == held
        resumed = await _watch(gateway, resume_token=held)
        await resumed.until(*_life(*orders, last, until=1))
    await connection.close()

    while client.token == held:
        await client.heartbeat()


async def test_events_that_are_deleted_during_a_replay_are_not_passed_over(
    gateway: Gateway, dsn: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_watch, "PAGE", 2)
    begin = (await _watch(gateway)).token
    orders = [await _accept(store) for _ in range(10)]
    page = EventLog.page

    async def deleting(log: EventLog, account: str, after: Logged | None, *rest: int) -> Any:
        if after is not None:
            connection = await asyncpg.connect(dsn)
            await connection.execute(
                "DELETE FROM order_events WHERE order_id = $1", orders[5].order_id
            )
            await connection.close()
        return await page(log, account, after, *rest)

    monkeypatch.setattr(EventLog, "page", deleting)
    client = Client(gateway, resume_token=begin)

    async def read() -> None:
        while True:
            await client.next()

    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await read()
    assert ended.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert client.seen == _life(*orders[:2], until=1)


async def test_what_is_announced_while_a_reader_resumes_is_not_repeated(
    gateway: Gateway, store: Store, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await _watch(gateway)
    order = await _accept(store)
    await first.until((str(order.order_id), 1))
    extent = EventLog.extent

    async def after_an_event(log: EventLog) -> Extent:
        nonlocal order
        if order.sequence == 1:
            order = await relay.commit(order.start_routing())
            await first.until((str(order.order_id), 2))
        return await extent(log)

    monkeypatch.setattr(EventLog, "extent", after_an_event)
    resumed = await _watch(gateway, resume_token=first.token)
    await resumed.until((str(order.order_id), 2))
    await relay.commit(order.fail(builders.FAILURE))

    await resumed.until((str(order.order_id), 3))
    assert resumed.of(order) == [*range(resumed.of(order)[0], 4)]


async def test_readers_that_come_and_go_miss_nothing_while_messages_get_lost(
    gateway: Gateway, store: Store, relay: Relay
) -> None:
    chance = random.Random(5)
    first = await _watch(gateway)
    orders = [await _accept(store) for _ in range(40)]

    async def live(order: Order) -> None:
        for transition in builders.steps(order, Status.CONFIRMED):
            commit = relay.commit if chance.random() < 0.7 else _silently(store)
            order = await commit(transition)
            await asyncio.sleep(chance.uniform(0, 0.05))
        await relay.commit(order.finalize(builders.EVIDENCE))

    async def come_and_go(token: str) -> list[Seen]:
        seen: list[Seen] = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not set(_life(*orders)) <= set(seen):
                client = await _watch(gateway, resume_token=token, heartbeat_interval=ONE_SECOND)
                for _ in range(chance.randint(1, 6)):
                    await client.next()
                seen += client.seen
                token = client.token
                client.call.cancel()
        return seen

    goers = [asyncio.create_task(come_and_go(first.token)) for _ in range(4)]
    await asyncio.gather(*(live(order) for order in orders))
    await first.until(*_life(*orders))
    assert sorted(first.seen) == sorted(_life(*orders))
    for goer in goers:
        seen = await goer
        for order in orders:
            # Some may come twice after a resume; the first of each is in order, without holes.
            sequences = [n for order_id, n in seen if order_id == str(order.order_id)]
            assert [*dict.fromkeys(sequences)] == [*range(1, LIFE + 1)]


def _silently(store: Store) -> Any:
    async def commit(transition: Any) -> Order:
        return (await store.save(transition)).order

    return commit


async def test_a_token_from_elsewhere_or_from_too_long_ago_is_out_of_range(
    gateway: Gateway, dsn: str, store: Store, relay: Relay
) -> None:
    old = (await _watch(gateway)).token
    await _settle(relay, await _accept(store))
    connection = await asyncpg.connect(dsn, timeout=10)
    await connection.execute("DELETE FROM order_events WHERE sequence < 3")
    fresh = (await _watch(gateway)).token
    await (await _watch(gateway, resume_token=fresh)).begin()
    await connection.execute("UPDATE event_log SET home = 'another database'")
    await connection.close()

    for token in (old, fresh):
        resumed = Client(gateway, resume_token=token)
        status = await refusal(resumed.next())
        assert (code(status), reason(status)) == ("OUT_OF_RANGE", "RESUME_TOKEN_TOO_OLD")


@pytest.mark.parametrize(
    "token", ["x", "bm9uZQ==", "YTo=", "YTotMQ==", "YToxIA==", "💥", "YTo5" * 9]
)
async def test_what_is_no_token_is_refused(gateway: Gateway, token: str) -> None:
    told = violations(await refusal(Client(gateway, resume_token=token).next()))
    assert [field for field, _ in told] == ["resume_token"]


async def test_all_that_is_wrong_is_told_at_once(gateway: Gateway) -> None:
    client = Client(
        gateway,
        resume_token="x",
        snapshot=True,
        statuses=[77],
        token="DOGE",
        venue="orca",
        heartbeat_interval=Duration(seconds=99),
    )
    told = [field for field, _ in violations(await refusal(client.next()))]
    assert told == ["resume_token", "snapshot", "statuses", "token", "venue", "heartbeat_interval"]


# ── what gets lost ────────────────────────────────────────────────────────────────────────────


async def test_what_nobody_announced_comes_all_the_same(gateway: Gateway, store: Store) -> None:
    client = await _watch(gateway)
    order = await builders.led(store, await _accept(store), Status.CONFIRMED)
    await store.save(order.finalize(builders.EVIDENCE))

    await client.until(*_life(order))
    assert client.of(order) == [*range(1, LIFE + 1)]


async def test_without_nats_everything_comes_all_the_same(
    dsn: str, nats: Nats, store: Store
) -> None:
    async with running(dsn, nats.url) as gateway:
        client = await _watch(gateway)
        await asyncio.to_thread(nats.stop)
        order = await builders.led(store, await _accept(store), Status.FAILED)
        await client.until(*_life(order, until=3))
        assert client.of(order) == [1, 2, 3]


async def test_repeated_and_reordered_messages_do_not_show(
    gateway: Gateway, store: Store, bus: Bus
) -> None:
    assert bus.client is not None
    client = await _watch(gateway, heartbeat_interval=ONE_SECOND)
    order = await builders.led(store, await _accept(store), Status.CONFIRMED)
    order = (await store.save(order.finalize(builders.EVIDENCE))).order
    request = pb.ListOrderEventsRequest(order_id=str(order.order_id))
    stored = list((await gateway.client.ListOrderEvents(request)).events)
    encoded = [event.SerializeToString() for event in stored]

    for chosen in (encoded[::-1], random.Random(3).sample(encoded * 3, len(encoded) * 3)):
        for batch in wire.batches(chosen):
            await bus.client.publish(EVENTS_SUBJECT, batch)
    await client.heartbeat()
    assert client.events == stored


async def test_what_is_announced_long_after_the_order_was_settled_does_not_show(
    gateway: Gateway, store: Store, bus: Bus
) -> None:
    assert bus.client is not None
    client = await _watch(gateway, heartbeat_interval=ONE_SECOND)
    order = await builders.led(store, await _accept(store), Status.FAILED)
    await client.until((str(order.order_id), 3))
    await client.heartbeat()  # the log was held against it, and found complete
    stored = list(client.events)

    [batch] = wire.batches([event.SerializeToString() for event in stored])
    await bus.client.publish(EVENTS_SUBJECT, batch)
    await client.heartbeat()
    assert client.events == stored


# ── slow readers, drain ───────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def _another_client(gateway: Gateway) -> AsyncIterator[Gateway]:
    """The gateway over a connection of its own, which takes in only what is read."""
    options = [("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(gateway.address, options=options) as channel:
        yield dataclasses.replace(gateway, client=OrderServiceStub(channel))


async def _routed(relay: Relay, order: Order, times: int) -> Order:
    long = replace(builders.decision(), why="because " * 500)
    for _ in range(times):
        order = await relay.commit(order.choose_route(long))
    return order


async def test_a_reader_that_does_not_read_is_told_where_to_resume(
    gateway: Gateway, store: Store, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_watch, "MAX_UNREAD", 100)
    fast = await _watch(gateway)
    async with _another_client(gateway) as client:
        slow = await _watch(client)
        order = await _lead(relay, await _accept(store), Status.ROUTING)
        order = await _routed(relay, order, 400)
        await fast.until((str(order.order_id), order.sequence))

        async def read() -> None:
            while True:
                await slow.next()

        status = await refusal(read())
    assert (code(status), reason(status)) == ("RESOURCE_EXHAUSTED", "SLOW_CONSUMER")
    resumed = await _watch(gateway, resume_token=slow.token)
    await resumed.until((str(order.order_id), order.sequence))
    assert [*dict.fromkeys([*slow.of(order), *resumed.of(order)])] == [
        *range(1, order.sequence + 1)
    ]


async def test_a_gateway_that_stops_sends_its_readers_elsewhere(
    dsn: str, nats: Nats, store: Store, relay: Relay
) -> None:
    async with running(dsn, nats.url) as stopping, running(dsn, nats.url) as other:
        client = await _watch(stopping)
        order = await _accept(store)
        await client.until((str(order.order_id), 1))
        stopping.stop.set()

        async def read() -> None:
            while True:
                await client.next()

        status = await refusal(read())
        assert (code(status), reason(status)) == ("UNAVAILABLE", "SHUTTING_DOWN")
        await relay.commit(order.fail(builders.FAILURE))
        resumed = await _watch(other, resume_token=client.token)
        await resumed.until((str(order.order_id), 2))


async def test_readers_that_leave_leave_nothing_behind(
    gateway: Gateway, store: Store, bus: Bus
) -> None:
    clients = [await _watch(gateway) for _ in range(3)]
    for client in clients:
        client.call.cancel()
    await until_forgotten(bus)

    again = await _watch(gateway)
    order = await _accept(store)
    await again.until((str(order.order_id), 1))


async def test_there_is_room_for_so_many_readers(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_watch, "MAX_READERS", 2)
    clients: Sequence[Client] = [await _watch(gateway) for _ in range(2)]

    status = await refusal(Client(gateway).next())
    assert (code(status), reason(status)) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
    assert len(clients) == 2
