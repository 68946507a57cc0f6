"""A database restored from a copy, brought up to a chain that went on without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from io import BytesIO
from typing import Any, Final

import asyncpg
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from engine.attempt import Resolution
from engine.chain import HeightReading
from engine.connections import Query
from engine.errors import ClientOrderIdReused, StaleOrder, Unanswered
from engine.lifecycle import EventType, Status
from engine.order import Order
from engine.route import Route, RouteDecision
from engine.signing import Signing
from engine.store import Store, open_store
from executor_svc import reconciliation, transaction
from executor_svc.reconciliation import Reconciliation, Report
from oee.postgres import Postgres
from tests import builders
from tests.conftest import new_database
from tests.engine.test_store import execute, read
from tests.executor_svc.desk import FLOOR, WALLET, Desk
from tests.executor_svc.legs import TWO_HOPS
from tests.fakes import FakeChain, Landed

TABLES: Final = ("orders", "attempts", "order_events", "signing")


# PostgreSQL has no event for this; the loop is its own, and looks every 10 ms.
UNTIL_WAITING: Final = """
DO $$ BEGIN
    LOOP
        PERFORM pg_stat_clear_snapshot();
        EXIT WHEN (SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock') >= {};
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$
"""


class MovingChain(FakeChain):
    """Makes blocks whenever somebody waits for them; before `opens`, none takes a transaction."""

    opens = 0

    def _land(self, transaction: bytes) -> None:
        if self.height >= self.opens:
            super()._land(transaction)

    async def finalized_height(self) -> HeightReading:
        self.advance(30)
        return await super().finalized_height()


class LostDesk(Desk):
    """A desk whose database will be lost."""

    chain: MovingChain

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.chain = MovingChain()
        self.again()


class Restored(Desk):
    """A desk on a copy of another desk's database; both swap on one chain with one wallet."""

    def __init__(self, lost: LostDesk, store: Store, dsn: str) -> None:
        super().__init__(store)
        self.dsn = dsn
        self._lost = lost
        self.chain = lost.chain
        self.venue = lost.venue
        self.again()

    async def backup(self) -> None:
        """Make this database what the other one is now."""
        for table in TABLES:
            rows = BytesIO()
            copied = {"table_name": table, "format": "binary"}
            await self._lost.store.ask(partial(_out, rows, copied))
            rows.seek(0)
            await self.store.ask(partial(_in, rows, copied))

    async def reconcile(self) -> Report:
        return await Reconciliation(self.store, self.chain, str(WALLET.pubkey())).run()

    async def work(self, order: Order) -> Order:
        """What router, executor and settlement would do with the order now."""
        await execute(self.store, "UPDATE orders SET not_before = NULL")
        await self.router.route([order.order_id])
        await self.executor.execute([order.order_id])
        self.chain.advance(5)
        return await self.settled(order, rounds=2)

    async def sequences(self, order: Order) -> list[int]:
        events = await self.store.events([(order.order_id, 0)], 100)
        return [event.sequence for event in events]


async def _out(rows: BytesIO, copied: Any, connection: Any) -> list[asyncpg.Record]:
    await connection.copy_from_table(**copied, output=rows)
    return []


async def _in(rows: BytesIO, copied: Any, connection: Any) -> list[asyncpg.Record]:
    await connection.execute(f"DELETE FROM {copied['table_name']}")
    await connection.copy_to_table(**copied, source=rows)
    return []


@pytest.fixture
def lost(store: Store) -> LostDesk:
    return LostDesk(store)


@pytest.fixture
async def restored(
    postgres: Postgres, migrated: str, lost: LostDesk, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Restored]:
    monkeypatch.setattr(reconciliation, "POLL_SECONDS", 0.001)
    async with new_database(postgres, migrated) as own, open_store(own) as store:
        yield Restored(lost, store, own)


async def pending(desk: Desk, key: str) -> Order:
    return (await desk.store.add(builders.new_order(key))).order


async def routed(desk: Desk, key: str) -> Order:
    order = await pending(desk, key)
    await desk.router.route([order.order_id])
    return await read(desk.store, order)


async def building(desk: Desk, key: str) -> Order:
    return await desk.relay.commit((await routed(desk, key)).start_building())


async def swap(desk: Desk, order: Order) -> Order:
    """What the lost database saw of the order after the backup."""
    await desk.router.route([order.order_id])
    await desk.executor.execute([order.order_id])
    desk.chain.advance(5)
    return await desk.settled(order, rounds=2)


async def test_a_restored_copy_signs_nothing_by_itself(lost: LostDesk, restored: Restored) -> None:
    order = await building(lost, "key")
    await restored.backup()

    await restored.executor.execute([order.order_id])

    assert restored.chain.sent == []
    assert await Signing(lost.store).why_halted() is None
    assert "restored" in (await Signing(restored.store).why_halted() or "")


@pytest.mark.parametrize("at", [pending, routed, building])
async def test_an_order_whose_swap_landed_after_the_backup_is_not_swapped_again(
    lost: LostDesk, restored: Restored, at: Callable[[Desk, str], Awaitable[Order]]
) -> None:
    order = await at(lost, "key")
    await restored.backup()
    swapped = await swap(lost, order)

    report = await restored.reconcile()
    found = await restored.work(order)

    assert (report.confirmed, report.signing) == ([str(order.order_id)], "allowed")
    assert (found.status, found.settled) == (Status.CONFIRMED, True)
    assert found.fill == swapped.fill
    [attempt] = found.attempts
    assert attempt.signature == swapped.attempts[0].signature
    assert (attempt.transaction, attempt.resolution) == (b"", Resolution.LANDED)
    assert await restored.sequences(order) == list(range(1, found.sequence + 1))
    assert len(restored.chain.landed) == 1


async def test_without_reconciling_a_restored_order_would_swap_twice(
    lost: LostDesk, restored: Restored
) -> None:
    order = await building(lost, "key")
    await restored.backup()
    await swap(lost, order)

    await Signing(restored.store).lift()
    await restored.work(order)

    assert len(restored.chain.landed) == 2


async def second_attempt(lost: LostDesk, restored: Restored, *, lands: str = "") -> Order:
    """The backup knows of attempt 1, which died; attempt 2, which it does not know, landed."""
    lost.chain.drops = True
    order = await lost.submitted(client_order_id="key")
    await restored.backup()
    lost.chain.advance(20)
    await lost.settled(order)
    lost.chain.drops, lost.chain.reverts = False, lands
    await lost.retried(order)
    lost.chain.advance(5)
    return await read(restored.store, order)


@pytest.mark.parametrize(
    "change", ["cancel_requested = true", "expire_time = now()", "retries = 3"]
)
async def test_a_later_attempt_than_the_backups_is_adopted_whatever_has_changed_since(
    lost: LostDesk, restored: Restored, change: str
) -> None:
    order = await second_attempt(lost, restored)
    await execute(restored.store, f"UPDATE orders SET {change}")

    await restored.reconcile()

    order = await read(restored.store, order)
    assert (order.status, order.settled) == (Status.CONFIRMED, True)
    assert [(a.number, a.resolution) for a in order.attempts] == [
        (1, Resolution.EXPIRED_UNLANDED),
        (2, Resolution.LANDED),
    ]
    assert await restored.sequences(order) == list(range(1, order.sequence + 1))


async def test_a_failed_attempt_that_was_forgotten_uses_up_its_try_and_its_number(
    lost: LostDesk, restored: Restored
) -> None:
    order = await second_attempt(lost, restored, lands="SLIPPAGE_EXCEEDED: below the floor")

    report = await restored.reconcile()
    order = await read(restored.store, order)
    assert (report.failed, order.status) == ([str(order.order_id)], Status.ROUTING)
    assert order.retries == 2
    lost.chain.reverts = ""
    order = await restored.work(order)

    assert [(a.number, a.resolution) for a in order.attempts] == [
        (1, Resolution.EXPIRED_UNLANDED),
        (2, Resolution.LANDED_WITH_ERROR),
        (3, Resolution.LANDED),
    ]
    memos = [landed.memo for landed in restored.chain.landed.values()]
    assert len(set(memos)) == len(memos) == 2
    assert [e for e in await restored.types(order) if e is EventType.RETRY_SCHEDULED] != []


async def test_the_last_try_that_failed_ends_the_order(lost: LostDesk, restored: Restored) -> None:
    order = await pending(lost, "key")
    await restored.backup()
    lost.chain.reverts = "SLIPPAGE_EXCEEDED: below the floor"
    await swap(lost, order)
    await execute(restored.store, "UPDATE orders SET retries = 3")

    await restored.reconcile()

    order = await read(restored.store, order)
    assert (order.status, order.settled) == (Status.FAILED, True)
    assert order.failure is not None
    assert order.failure.reason == "SLIPPAGE_EXCEEDED"


async def lost_order(lost: LostDesk, restored: Restored) -> Order:
    await restored.backup()
    order = await swap(lost, await pending(lost, "key"))
    report = await restored.reconcile()
    assert report.kept == [str(order.order_id)]
    return order


async def test_a_lost_order_that_is_submitted_again_finds_its_swap_done(
    lost: LostDesk, restored: Restored
) -> None:
    order = await lost_order(lost, restored)

    added = await asyncio.gather(
        *(restored.store.add(builders.new_order("key")) for _ in range(10))
    )

    assert {(a.order.order_id, a.event) for a in added} == {(order.order_id, None)}
    found = await restored.work(order)
    assert (found.status, found.settled, found.fill) == (Status.CONFIRMED, True, order.fill)
    assert await restored.sequences(found) == list(range(1, found.sequence + 1))
    assert len(restored.chain.landed) == 1


@pytest.mark.parametrize(
    "request_", [{"amount_in": 2}, {"slippage_bps": None, "min_amount_out": 2**63}]
)
async def test_a_lost_orders_key_is_refused_for_another_request(
    lost: LostDesk, restored: Restored, request_: dict[str, Any]
) -> None:
    await lost_order(lost, restored)

    with pytest.raises(ClientOrderIdReused, match=next(reversed(request_))):
        await restored.store.add(builders.new_order("key", **request_))


async def swap_by_way_of_ray(lost: LostDesk, order: Order) -> Order:
    """What the lost database saw of a route that left some RAY in the wallet."""
    legs = Route(TWO_HOPS, TWO_HOPS[-1].quoted_amount_out)
    order = await lost.relay.commit(order.start_routing())
    await lost.relay.commit(order.choose_route(RouteDecision((), "for the test", legs, FLOOR)))
    swapped = await swap(lost, order)
    [landed] = lost.chain.landed.values()
    assert landed.changes()[landed.wallet, builders.RAY] > 0
    return swapped


async def test_a_swap_that_left_some_of_a_third_token_is_adopted_for_what_was_asked_for(
    lost: LostDesk, restored: Restored
) -> None:
    order = await pending(lost, "key")
    await restored.backup()
    swapped = await swap_by_way_of_ray(lost, order)

    report = await restored.reconcile()

    found = await read(restored.store, order)
    assert (report.confirmed, report.signing) == ([str(order.order_id)], "allowed")
    assert (found.status, found.settled, found.fill) == (Status.CONFIRMED, True, swapped.fill)


async def test_a_lost_order_that_left_some_of_a_third_token_gets_its_swap_when_submitted_again(
    lost: LostDesk, restored: Restored
) -> None:
    await restored.backup()
    swapped = await swap_by_way_of_ray(lost, await pending(lost, "key"))

    report = await restored.reconcile()
    added = await restored.store.add(builders.new_order("key"))

    assert (report.kept, report.signing) == ([str(swapped.order_id)], "allowed")
    assert (added.event, added.order.order_id) == (None, swapped.order_id)
    assert (added.order.status, added.order.fill) == (Status.CONFIRMED, swapped.fill)


async def test_a_lost_order_that_was_submitted_again_too_early_gets_its_swap(
    lost: LostDesk, restored: Restored
) -> None:
    await restored.backup()
    swapped = await swap(lost, await pending(lost, "key"))
    again = await routed(restored, "key")

    await restored.reconcile()
    found = await restored.work(again)

    assert again.order_id != swapped.order_id
    assert (found.status, found.settled, found.fill) == (Status.CONFIRMED, True, swapped.fill)
    assert len(restored.chain.landed) == 1


async def test_while_signing_is_halted_no_order_ends_and_everything_else_goes_on(
    restored: Restored,
) -> None:
    await Signing(restored.store).halt()

    order = await building(restored, "key")
    await restored.executor.execute([order.order_id])
    assert restored.chain.sent == []
    for end in (order.cancel(), order.expire(), order.fail(builders.FAILURE)):
        with pytest.raises(StaleOrder):
            await restored.store.save(end)

    await Signing(restored.store).lift()
    await restored.executor.execute([order.order_id])
    assert (await read(restored.store, order)).status is Status.SUBMITTED


async def test_the_halt_waits_for_a_signature_that_is_being_recorded(
    restored: Restored,
) -> None:
    order = await building(restored, "key")
    row = "SELECT FROM orders WHERE order_id = $1 FOR UPDATE"
    connection = await asyncpg.connect(restored.dsn, timeout=10)
    async with connection.transaction():
        await connection.execute(row, order.order_id)
        signing = asyncio.create_task(restored.executor.execute([order.order_id]))
        await connection.execute(UNTIL_WAITING.format(1), timeout=5)
        halting = asyncio.create_task(Signing(restored.store).halt())
        await connection.execute(UNTIL_WAITING.format(2), timeout=5)
    await asyncio.gather(signing, halting)
    await connection.close()

    [attempt] = (await read(restored.store, order)).attempts
    assert restored.chain.sent == [attempt.transaction]


async def test_what_was_signed_before_the_halt_and_lands_long_after_it_is_adopted(
    lost: LostDesk, restored: Restored
) -> None:
    lost.chain.validity = 150
    order = await pending(lost, "key")
    await restored.backup()
    await lost.router.route([order.order_id])
    await lost.executor.execute([order.order_id])
    [sent] = lost.chain.sent
    lost.chain.opens = lost.chain.height + 150

    await restored.reconcile()

    assert (await restored.work(order)).settled
    assert len(restored.chain.landed) == 1
    assert restored.chain.sent == [sent]


async def test_all_that_became_of_a_forgotten_order_is_adopted_in_its_order(
    lost: LostDesk, restored: Restored
) -> None:
    order = await pending(lost, "key")
    await restored.backup()
    lost.chain.reverts = "SLIPPAGE_EXCEEDED: below the floor"
    await swap(lost, order)
    lost.chain.reverts = ""
    await lost.retried(order)
    lost.chain.advance(5)

    await restored.reconcile()

    order = await read(restored.store, order)
    assert [(a.number, a.resolution) for a in order.attempts] == [
        (1, Resolution.LANDED_WITH_ERROR),
        (2, Resolution.LANDED),
    ]
    assert await restored.sequences(order) == list(range(1, order.sequence + 1))


async def test_a_node_that_lags_behind_is_not_believed(
    lost: LostDesk, restored: Restored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "PATIENCE_SECONDS", 0.1)
    order = await pending(lost, "key")
    await restored.backup()
    await swap(lost, order)
    lost.chain.status_lag = 10_000

    with pytest.raises(Unanswered, match="lag"):
        await restored.reconcile()

    assert await Signing(restored.store).why_halted() == "a reconciliation has not finished"
    lost.chain.status_lag = 0
    assert (await restored.reconcile()).confirmed == [str(order.order_id)]


@pytest.mark.parametrize(
    ("error", "tells_signers"),
    [("", True), ("SLIPPAGE_EXCEEDED: below the floor", True), ("", False)],
    ids=["landed", "failed", "signers not told"],
)
async def test_what_a_stranger_sends_with_a_memo_of_ours_is_told_once_and_passed_over(
    lost: LostDesk, restored: Restored, error: str, tells_signers: bool
) -> None:
    waiting, order = await building(lost, "waiting"), await pending(lost, "key")
    await restored.backup()
    await swap(lost, order)
    chain = restored.chain
    chain.tells_signers = tells_signers
    memo = transaction.memo_text(waiting, 7)
    foreign = Landed(chain.height, error, restored.executor.wallet, (), memo, signer="a stranger")
    chain.landed["foreign"] = foreign

    with capture_logs() as logs:
        report = await restored.reconcile()

    assert (report.signing, report.read) == ("allowed", 1)
    assert (report.confirmed, report.failed) == ([str(order.order_id)], [])
    told = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["signature"] for entry in told] == ["foreign"]
    assert (await read(restored.store, waiting)).sequence == waiting.sequence
    assert [a.number for a in (await restored.work(waiting)).attempts] == [1]


class Killed(Exception):
    """The process is gone."""


def kill_after(store: Store, statements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this statement asks for is committed, and nobody learns it."""
    countdown = iter(range(statements - 1, -1, -1))
    connections = store._connections
    ask = connections.ask

    async def asked(query: Query) -> list[asyncpg.Record]:
        found = await ask(query)
        if next(countdown, None) == 0:
            raise Killed
        return found

    monkeypatch.setattr(connections, "ask", asked)


@pytest.mark.parametrize("statements", range(1, 10))
async def test_it_may_be_killed_anywhere_and_repeated(
    lost: LostDesk, restored: Restored, monkeypatch: pytest.MonkeyPatch, statements: int
) -> None:
    order = await second_attempt(lost, restored)
    gone = await swap(lost, await pending(lost, "gone"))
    with monkeypatch.context() as patched:
        kill_after(restored.store, statements, patched)
        with pytest.raises(Killed):
            await restored.reconcile()

    report = await restored.reconcile()

    assert (report.signing, report.contradictions) == ("allowed", [])
    assert (await restored.work(order)).status is Status.CONFIRMED
    again = (await restored.store.add(builders.new_order("gone"))).order
    assert (again.order_id, again.status) == (gone.order_id, Status.CONFIRMED)
    assert len(restored.chain.landed) == 2


async def test_a_swap_of_an_order_that_ended_without_one_is_told(
    lost: LostDesk, restored: Restored
) -> None:
    order = await pending(lost, "key")
    await restored.backup()
    swapped = await swap(lost, order)
    # As services would that were started before the reconciliation.
    await execute(restored.store, "UPDATE signing SET home = signing_home()")
    await restored.relay.commit((await read(restored.store, order)).cancel())

    report = await restored.reconcile()

    [sentence] = report.contradictions
    assert str(order.order_id) in sentence
    assert swapped.attempts[0].signature in sentence
    assert report.signing == "allowed"


async def test_signing_stays_halted_when_an_order_that_may_swap_contradicts_the_chain(
    lost: LostDesk, restored: Restored
) -> None:
    order = await pending(lost, "key")
    await restored.backup()
    await swap(lost, order)
    await execute(restored.store, "UPDATE orders SET amount_in = 7")

    report = await restored.reconcile()

    assert (len(report.contradictions), report.signing) == (1, "halted")
    assert await Signing(restored.store).why_halted() is not None


async def test_a_record_that_knows_everything_is_left_as_it_is(
    lost: LostDesk, restored: Restored
) -> None:
    orders = [await swap(lost, await pending(lost, f"key-{n}")) for n in range(3)]
    live = await lost.submitted(client_order_id="live")
    await restored.backup()

    report = await restored.reconcile()

    assert (report.read, report.confirmed, report.failed, report.kept) == (4, [], [], [])
    found = [await read(restored.store, order) for order in (*orders, live)]
    assert [o.sequence for o in found] == [o.sequence for o in (*orders, live)]
    assert [replace(o, read_time=None) for o in found[:3]] == [
        replace(o, read_time=None, backoff=None) for o in orders
    ]
