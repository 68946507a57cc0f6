"""The log of all orders' events against a real PostgreSQL."""

from __future__ import annotations

import asyncio

from engine.event_log import EventLog
from engine.lifecycle import Status
from engine.store import Store
from tests import builders
from tests.builders import stored


async def test_a_part_has_an_entry_for_each_order_with_events_there(store: Store) -> None:
    log = EventLog(store)
    begin = (await log.extent()).end
    waiting, done = await stored(store, Status.PENDING), await stored(store, Status.CONFIRMED)

    part = await log.part(begin, 1000)

    assert {(e.order_id, e.sequence, e.settled) for e in part.entries} == {
        (waiting.order_id, 1, False),
        (done.order_id, done.sequence, done.settled),
    }
    assert part.last
    assert all(entry.position < part.complete for entry in part.entries)


async def test_a_part_that_is_cut_off_is_complete_up_to_its_last_transaction(store: Store) -> None:
    log = EventLog(store)
    position = (await log.extent()).end
    done = await stored(store, Status.CONFIRMED)
    together = [builders.new_order() for _ in range(3)]
    await asyncio.gather(*(store.add(order) for order in together))
    await stored(store, Status.PENDING)

    found: dict[object, int] = {}
    while True:
        # The three are not all in it, whichever of them were stored together.
        part = await log.part(position, 4)
        found |= {entry.order_id: entry.sequence for entry in part.entries}
        if part.last:
            break
        assert part.complete == max(entry.position for entry in part.entries)
        position = part.complete

    assert len(found) == 5
    assert found[done.order_id] == done.sequence
    assert part.complete == (await log.part(position, 1000)).complete


async def test_nothing_new_is_an_empty_part(store: Store) -> None:
    log = EventLog(store)
    await stored(store, Status.PENDING)
    end = (await log.extent()).end

    part = await log.part(end, 1000)

    assert (part.entries, part.complete, part.last) == ([], end, True)
