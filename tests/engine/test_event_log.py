"""The log of all orders' events against a real PostgreSQL."""

from __future__ import annotations

import asyncio

import asyncpg

from engine import statements, written_rows
from engine.event_log import Entry, EventLog, Extent
from engine.lifecycle import Status
from engine.store import Store
from tests import builders
from tests.builders import stored


async def parts(log: EventLog, seen: Extent, limit: int = 1000) -> list[list[Entry]]:
    """What has appeared since, part by part."""
    found, cursor = [], None
    while True:
        part = await log.part(seen, cursor, limit)
        found.append(part.entries)
        if part.cursor is None:
            return found
        cursor = part.cursor


async def test_a_part_has_an_entry_for_each_order_with_events_there(store: Store) -> None:
    log = EventLog(store)
    before = await log.extent()
    waiting, done = await stored(store, Status.PENDING), await stored(store, Status.CONFIRMED)

    part = await log.part(before, None, 1000)

    assert {(e.order_id, e.sequence, e.settled) for e in part.entries} == {
        (waiting.order_id, 1, False),
        (done.order_id, done.sequence, done.settled),
    }
    assert part.cursor is None
    assert part.extent == await log.extent()
    assert before.next < part.extent.complete == part.extent.next


async def test_a_log_is_read_in_parts_of_any_size(store: Store) -> None:
    log = EventLog(store)
    before = await log.extent()
    done = await stored(store, Status.CONFIRMED)
    together = [builders.new_order() for _ in range(3)]
    await asyncio.gather(*(store.add(order) for order in together))
    await stored(store, Status.PENDING)

    for limit in (1, 2, 3, 4, 1000):
        found: dict[object, int] = {}
        for entries in await parts(log, before, limit):
            found |= {entry.order_id: entry.sequence for entry in entries}
        assert len(found) == 5
        assert found[done.order_id] == done.sequence


async def test_nothing_new_is_an_empty_part(store: Store) -> None:
    log = EventLog(store)
    await stored(store, Status.PENDING)
    before = await log.extent()

    part = await log.part(before, None, 1000)

    assert (part.entries, part.cursor) == ([], None)
    assert part.extent.complete == before.complete == before.next


async def test_what_commits_late_appears_once_however_much_was_written_meanwhile(
    store: Store, dsn: str
) -> None:
    log = EventLog(store)
    late = await stored(store, Status.PENDING)
    connection = await asyncpg.connect(dsn)
    before = await log.extent()
    async with connection.transaction():
        rows = written_rows.written([late.start_routing()])
        assert await connection.fetch(statements.SAVE, *rows)
        early = await stored(store, Status.PENDING)
        held = await log.extent()
        assert [e.order_id for [e] in await parts(log, before)] == [early.order_id]
        # What goes on is read from where it was; the one that runs holds back how far all is there.
        assert (await parts(log, held)) == [[]]
        assert held.complete < held.next
    await connection.close()

    [[entry]] = await parts(log, held)
    assert (entry.order_id, entry.sequence) == (late.order_id, 2)
    after = await log.extent()
    assert after.complete == after.next == held.next
    assert await parts(log, after) == [[]]


async def test_no_number_that_a_crash_gives_out_again_says_how_far_the_log_is_complete(
    store: Store, dsn: str
) -> None:
    log = EventLog(store)
    await stored(store, Status.PENDING)
    before = await log.extent()
    connection = await asyncpg.connect(dsn)
    # Such as these: they leave nothing behind that is flushed.
    for _ in range(20):
        transaction = connection.transaction()
        await transaction.start()
        await connection.fetchval("SELECT pg_current_xact_id()")
        await transaction.rollback()
    await connection.close()

    after = await log.extent()

    assert after.end >= before.end + 20
    assert (after.complete, after.next) == (before.complete, before.next)


async def test_events_that_were_deleted_move_where_the_log_begins(store: Store, dsn: str) -> None:
    log = EventLog(store)
    order = await stored(store, Status.ROUTING)
    connection = await asyncpg.connect(dsn)
    before = await log.extent()

    await connection.execute("DELETE FROM order_events WHERE order_id = $1", order.order_id)

    after = await log.extent()
    assert before.oldest < after.oldest == before.next
    assert after.complete == after.next == before.next
    assert (await log.page("default", None, before.oldest, after.end, 10))[0] == after.oldest
    await stored(store, Status.PENDING)
    await connection.execute("TRUNCATE order_events")
    assert (await log.extent()).oldest > after.oldest
    await connection.close()
