"""What others hear from the gateway, and what it does without NATS and without PostgreSQL."""

from __future__ import annotations

import asyncio
from uuid import UUID

import nats as nats_client
from google.rpc import error_details_pb2

from engine.bus import Bus, Queue, open_bus
from engine.lifecycle import Status
from engine.relay import Relay
from engine.store import Store
from engine.v1 import orders_pb2 as pb
from oee.nats import Nats
from oee.postgres import Postgres
from tests import builders
from tests.gateway.running import (
    NO_NATS,
    PATIENCE_SECONDS,
    Gateway,
    code,
    detail,
    reason,
    refusal,
    running,
    swap,
    until_followed,
    until_forgotten,
    until_over,
)

# ── NATS ──────────────────────────────────────────────────────────────────────────────────────


async def _connected(gateway: Gateway, bus: Bus) -> None:
    """Return once the gateway has its connection to NATS, which comes up beside its door."""
    order = (await gateway.client.SubmitOrder(swap())).order
    watch = gateway.client.WatchOrder(pb.WatchOrderRequest(order_id=order.order_id))
    await anext(aiter(watch))
    await until_followed(bus)
    watch.cancel()
    await until_forgotten(bus)


async def test_an_accepted_order_is_announced_and_offered_to_a_router(
    dsn: str, nats: Nats, bus: Bus
) -> None:
    assert bus.client is not None
    async with running(dsn, nats.url) as gateway:
        await _connected(gateway, bus)
        events = await bus.client.subscribe("orders.status.*")
        hints = await bus.client.subscribe(Queue.ROUTE.subject)
        await bus.client.flush()
        accepted = (await gateway.client.SubmitOrder(swap("key-1"))).order
        hint = await hints.next_msg(PATIENCE_SECONDS)
        announced = await events.next_msg(PATIENCE_SECONDS)

    assert UUID(bytes=hint.data) == UUID(accepted.order_id)
    event = pb.OrderEvent.FromString(announced.data)
    assert (event.order_id, event.sequence) == (accepted.order_id, 1)


async def test_a_plain_subscriber_hears_every_event_of_every_order(
    dsn: str, nats: Nats, bus: Bus, store: Store
) -> None:
    relay = Relay(store, bus)
    listener = await nats_client.connect(nats.url)
    async with running(dsn, nats.url) as gateway:
        await _connected(gateway, bus)
        subscription = await listener.subscribe("orders.status.>")
        await listener.flush()
        swapped = (await gateway.client.SubmitOrder(swap())).order
        cancelled = (await gateway.client.SubmitOrder(swap())).order
        order = await store.get(UUID(swapped.order_id))
        assert order is not None
        for transition in builders.steps(order, Status.CONFIRMED):
            order = await relay.commit(transition)
        await relay.commit(order.finalize(builders.EVIDENCE))
        await gateway.client.CancelOrder(pb.CancelOrderRequest(order_id=cancelled.order_id))
        messages = [await subscription.next_msg(PATIENCE_SECONDS) for _ in range(7 + 2)]
        listed = [
            await gateway.client.ListOrderEvents(pb.ListOrderEventsRequest(order_id=one.order_id))
            for one in (swapped, cancelled)
        ]
    await listener.close()

    heard: dict[str, list[pb.OrderEvent]] = {}
    for message in messages:
        heard.setdefault(message.subject, []).append(pb.OrderEvent.FromString(message.data))
    assert heard == {
        f"orders.status.{one.order_id}": list(response.events)
        for one, response in zip((swapped, cancelled), listed, strict=True)
    }


async def test_an_order_accepted_without_nats_is_offered_when_nats_is_there(
    dsn: str, nats: Nats, store: Store
) -> None:
    await asyncio.to_thread(nats.stop)
    async with running(dsn, nats.url) as gateway:
        accepted = (await gateway.client.SubmitOrder(swap("key-1"))).order
    await asyncio.to_thread(nats.start)

    router = await nats_client.connect(nats.url)
    hints = await router.subscribe(Queue.ROUTE.subject)
    await router.flush()
    async with open_bus(nats.url, "router") as bus:
        reconciling = asyncio.create_task(Relay(store, bus).reconcile())
        hint = await hints.next_msg(PATIENCE_SECONDS)
        reconciling.cancel()
    await router.close()
    assert UUID(bytes=hint.data) == UUID(accepted.order_id)


# ── PostgreSQL ────────────────────────────────────────────────────────────────────────────────


async def test_without_its_database_every_call_says_come_back_and_afterwards_all_is_well(
    own_postgres: Postgres,
) -> None:
    async with running(own_postgres.dsn, NO_NATS, recheck_seconds=0.2) as gateway:
        client = gateway.client
        order = (await client.SubmitOrder(swap("before"))).order
        named = {"order_id": order.order_id}
        watch = aiter(client.WatchOrder(pb.WatchOrderRequest(**named)))
        assert (await anext(watch)).snapshot == order

        await asyncio.to_thread(own_postgres.kill)
        deadline_seconds = 2.5
        calls = [
            client.SubmitOrder(swap("during"), timeout=deadline_seconds),
            client.SubmitOrder(swap("before"), timeout=deadline_seconds),
            client.GetOrder(pb.GetOrderRequest(**named), timeout=deadline_seconds),
            client.ListOrders(pb.ListOrdersRequest(), timeout=deadline_seconds),
            client.CancelOrder(pb.CancelOrderRequest(**named), timeout=deadline_seconds),
            anext(
                aiter(client.WatchOrder(pb.WatchOrderRequest(**named), timeout=deadline_seconds))
            ),
        ]
        for call in calls:
            status = await refusal(call)
            assert (code(status), reason(status)) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
            assert detail(status, error_details_pb2.RetryInfo).retry_delay.ToSeconds() == 1

        await asyncio.to_thread(own_postgres.start)
        repeated = await client.SubmitOrder(swap("before"))
        assert repeated == pb.SubmitOrderResponse(order=order, duplicate=True)
        await client.SubmitOrder(swap("after"))
        await client.CancelOrder(pb.CancelOrderRequest(**named))
        # The watch that was open all the time goes on as if nothing had happened.
        [last] = await until_over(watch)
        assert (last.event.sequence, last.event.status) == (2, pb.ORDER_STATUS_CANCELLED)
