"""The executor against a real store, on a chain whose blocks the test makes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest
from msgspec.structs import replace

from engine.attempt import Leftover, Resolution
from engine.chain import Blockhash, No
from engine.errors import Refused, StaleOrder, StoreUnavailable
from engine.lifecycle import EventType, Status
from engine.order import Order, Transition
from engine.route import Leg
from engine.trading import TradingState, TradingSwitch
from executor_svc import blockhash, executor
from executor_svc.blockhash import RecentBlockhash
from tests import builders
from tests.engine.test_store import facts, read
from tests.executor_svc.desk import FLOOR, Desk
from tests.executor_svc.legs import SPLIT, TWO_HOPS, SlowVenue, hinted, leg
from tests.fakes import FakeChain


async def test_a_routed_order_is_signed_sent_confirmed_and_settled(desk: Desk) -> None:
    order = await desk.submitted()
    assert order.status is Status.SUBMITTED
    [attempt] = order.attempts

    desk.chain.advance(2)
    order = await desk.settled(order)
    assert (order.status, order.settled) == (Status.CONFIRMED, False)
    assert order.fill is not None
    assert order.fill.amount_out == attempt.min_amount_out + order.fill.slot

    desk.chain.advance(2)
    order = await desk.settled(order)
    assert order.settled
    assert order.attempts[0].resolution is Resolution.LANDED


@pytest.mark.parametrize(
    ("legs", "left"), [(SPLIT, ()), (TWO_HOPS, (builders.RAY,))], ids=["split", "two hops"]
)
async def test_a_route_of_several_swaps_is_one_transaction_and_one_fill(
    desk: Desk, legs: tuple[Leg, ...], left: tuple[str, ...]
) -> None:
    order = await desk.along(*legs)
    await desk.executor.execute([order.order_id])
    desk.chain.advance(4)
    await desk.settlement.settle_landed([await read(desk.store, order)], {})

    order = await read(desk.store, order)
    assert (order.status, order.settled, len(desk.chain.sent)) == (Status.CONFIRMED, True, 1)
    [attempt] = order.attempts
    assert (attempt.legs, attempt.min_amount_out) == (legs, FLOOR)
    [landed] = desk.chain.landed.values()
    assert [swap.min_amount_out for swap in landed.swaps] == [leg.min_amount_out for leg in legs]
    # Every swap yielded its floor and the slot's number.
    to_usdc = sum(leg.mint_out == builders.USDC for leg in legs)
    [confirmed] = [
        event.detail.fill
        for event in await desk.store.events([(order.order_id, 0)], 100)
        if event.type is EventType.SWAP_CONFIRMED
    ]
    assert confirmed is not None
    assert confirmed.amount_in == order.request.amount_in
    assert confirmed.amount_out == FLOOR + to_usdc * landed.slot
    assert confirmed.leftovers == tuple(Leftover(mint, landed.slot) for mint in left)


async def test_the_signature_is_on_record_before_the_first_byte_leaves(desk: Desk) -> None:
    on_record: list[int] = []
    send = desk.chain.send

    async def look_then_send(transactions: Sequence[bytes]) -> list[No | None]:
        attempts = [
            a.transaction
            for o in await desk.store.list_orders("default", limit=9)
            for a in o.attempts
        ]
        on_record.extend(map(attempts.count, transactions))
        return await send(transactions)

    desk.chain.send = look_then_send  # type: ignore[method-assign]
    await desk.submitted()

    assert on_record == [1]


async def test_many_executors_on_one_order_make_one_attempt(desk: Desk) -> None:
    order = await desk.routed()

    await asyncio.gather(*(desk.executor.execute([order.order_id]) for _ in range(8)))

    assert len(set(desk.chain.sent)) == 1
    assert len((await read(desk.store, order)).attempts) == 1


async def test_a_blockhash_is_read_once_for_all_who_need_one_and_anew_when_it_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blockhash, "RECENT_SECONDS", 60)
    chain = FakeChain()
    asked = 0

    async def counted() -> Blockhash:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return Blockhash(f"hash {asked}", 150)

    chain.latest_blockhash = counted  # type: ignore[method-assign]
    recent = RecentBlockhash(chain)

    first = await asyncio.gather(*(recent.get() for _ in range(20)))
    assert {read.blockhash for read in first} == {"hash 1"}
    assert (await recent.get()).blockhash == "hash 1"
    recent.forget()
    assert (await recent.get()).blockhash == "hash 2"


async def test_too_little_in_the_wallet_fails_at_once_and_signs_nothing(desk: Desk) -> None:
    desk.chain.refusal = Refused("INSUFFICIENT_FUNDS", "the wallet holds 1", permanent=True)

    order = await desk.submitted()

    assert (order.status, order.attempts, order.retries) == (Status.FAILED, (), 0)
    assert desk.chain.sent == []


async def test_orders_of_a_hint_are_simulated_recorded_and_sent_together_each_on_its_own(
    desk: Desk,
) -> None:
    good, refused, cancelled, other = [
        await desk.along(hinted(SPLIT[0]), hinted(SPLIT[1])) for _ in range(4)
    ]
    calls: list[int] = []
    send, simulate = desk.chain.send, desk.chain.simulate

    async def simulate_all_but_one(transactions: Sequence[bytes]) -> list[No | None]:
        calls.append(len(transactions))
        await desk.relay.commit((await read(desk.store, cancelled)).cancel())
        answers = await simulate(transactions)
        return [answers[0], Refused("SLIPPAGE_EXCEEDED", "too little"), *answers[2:]]

    async def count_and_send(transactions: Sequence[bytes]) -> list[No | None]:
        calls.append(len(transactions))
        return await send(transactions)

    desk.chain.simulate = simulate_all_but_one  # type: ignore[method-assign]
    desk.chain.send = count_and_send  # type: ignore[method-assign]
    await desk.executor.execute([order.order_id for order in (good, refused, cancelled, other)])

    orders = [await read(desk.store, order) for order in (good, refused, cancelled, other)]
    assert [order.status for order in orders] == [
        Status.SUBMITTED,
        Status.ROUTING,
        Status.CANCELLED,
        Status.SUBMITTED,
    ]
    assert orders[1].failure is not None
    assert orders[1].failure.reason == "SLIPPAGE_EXCEEDED"
    assert calls == [4, 2]
    assert desk.chain.sent == [order.attempts[0].transaction for order in (orders[0], orders[3])]


async def test_a_venue_that_has_to_build_holds_up_no_order_with_hints(desk: Desk) -> None:
    desk.venue = slow = SlowVenue("raydium", "raydium_cpmm")
    desk.again()
    asking = await desk.along(leg("raydium_cpmm", "SOL USDC", 1_500_000_000, FLOOR))
    ready = await desk.along(hinted(SPLIT[0]), hinted(SPLIT[1]))

    async with asyncio.timeout(10):
        left = await desk.executor.execute([asking.order_id, ready.order_id])

    assert left == [asking.order_id]
    assert not slow.asked.is_set()
    assert (await read(desk.store, ready)).status is Status.SUBMITTED
    assert (await read(desk.store, asking)).attempts == ()
    slow.let.set()
    assert await desk.executor.execute(left) == []
    assert (await read(desk.store, asking)).status is Status.SUBMITTED


async def test_of_more_signatures_than_are_remembered_the_oldest_are_forgotten(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "MAX_SIGNED", 2)
    orders = [await desk.submitted() for _ in range(3)]

    assert list(desk.executor.signed) == [order.attempts[0].signature for order in orders[1:]]


async def test_a_refusal_stands_though_the_chain_gives_no_blockhash(desk: Desk) -> None:
    unknown = await desk.along(replace(hinted(SPLIT[0]), venue="elsewhere"), hinted(SPLIT[1]))
    known = await desk.along(hinted(SPLIT[0]), hinted(SPLIT[1]))
    desk.chain.away = True

    await desk.executor.execute([unknown.order_id, known.order_id])

    failures = [(await read(desk.store, order)).failure for order in (unknown, known)]
    assert [failure and failure.reason for failure in failures] == [
        "VENUE_UNKNOWN",
        "CHAIN_UNAVAILABLE",
    ]
    assert (await read(desk.store, unknown)).status is Status.FAILED


async def test_what_is_on_record_is_sent_though_the_database_went_away_for_others_of_the_hint(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [await desk.along(hinted(SPLIT[0]), hinted(SPLIT[1])) for _ in range(2)]
    commit_each = desk.relay.commit_each

    async def commit_one(transitions: Sequence[Transition]) -> list[Order | Exception]:
        return [*await commit_each(transitions[:1]), StoreUnavailable("away")]

    monkeypatch.setattr(desk.relay, "commit_each", commit_one)
    with pytest.raises(StoreUnavailable):
        await desk.executor.execute([order.order_id for order in orders])

    [attempt] = (await read(desk.store, orders[0])).attempts
    assert desk.chain.sent == [attempt.transaction]
    assert list(desk.executor.signed) == [attempt.signature]
    assert (await read(desk.store, orders[1])).attempts == ()


async def test_a_cancel_between_building_and_signing_wins(desk: Desk) -> None:
    order = await desk.routed()
    simulate = desk.chain.simulate

    async def cancel_then_simulate(transactions: Sequence[bytes]) -> list[No | None]:
        # Work that takes long is announced, which may come before the cancel or after it.
        for _ in range(2):
            with suppress(StaleOrder):
                await desk.relay.commit((await read(desk.store, order)).cancel())
                break
        return await simulate(transactions)

    desk.chain.simulate = cancel_then_simulate  # type: ignore[method-assign]
    await desk.executor.execute([order.order_id])

    assert (await read(desk.store, order)).status is Status.CANCELLED
    assert desk.chain.sent == []


async def test_while_trading_is_halted_orders_wait_without_using_up_tries(desk: Desk) -> None:
    routed = await desk.routed()
    accepted = (await desk.store.add(builders.new_order())).order
    await desk.switch.set(TradingState.HALTED, "why", "")
    desk.venue.refusal = Refused("VENUE_UNAVAILABLE", "nobody may ask it now")

    for order in (routed, accepted):
        await desk.router.route([order.order_id])
        await desk.executor.execute([order.order_id])
        assert facts(await read(desk.store, order)) == facts(order)
    desk.venue.refusal = None
    await desk.switch.set(TradingState.ACTIVE, "", "")
    for order in (routed, accepted):
        await desk.router.route([order.order_id])
        await desk.executor.execute([order.order_id])
        assert (await read(desk.store, order)).status is Status.SUBMITTED


async def test_an_executor_that_has_not_seen_the_halt_signs_nothing_all_the_same(
    desk: Desk,
) -> None:
    order = await desk.routed()
    await TradingSwitch(desk.store).set(TradingState.HALTED, "why", "")
    await desk.executor.execute([order.order_id])
    order = await read(desk.store, order)
    assert (desk.chain.sent, order.attempts, order.retries) == ([], (), 0)
