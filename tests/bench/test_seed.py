"""Seeded orders: the engine takes them for its own."""

from __future__ import annotations

import dataclasses

from bench.seed import seed
from engine.attempt import Resolution
from engine.event_log import EventLog
from engine.lifecycle import EventType, Status
from engine.store import Store
from tests import builders


async def test_seeded_orders_are_settled_and_whole(dsn: str, store: Store) -> None:
    await seed(dsn, 40)
    orders = await store.list_orders("default", limit=100)
    assert len(orders) == 40
    for order in orders:
        assert (order.status, order.settled, order.sequence) == (Status.CONFIRMED, True, 7)
        [attempt] = order.attempts
        assert attempt.resolution is Resolution.LANDED
        assert order.fill is not None
        assert order.fill.signature == attempt.signature
    events = await store.events([(orders[0].order_id, 0)], 100)
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5, 6, 7]
    assert events[2].type is EventType.ROUTE_CHOSEN
    assert events[2].detail.route is not None
    assert events[2].detail.route.min_amount_out == order.min_amount_out


async def test_seeding_again_adds_what_is_missing(dsn: str, store: Store) -> None:
    await seed(dsn, 10)
    await seed(dsn, 25)
    assert len(await store.list_orders("default", limit=100)) == 25


async def test_what_is_committed_next_comes_after_all_that_was_seeded(
    dsn: str, store: Store
) -> None:
    await seed(dsn, 50)
    log = EventLog(store)
    extent = await log.extent()
    empty = dataclasses.replace(extent, next=0)
    assert [entry.sequence for entry in (await log.part(empty, None, 1000)).entries] == [7] * 50
    assert (await log.part(extent, None, 1000)).entries == []
    added = await store.add(builders.new_order())
    [entry] = (await log.part(extent, None, 1000)).entries
    assert entry.order_id == added.order.order_id
