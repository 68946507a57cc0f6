"""The trading state, decided by the statements that accept and sign."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from engine.allowance import UNLIMITED, Allowance
from engine.errors import StaleOrder, TradingHalted
from engine.lifecycle import Status
from engine.store import Store
from engine.trading import Setting, TradingState, TradingSwitch
from tests import builders
from tests.builders import stored
from tests.engine.test_store import execute

ACTIVE, CANCEL_ONLY, HALTED = TradingState
PATIENCE_SECONDS = 15
STOPPED = [CANCEL_ONLY, HALTED]
UNTIL_WAITED_FOR = """
DO $$ BEGIN
    FOR look IN 1..1000 LOOP
        PERFORM pg_stat_clear_snapshot();
        IF EXISTS (SELECT FROM pg_locks WHERE NOT granted) THEN RETURN; END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RAISE 'nobody waits for a lock';
END $$
"""


@pytest.fixture
def switch(store: Store) -> TradingSwitch:
    return TradingSwitch(store)


async def test_at_first_trading_is_active(switch: TradingSwitch) -> None:
    setting = await switch.read()
    assert (setting.state, setting.why, setting.key_id) == (ACTIVE, "", "")
    switch.require_active()


@pytest.mark.parametrize("allowance", [UNLIMITED, Allowance(orders_per_minute=5)])
@pytest.mark.parametrize("state", STOPPED)
async def test_new_orders_are_refused_with_the_reason_and_not_stored(
    store: Store, switch: TradingSwitch, state: TradingState, allowance: Allowance
) -> None:
    await switch.set(state, "the venue is on fire", "key")
    with pytest.raises(TradingHalted, match="the venue is on fire"):
        await store.add(builders.new_order("key"), allowance)
    assert await store.list_orders("default", limit=1) == []

    await switch.set(ACTIVE, "", "key")
    assert (await store.add(builders.new_order("key"), allowance)).event is not None


@pytest.mark.parametrize("state", STOPPED)
async def test_an_order_accepted_before_comes_back_in_every_state(
    store: Store, switch: TradingSwitch, state: TradingState
) -> None:
    first = await store.add(builders.new_order("key"))
    await switch.set(state, "why", "")
    again = await store.add(builders.new_order("key"))
    assert (again.order.order_id, again.event) == (first.order.order_id, None)


async def test_nothing_is_signed_while_trading_is_halted(
    store: Store, switch: TradingSwitch
) -> None:
    order = await stored(store, Status.BUILDING)
    signing = order.sign(builders.attempt(order))
    await switch.set(HALTED, "why", "")
    with pytest.raises(StaleOrder):
        await store.save(signing)
    await switch.set(CANCEL_ONLY, "why", "")
    assert (await store.save(signing)).order.status is Status.SUBMITTED


@pytest.mark.parametrize("state", STOPPED)
async def test_in_every_state_orders_are_cancelled_and_live_attempts_end(
    store: Store, switch: TradingSwitch, state: TradingState
) -> None:
    waiting = await stored(store, Status.BUILDING)
    live = await stored(store, Status.SUBMITTED)
    dying = await stored(store, Status.SUBMITTED)
    await switch.set(state, "why", "")
    assert (await store.save(waiting.cancel())).order.status is Status.CANCELLED
    confirmed = (await store.save(live.confirm(builders.fill(live)))).order
    assert (await store.save(confirmed.finalize(builders.EVIDENCE))).order.settled
    asked = (await store.save(dying.request_cancel())).order
    assert asked.cancel_requested


async def test_while_halted_nothing_is_offered_but_what_has_expired(
    store: Store, switch: TradingSwitch
) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    waiting = await stored(store, Status.ROUTING)
    expiring = await stored(store, Status.ROUTING, builders.new_order(expire_time=soon))
    live = await stored(store, Status.SUBMITTED)
    await execute(store, "UPDATE orders SET next_check_at = now()")
    await execute(store, "UPDATE orders SET expire_time = now() WHERE expire_time IS NOT NULL")

    await switch.set(HALTED, "why", "")
    assert [o.order_id for o in await store.claim_to_offer(10)] == [expiring.order_id]
    assert not await store.anything_to_offer()
    assert [o.order_id for o in await store.claim_to_settle(10)] == [live.order_id]
    await switch.set(ACTIVE, "", "")
    [offered] = await store.claim_to_offer(10)
    assert (offered.order_id, offered.retries) == (waiting.order_id, 0)


@pytest.mark.parametrize("table", ["orders", "attempts"])
async def test_setting_it_waits_for_whoever_could_not_see_it(
    store: Store, switch: TradingSwitch, dsn: str, table: str
) -> None:
    connection = await asyncpg.connect(dsn, timeout=10)
    async with connection.transaction():
        await connection.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE")  # as who writes to it
        halting = asyncio.create_task(switch.set(HALTED, "why", ""))
        await connection.execute(UNTIL_WAITED_FOR)
        assert not halting.done()
    await halting
    await connection.close()
    assert switch.halted


class Looking(TradingSwitch):
    """Counts how often it has read what is set."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.looks = asyncio.Semaphore(0)

    async def read(self) -> Setting:
        seen = await super().read()
        self.looks.release()
        return seen


async def test_what_is_set_elsewhere_is_noticed(store: Store) -> None:
    switch = Looking(store)
    following = asyncio.create_task(switch.follow())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await switch.looks.acquire()
        await TradingSwitch(store).set(HALTED, "the why", "key")
        for _ in range(2):  # the first may have begun before
            await switch.looks.acquire()
    assert switch.halted
    with pytest.raises(TradingHalted, match="the why"):
        switch.require_active()
    following.cancel()


async def test_setting_the_same_again_changes_nothing(switch: TradingSwitch) -> None:
    first = await switch.set(HALTED, "why", "key")
    assert await switch.set(HALTED, "why", "key") == first
    assert (await switch.set(HALTED, "another", "key")).set_time > first.set_time
