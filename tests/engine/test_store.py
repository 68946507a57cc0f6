"""The store against a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from msgspec.structs import replace

from engine import rows, statements
from engine.attempt import Resolution
from engine.errors import StaleOrder
from engine.event_log import EventLog
from engine.lifecycle import FINAL, EventType, Status
from engine.order import Order
from engine.store import Store, open_store
from engine.token import MAX_AMOUNT
from engine.written_rows import CHECK_AFTER
from tests import builders
from tests.builders import stored


async def read(store: Store, order: Order) -> Order:
    found = await store.get(order.order_id)
    assert found is not None
    return found


def facts(order: Order) -> Order:
    """The order without when it was read."""
    return replace(order, read_time=None, backoff=None)


@pytest.mark.parametrize("status", list(Status))
async def test_an_order_in_any_status_is_read_as_it_was_written(
    store: Store, status: Status
) -> None:
    order = await stored(store, status, builders.new_order("key-1"))

    assert facts(await read(store, order)) == facts(order)
    by_key = await store.get_by_client_order_id("default", "key-1")
    assert by_key is not None
    assert facts(by_key) == facts(order)
    [listed] = await store.list_orders("default", limit=10)
    assert facts(listed) == facts(order)
    assert (order.complete_time is not None) == (status in FINAL)


async def test_every_fact_of_a_request_survives(store: Store) -> None:
    order = builders.new_order(
        amount_in=MAX_AMOUNT,
        slippage_bps=None,
        min_amount_out=MAX_AMOUNT,
        venues=("meteora", "raydium"),
        expire_time=datetime(2199, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    )

    await store.add(order)

    assert (await read(store, order)).request == order.request


async def test_events_carry_their_facts_and_number_the_versions(store: Store) -> None:
    order = (await store.add(builders.new_order())).order
    steps = builders.steps(order, Status.CONFIRMED)
    written = [(await store.save(transition)).event for transition in steps]

    first, *events = await store.events([(order.order_id, 0)], 100)

    assert first.type is EventType.ORDER_ACCEPTED
    assert [event.sequence for event in events] == [2, 3, 4, 5, 6]
    unsigned = [
        replace(e, detail=replace(e.detail, attempt=replace(e.detail.attempt, transaction=b"")))
        if e.detail.attempt
        else e
        for e in written
    ]
    assert events == unsigned
    assert await store.events([(order.order_id, 4)], 100) == events[3:]


async def test_a_version_that_was_overtaken_changes_nothing(store: Store) -> None:
    order = await stored(store, Status.ROUTING)
    await store.save(order.fail(builders.FAILURE))

    with pytest.raises(StaleOrder):
        await store.save(order.choose_route(builders.decision()))

    assert (await read(store, order)).status is Status.FAILED
    assert len(await store.events([(order.order_id, 0)], 100)) == 3


async def test_of_many_racing_writers_one_moves_each_version(store: Store, dsn: str) -> None:
    orders = [await stored(store, Status.PENDING) for _ in range(20)]
    async with open_store(dsn) as other:
        writers = [store, other] * 4
        outcomes = await asyncio.gather(
            *(writer.save(order.start_routing()) for order in orders for writer in writers),
            return_exceptions=True,
        )

    won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(won) == len(orders)
    assert {type(o) for o in outcomes if isinstance(o, BaseException)} == {StaleOrder}
    events = await store.events([(order.order_id, 0) for order in orders], 1000)
    assert [event.sequence for event in events] == [1, 2] * len(orders)


async def test_twenty_simultaneous_adds_with_one_key_make_one_order(store: Store, dsn: str) -> None:
    async with open_store(dsn) as other:
        added = await asyncio.gather(
            *(
                writer.add(builders.new_order("the-key"))
                for writer in [store, other]
                for _ in range(10)
            )
        )

    assert len({answer.order.order_id for answer in added}) == 1
    assert sum(answer.event is not None for answer in added) == 1
    assert len(await store.list_orders("default", limit=100)) == 1


async def test_orders_without_a_key_never_meet(store: Store) -> None:
    added = await asyncio.gather(*(store.add(builders.new_order()) for _ in range(10)))

    assert len({answer.order.order_id for answer in added}) == 10


async def test_a_row_that_the_database_refuses_fails_alone_in_its_batch(store: Store) -> None:
    good = [builders.new_order() for _ in range(20)]
    bad = builders.new_order(token_in="a mint that the token table does not have")

    outcomes = await asyncio.gather(
        *(store.add(order) for order in [*good[:10], bad, *good[10:]]), return_exceptions=True
    )

    assert isinstance(outcomes.pop(10), asyncpg.ForeignKeyViolationError)
    assert all(not isinstance(outcome, BaseException) for outcome in outcomes)
    assert len(await store.list_orders("default", limit=100)) == 20


async def test_a_second_live_attempt_cannot_be_stored(store: Store) -> None:
    order = await stored(store, Status.SUBMITTED)
    # As a writer would that never saw the first attempt.
    mistaken = replace(order, attempts=(), status=Status.BUILDING)
    transition = mistaken.sign(replace(builders.attempt(order), number=2))

    with pytest.raises(asyncpg.UniqueViolationError, match="one_live_attempt"):
        await store.save(transition)

    assert [attempt.number for attempt in (await read(store, order)).attempts] == [1]


async def test_an_attempt_comes_on_record_once(store: Store) -> None:
    order = await stored(store, Status.SUBMITTED)
    [recorded] = order.attempts
    mistaken = replace(order, attempts=(), status=Status.BUILDING)
    transition = mistaken.sign(replace(recorded, blockhash="another"))

    with pytest.raises(asyncpg.UniqueViolationError, match="attempts_pkey"):
        await store.save(transition)

    assert (await read(store, order)).attempts == (recorded,)


async def test_facts_are_kept_as_they_were_written(store: Store, dsn: str) -> None:
    order = await stored(store, Status.SUBMITTED)

    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        kept = await connection.fetch(
            "SELECT detail, detail -> 'route' -> 'quotes' -> 0 ->> 'venue' AS venue"
            " FROM order_events WHERE order_id = $1 ORDER BY sequence",
            order.order_id,
        )
    finally:
        await connection.close(timeout=5)

    events = await store.events([(order.order_id, 0)], 100)
    assert [row["detail"] for row in kept] == [rows.encode_detail(e.detail) for e in events]
    assert [row["venue"] for row in kept if row["venue"]] == ["meteora"]
    # What is as it is by default is not written.
    assert not any(word in row["detail"] for row in kept for word in ("null", "[]", "permanent"))


async def test_a_resolved_attempt_keeps_its_resolution_and_evidence(store: Store) -> None:
    order = await stored(store, Status.SUBMITTED)

    order = (
        await store.save(
            order.resolve(Resolution.LANDED_WITH_ERROR, builders.EVIDENCE, builders.FAILURE)
        )
    ).order

    [attempt] = (await read(store, order)).attempts
    assert (attempt.resolution, attempt.evidence) == (
        Resolution.LANDED_WITH_ERROR,
        builders.EVIDENCE,
    )
    assert order.backing_off


async def test_nothing_is_signed_after_expire_time_by_the_databases_clock(store: Store) -> None:
    order = await stored(store, Status.BUILDING)
    await execute(store, "UPDATE orders SET expire_time = now()")

    with pytest.raises(StaleOrder):
        await store.save(order.sign(builders.attempt(order)))

    assert (await read(store, order)).past_expiry


async def test_a_signature_committed_with_the_step_before_it_is_guarded_like_any_other(
    store: Store,
) -> None:
    order = await stored(store, Status.ROUTING)
    order = (await store.save(order.choose_route(builders.decision()))).order
    building = order.start_building()
    signing = building.then(building.order.sign(builders.attempt(building.order)))
    await execute(store, "UPDATE orders SET expire_time = now()")

    with pytest.raises(StaleOrder):
        await store.save(signing)

    found = await read(store, order)
    assert (found.status, found.sequence, found.attempts) == (Status.ROUTING, order.sequence, ())


async def test_steps_saved_together_are_one_version_and_an_event_each(store: Store) -> None:
    order = await stored(store, Status.PENDING)
    started = order.start_routing()

    saved = await store.save(started.then(started.order.choose_route(builders.decision())))

    assert facts(saved.order) == facts(await read(store, order))
    assert [event.sequence for event in await store.events([(order.order_id, 0)], 10)] == [1, 2, 3]
    with pytest.raises(StaleOrder):
        await store.save(started)


async def test_a_copy_in_another_server_goes_on_from_the_last_position(
    store: Store, dsn: str
) -> None:
    log = EventLog(store)
    order = await stored(store, Status.PENDING)
    before = await log.extent()
    # As a dump leaves it: positions of another server's transactions, and its name.
    await execute(store, "UPDATE order_events SET position = 10 ^ 12")
    await execute(store, "UPDATE event_log SET home = 'another server'")

    async with open_store(dsn) as copy:
        assert (await EventLog(copy).extent()).home == before.home
        held = await EventLog(copy).extent()
        await copy.save(order.start_routing())
        part = await EventLog(copy).part(held, None, 10)

    [entry] = part.entries
    assert entry.sequence == 2
    assert held.complete == held.next == 10**12 + 1
    assert held.next < part.extent.complete


async def test_what_is_due_is_claimed_by_one_and_backs_off(store: Store, dsn: str) -> None:
    order = await stored(store, Status.ROUTING)
    assert await store.claim_to_offer(10) == []
    await execute(store, "UPDATE orders SET next_check_at = now()")

    async with open_store(dsn) as other:
        claims = await asyncio.gather(*(s.claim_to_offer(10) for s in [store, other] * 5))

    assert [facts(claimed) for claim in claims for claimed in claim] == [facts(order)]


async def test_to_ask_whether_anything_is_due_claims_nothing_and_waits_for_nobody(
    store: Store, dsn: str
) -> None:
    await stored(store, Status.ROUTING)
    await stored(store, Status.CONFIRMED)
    assert not await store.anything_to_offer()
    await execute(store, "UPDATE orders SET next_check_at = now()")
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        await connection.execute("SELECT FROM orders FOR UPDATE")
        assert await store.anything_to_offer()
    await connection.close()

    assert len(await store.claim_to_offer(10)) == 1
    assert not await store.anything_to_offer()


async def test_what_another_is_claiming_is_passed_over(store: Store, dsn: str) -> None:
    await stored(store, Status.ROUTING)
    await execute(store, "UPDATE orders SET next_check_at = now()")
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        await connection.execute("SELECT FROM orders FOR NO KEY UPDATE")
        assert await store.claim_to_offer(10) == []
    await connection.close()

    assert len(await store.claim_to_offer(10)) == 1


async def test_a_settled_order_is_never_due_and_an_unsettled_one_is(store: Store) -> None:
    settled = await stored(store, Status.FAILED)
    confirmed = await stored(store, Status.CONFIRMED)
    await execute(store, "UPDATE orders SET next_check_at = now() WHERE NOT settled")

    due = [*await store.claim_to_offer(10), *await store.claim_to_settle(10)]

    assert [order.order_id for order in due] == [confirmed.order_id]
    assert (await read(store, settled)).settled


async def test_what_has_settled_is_met_once_by_those_who_look_for_open_orders(
    store: Store,
) -> None:
    await asyncio.gather(*[stored(store, Status.FAILED) for _ in range(200)])

    pages = [await pages_read(store, statements.COUNT_WAITING, 1000) for _ in range(2)]

    assert pages[1] < pages[0] / 3


async def pages_read(store: Store, statement: str, *arguments: object) -> int:
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
    [row] = await store.ask(lambda connection: connection.fetch(explain, *arguments))
    plan = json.loads(row["QUERY PLAN"])[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def test_lists_filter_and_page_by_id(store: Store) -> None:
    orders = [await stored(store, status) for status in Status]
    newest_first = [order.order_id for order in reversed(orders)]

    page = await store.list_orders("default", after=newest_first[2], limit=3)
    assert [order.order_id for order in page] == newest_first[3:6]
    [failed] = await store.list_orders("default", statuses=[Status.FAILED], limit=10)
    assert failed.status is Status.FAILED
    assert await store.list_orders("somebody else", limit=10) == []
    assert len(await store.list_orders("default", token=builders.USDC, limit=100)) == 8
    assert await store.list_orders("default", token="another", limit=100) == []
    routed = await store.list_orders("default", venue="raydium", limit=100)
    assert {order.status for order in routed} == {
        Status.BUILDING,
        Status.SUBMITTED,
        Status.CONFIRMED,
    }


IMPOSSIBLE = {
    "a floor that moved": "min_amount_out = min_amount_out + 1",
    "a floor taken away": "min_amount_out = NULL",
    "a fill below the floor": "amount_out = min_amount_out - 1",
    "confirmed without a fill": "amount_out = NULL",
    "a fill by halves": "fill_slot = NULL",
    "a fill on an order that failed": "status = 'failed', error_reason = 'X', error_message = 'x'",
    "an unknown status": "status = 'done'",
    "settled though not final": "status = 'submitted', settled = true, next_check_at = NULL",
    "unsettled and never looked at": "next_check_at = NULL",
    "settled and looked at": "settled = true",
    "final without its time": "complete_time = NULL",
    "a route by halves": "legs = NULL",
    "an order without a sequence": "sequence = 0",
    "a fourth retry": "retries = 4",
    "one token on both sides": "token_out = token_in",
    "two price protections": "requested_min_amount_out = 1",
    "no price protection": "slippage_bps = NULL",
    "nothing to pay": "amount_in = 0",
    "more than the chain can hold": "amount_in = 18446744073709551616",
    "a malformed key": "client_order_id = 'a b'",
    "a key that ends its line": "client_order_id = E'a\\n'",
    "an empty key": "client_order_id = ''",
    "a key of 65 characters": "client_order_id = repeat('a', 65)",
    "an error without words": "error_reason = 'X'",
}


@pytest.mark.parametrize("change", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
async def test_the_schema_refuses_impossible_rows(store: Store, change: str) -> None:
    await stored(store, Status.CONFIRMED)

    with pytest.raises((asyncpg.CheckViolationError, asyncpg.NumericValueOutOfRangeError)):
        await execute(store, f"UPDATE orders SET {change}")


@pytest.mark.parametrize(
    "status", ["failed", "cancelled", "expired"], ids=lambda status: f"unsettled {status}"
)
async def test_an_order_that_ended_without_a_swap_is_settled(store: Store, status: str) -> None:
    await stored(store, Status.PENDING)

    with pytest.raises(asyncpg.CheckViolationError, match="ended_without_a_swap_is_settled"):
        await execute(
            store,
            f"UPDATE orders SET status = '{status}', complete_time = now(), "
            "error_reason = 'X', error_message = 'x'",
        )


async def test_an_attempt_is_resolved_on_evidence_or_not_at_all(store: Store) -> None:
    await stored(store, Status.SUBMITTED)

    with pytest.raises(asyncpg.CheckViolationError, match="resolved_on_evidence"):
        await execute(store, "UPDATE attempts SET resolution = 'landed'")


async def execute(store: Store, statement: str) -> None:
    """Plain SQL beside the store's own, as an operator or a bug would."""
    await store.ask(lambda connection: connection.fetch(statement))


def test_times_of_the_next_look_suit_the_work() -> None:
    """A look that comes before the work can be done would only make duplicates."""
    from engine import venue

    assert CHECK_AFTER[Status.ROUTING] > timedelta(seconds=2)
    assert CHECK_AFTER[Status.BUILDING] >= timedelta(seconds=venue.BUILD_SECONDS)
