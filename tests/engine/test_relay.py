"""The relay with a real database and a real nats-server: announced, offered, and offered again."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import pytest
from msgspec.structs import replace
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from engine import relay as module
from engine import statements, wire
from engine.bus import EVENTS_SUBJECT, Bus, Queue, open_bus, status_subject
from engine.chain_client import open_chain
from engine.errors import StaleOrder, StoreUnavailable
from engine.lifecycle import Status
from engine.order import Order
from engine.relay import Relay, next_queue, open_relay
from engine.runtime import run_until
from engine.store import Store, open_store
from engine.v1 import chain_pb2, orders_pb2
from oee.nats import Nats
from tests import builders
from tests.builders import stored

PATIENCE_SECONDS = 20
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Ear:
    """Hears everything said on some subjects."""

    def __init__(self) -> None:
        self.messages: list[Msg] = []
        self._heard = asyncio.Condition()

    async def take(self, message: Msg) -> None:
        async with self._heard:
            self.messages.append(message)
            self._heard.notify_all()

    async def hear(self, holds: Callable[[list[Msg]], bool]) -> list[Msg]:
        """All messages so far, once it holds, under one timeout."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._heard:
            await self._heard.wait_for(lambda: holds(self.messages))
        return self.messages


@asynccontextmanager
async def listening(bus: Bus, subject: str) -> AsyncIterator[Ear]:
    ear = Ear()
    subscription = await bus.subscribe(subject, ear.take)
    assert subscription is not None
    assert bus.client is not None
    await bus.client.flush()
    yield ear
    await subscription.unsubscribe()


def about(message: Msg) -> tuple[UUID, int]:
    """The order whose event it is, and the event's sequence."""
    event = orders_pb2.OrderEvent.FromString(message.data)
    return UUID(event.order_id), event.sequence


def hints(messages: list[Msg]) -> list[tuple[str, UUID]]:
    return [
        (message.subject, UUID(bytes=message.data[at : at + 16]))
        for message in messages
        for at in range(0, len(message.data), 16)
    ]


@asynccontextmanager
async def reconciling(*relays: Relay) -> AsyncIterator[None]:
    stop = asyncio.Event()
    loops = asyncio.create_task(run_until(stop, *(relay.reconcile() for relay in relays)))
    try:
        yield
        assert not loops.done(), "a reconciler never ends by itself"
    finally:
        stop.set()
        await asyncio.wait_for(loops, PATIENCE_SECONDS)


async def make_due(dsn: str) -> None:
    """Whatever is not settled is to be looked at now."""
    await ask(dsn, "UPDATE orders SET next_check_at = now() - interval '1 s' WHERE NOT settled")


async def claims(dsn: str) -> int:
    """How often orders were claimed to be offered."""
    [row] = await ask(dsn, "SELECT sum(offers) AS claims FROM orders")
    return int(row["claims"])


async def ask(dsn: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        found: list[asyncpg.Record] = await connection.fetch(statement)
        return found
    finally:
        await connection.close()


@pytest.fixture
def ticks(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Awaitable[None]]:
    """Reconcilers tick fast; the result waits until they have asked so often what is due."""
    monkeypatch.setattr(module, "RECONCILE_SECONDS", 0.01)
    looks = asyncio.Semaphore(0)
    anything_to_offer = store.anything_to_offer

    async def counted() -> bool:
        looks.release()
        return await anything_to_offer()

    async def wait(count: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(count):
                await looks.acquire()

    monkeypatch.setattr(store, "anything_to_offer", counted)
    return wait


# ── where an order goes next ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "queue"),
    [
        (Status.PENDING, Queue.ROUTE),
        (Status.ROUTING, Queue.ROUTE),
        (Status.BUILDING, Queue.EXECUTE),
        (Status.SUBMITTED, None),
        (Status.CONFIRMED, None),
        (Status.FAILED, None),
        (Status.CANCELLED, None),
        (Status.EXPIRED, None),
    ],
)
def test_the_status_says_who_takes_the_next_step(status: Status, queue: Queue | None) -> None:
    assert next_queue(builders.in_status(status)) is queue


def test_an_order_with_a_route_goes_to_the_executors() -> None:
    routed = builders.in_status(Status.ROUTING).choose_route(builders.decision()).order

    assert next_queue(routed) is Queue.EXECUTE


@pytest.mark.parametrize("status", list(Status))
def test_an_order_that_backs_off_goes_nowhere(status: Status) -> None:
    order = builders.in_status(status)

    assert next_queue(replace(order, not_before=NOON, read_time=NOON - timedelta(1))) is None
    assert next_queue(replace(order, not_before=NOON, read_time=NOON)) is next_queue(order)


# ── after a commit ────────────────────────────────────────────────────────────────────────────


async def test_a_commit_is_stored_then_announced_as_the_event_that_was_stored(
    store: Store, bus: Bus
) -> None:
    order = await stored(store, Status.PENDING)

    async with listening(bus, status_subject(order.order_id)) as ear:
        committed = await Relay(store, bus).commit(order.start_routing())
        [message] = await ear.hear(lambda heard: len(heard) == 1)

    event = orders_pb2.OrderEvent.FromString(message.data)
    assert (event.order_id, event.sequence) == (str(order.order_id), 2)
    assert event.status == orders_pb2.ORDER_STATUS_ROUTING
    found = await store.get(order.order_id)
    assert found is not None
    assert replace(found, read_time=None) == replace(committed, read_time=None)
    assert event.event_time.ToDatetime(UTC) == found.update_time


async def test_whoever_comes_too_late_announces_nothing(store: Store, bus: Bus) -> None:
    order, last = await stored(store, Status.PENDING), await stored(store, Status.PENDING)
    relay = Relay(store, bus)

    async with listening(bus, "orders.status.*") as ear:
        await relay.commit(order.start_routing())
        with pytest.raises(StaleOrder):
            await relay.commit(order.cancel())
        await relay.commit(last.start_routing())
        heard = await ear.hear(lambda heard: (last.order_id, 2) in map(about, heard))

    assert [about(message) for message in heard] == [(order.order_id, 2), (last.order_id, 2)]


async def test_a_commit_succeeds_without_nats(store: Store, nats: Nats, bus: Bus) -> None:
    order = await stored(store, Status.PENDING)
    await asyncio.to_thread(nats.kill)

    async with asyncio.timeout(PATIENCE_SECONDS):
        routing = await Relay(store, bus).commit(order.start_routing())
        await Relay(store, bus).offer([routing])

    assert routing.status is Status.ROUTING


class Composing:
    """Stands in for the composing of events, and keeps the event loop until something is there:
    what had not left the process before it began does not leave meanwhile."""

    def __init__(self, there: threading.Event) -> None:
        self._there = there
        self.found: list[bool] = []
        self.done = asyncio.Event()

    def __call__(self, *event: object) -> Iterator[orders_pb2.OrderEvent]:
        self.found.append(self._there.wait(2))
        self.done.set()
        return iter(())


async def test_what_happened_is_announced_before_the_hint_at_what_follows(
    store: Store, bus: Bus
) -> None:
    """Who is given the next step announces it later than this, however slow this service is."""
    order = await stored(store, Status.ROUTING)
    status = status_subject(order.order_id)

    async with listening(bus, ">") as ear:
        await Relay(store, bus).commit(order.choose_route(builders.decision()))
        heard = await ear.hear(lambda heard: any(m.subject.startswith("work.") for m in heard))

    told = [message.subject for message in heard if message.subject.startswith(("work", "orders"))]
    assert told == [status, EVENTS_SUBJECT, Queue.EXECUTE.subject]


class Taking(grpc.GenericRpcHandler):
    """A chain, in threads of its own, that takes whatever is sent."""

    def __init__(self) -> None:
        self.taken = threading.Event()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._take)

    def _take(self, request: bytes, context: object) -> bytes:
        sent = chain_pb2.SendTransactionsRequest.FromString(request).transactions
        self.taken.set()
        results = [chain_pb2.SendResult()] * len(sent)
        return chain_pb2.SendTransactionsResponse(results=results).SerializeToString()


async def test_what_those_who_waited_for_a_commit_send_has_left_before_any_event_is_composed(
    store: Store, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain_elsewhere = Taking()
    server = grpc.server(ThreadPoolExecutor(1), handlers=[chain_elsewhere])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    orders = [await stored(store, Status.PENDING) for _ in range(20)]
    async with open_chain(f"127.0.0.1:{port}") as chain, open_relay(store, bus) as relay:
        await chain.send([b"so that there is a connection"])
        chain_elsewhere.taken.clear()
        composing = Composing(chain_elsewhere.taken)
        monkeypatch.setattr(wire, "events", composing)

        async def commit_and_send(order: Order) -> None:
            await relay.commit(order.start_routing())
            await chain.send([b"signed bytes"])

        await asyncio.gather(*map(commit_and_send, orders))
        await asyncio.wait_for(composing.done.wait(), PATIENCE_SECONDS)
    server.stop(None)

    assert composing.found[0]


async def test_an_announcement_that_fails_is_logged_and_costs_no_hint_no_commit_and_no_other(
    store: Store, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    routing = [await stored(store, Status.ROUTING) for _ in range(3)]
    relay = Relay(store, bus)
    odd = routing[1].order_id
    compose = wire.events

    def fail(order: Order, *taken: Any) -> Iterator[orders_pb2.OrderEvent]:
        if order.order_id == odd:
            raise KeyError("a token that nobody knows")
        return compose(order, *taken)

    monkeypatch.setattr(wire, "events", fail)
    async with listening(bus, "work.*") as work, listening(bus, "orders.status.*") as ear:
        with capture_logs() as logs:
            committed = await relay.commit_each(
                [order.choose_route(builders.decision()) for order in routing]
            )
            heard = await ear.hear(lambda heard: len(heard) == 2)
        await work.hear(lambda heard: len(hints(heard)) == 3)

    assert [order.sequence for order in committed if isinstance(order, Order)] == [3, 3, 3]
    assert hints(work.messages) == [("work.execute", order.order_id) for order in routing]
    assert [about(message)[0] for message in heard] == [
        order.order_id for order in routing if order.order_id != odd
    ]
    [failure] = [record for record in logs if record["event"] == "not announced"]
    assert (failure["order_id"], failure["log_level"]) == (str(odd), "error")


async def test_an_orders_events_are_announced_in_the_order_in_which_they_were_committed(
    store: Store, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await stored(store, Status.PENDING)
    relay = Relay(store, bus)
    publish, first, held = bus.publish, asyncio.Event(), asyncio.Event()

    async def hold_the_first(messages: Sequence[tuple[str, bytes]]) -> None:
        if not first.is_set() and messages[0][0].startswith("orders."):
            first.set()
            await held.wait()
        await publish(messages)

    monkeypatch.setattr(bus, "publish", hold_the_first)
    async with listening(bus, status_subject(order.order_id)) as ear:
        order = await relay.commit(order.start_routing())
        await asyncio.wait_for(first.wait(), PATIENCE_SECONDS)
        order = await relay.commit(order.choose_route(builders.decision()))
        order = await relay.commit(order.start_building())
        held.set()
        heard = await ear.hear(lambda heard: len(heard) == 3)

    assert [about(message)[1] for message in heard] == [2, 3, 4]


async def test_who_closes_a_relay_has_told_all_that_was_submitted(
    store: Store, nats: Nats, bus: Bus
) -> None:
    order = await stored(store, Status.ROUTING)

    async with listening(bus, "orders.status.*") as ear, listening(bus, "work.*") as work:
        async with open_bus(nats.url, "closing") as closing:
            connected = asyncio.Event()
            closing.on_connect(connected.set)
            if not closing.connected:
                await asyncio.wait_for(connected.wait(), PATIENCE_SECONDS)
            async with open_relay(store, closing):
                [saving] = store.begin_saves([order.choose_route(builders.decision())])
        assert saving.done()
        heard = await ear.hear(lambda heard: len(heard) > 0)
        await work.hear(lambda heard: len(heard) > 0)

    assert [about(message) for message in heard] == [(order.order_id, 3)]
    assert hints(work.messages) == [("work.execute", order.order_id)]


async def test_an_offer_goes_to_the_queue_of_the_next_step_or_nowhere(
    store: Store, bus: Bus
) -> None:
    orders = {status: builders.in_status(status) for status in Status}

    async with listening(bus, "work.*") as ear:
        for order in orders.values():
            await Relay(store, bus).offer([order])
        heard = await ear.hear(lambda heard: len(hints(heard)) == 3)

    assert hints(heard) == [
        ("work.route", orders[Status.PENDING].order_id),
        ("work.route", orders[Status.ROUTING].order_id),
        ("work.execute", orders[Status.BUILDING].order_id),
    ]


# ── again if it stands (R8) ───────────────────────────────────────────────────────────────────


async def test_orders_that_stand_still_are_offered_again_and_the_others_left_alone(
    store: Store, dsn: str, bus: Bus, ticks: Callable[[int], Awaitable[None]]
) -> None:
    orders = {status: await stored(store, status) for status in Status}
    await make_due(dsn)

    async with listening(bus, "work.*") as ear, reconciling(Relay(store, bus)):
        await ear.hear(lambda heard: len(hints(heard)) >= 3)
        await ticks(5)

    assert Counter(hints(ear.messages)) == Counter(
        {
            ("work.route", orders[Status.PENDING].order_id): 1,
            ("work.route", orders[Status.ROUTING].order_id): 1,
            ("work.execute", orders[Status.BUILDING].order_id): 1,
        }
    )


async def test_nothing_is_offered_before_it_is_due(
    store: Store, dsn: str, bus: Bus, ticks: Callable[[int], Awaitable[None]]
) -> None:
    await stored(store, Status.PENDING)

    async with reconciling(Relay(store, bus)):
        await ticks(5)

    assert await claims(dsn) == 0


async def test_the_queues_are_asked_for_their_depths_only_while_something_is_due(
    store: Store,
    dsn: str,
    bus: Bus,
    ticks: Callable[[int], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await stored(store, Status.PENDING)
    await bus.ensure()
    asked: list[Queue] = []
    waiting = bus.waiting

    async def noted(queue: Queue) -> int | None:
        asked.append(queue)
        return await waiting(queue)

    monkeypatch.setattr(bus, "waiting", noted)
    async with listening(bus, "work.*") as ear, reconciling(Relay(store, bus)):
        await ticks(5)
        assert asked == []
        await make_due(dsn)
        await ear.hear(lambda heard: len(heard) > 0)

    assert asked == list(Queue)


async def test_two_reconcilers_offer_each_due_order_once(
    store: Store,
    dsn: str,
    nats: Nats,
    bus: Bus,
    ticks: Callable[[int], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Small claims, so that both have their share; and none is due again, however long it takes.
    monkeypatch.setattr(module, "RECONCILE_LIMIT", 7)
    monkeypatch.setattr(statements, "CHECK_AFTER_JSON", json.dumps({Status.PENDING: "1 hour"}))
    monkeypatch.setattr("engine.store.OFFER_AT_LEAST_EVERY", timedelta(hours=1))
    added = await asyncio.gather(*(store.add(builders.new_order()) for _ in range(100)))
    await make_due(dsn)

    async with (
        open_store(dsn) as other_store,
        open_bus(nats.url, "other") as other_bus,
        listening(bus, "work.*") as ear,
        reconciling(Relay(store, bus), Relay(other_store, other_bus)),
    ):
        await ear.hear(lambda heard: len(hints(heard)) >= 100)
        await ticks(5)

    assert Counter(hints(ear.messages)) == Counter(
        ("work.route", accepted.order.order_id) for accepted in added
    )


async def test_without_nats_nothing_is_claimed_and_with_it_all_goes_on(
    store: Store,
    dsn: str,
    nats: Nats,
    bus: Bus,
    ticks: Callable[[int], Awaitable[None]],
) -> None:
    order = await stored(store, Status.PENDING)
    await make_due(dsn)
    async with listening(bus, "work.*") as ear:
        await asyncio.to_thread(nats.kill)
        await asyncio.to_thread(nats.wipe)

        async with reconciling(Relay(store, bus)):
            await ticks(10)
            assert await claims(dsn) == 0
            await asyncio.to_thread(nats.start)
            heard = await ear.hear(lambda heard: len(heard) > 0)

    assert hints(heard) == [("work.route", order.order_id)]


async def test_a_queue_that_holds_more_than_enough_is_not_filled_further(
    store: Store,
    dsn: str,
    bus: Bus,
    ticks: Callable[[int], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ENOUGH_WAITING", 2)
    order = await stored(store, Status.PENDING)
    await make_due(dsn)
    await bus.ensure()
    for _ in range(3):
        await bus.publish(Queue.EXECUTE.hints([order.order_id]))

    async with reconciling(Relay(store, bus)):
        await ticks(10)

    assert await claims(dsn) == 0


async def test_a_reconciler_outlives_the_database(
    store: Store,
    dsn: str,
    bus: Bus,
    ticks: Callable[[int], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = await stored(store, Status.PENDING)
    await make_due(dsn)
    claim, tries = store.claim_to_offer, asyncio.Semaphore(0)

    async def away(limit: int) -> list[Order]:
        tries.release()
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "claim_to_offer", away)
    async with listening(bus, "work.*") as ear, reconciling(Relay(store, bus)):
        async with asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(3):
                await tries.acquire()
        monkeypatch.setattr(store, "claim_to_offer", claim)
        heard = await ear.hear(lambda heard: len(heard) > 0)

    assert hints(heard) == [("work.route", order.order_id)]


async def test_a_queue_that_nobody_can_create_does_not_end_the_reconciler(
    store: Store,
    dsn: str,
    bus: Bus,
    ticks: Callable[[int], Awaitable[None]],
) -> None:
    assert bus.client is not None
    await bus.client.jetstream().add_stream(name="FOREIGN", subjects=["work.>"])
    await stored(store, Status.PENDING)
    await make_due(dsn)

    async with reconciling(Relay(store, bus)):
        await ticks(5)

    assert await claims(dsn) == 0
