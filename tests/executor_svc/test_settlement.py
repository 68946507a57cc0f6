"""The settlement against a real store, on a chain whose blocks the test makes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from engine.attempt import Evidence, Resolution
from engine.chain import Commitment, TransactionReading
from engine.errors import Unanswered
from engine.lifecycle import EventType, Status
from engine.order import Order
from engine.trading import TradingState
from executor_svc import settlement
from tests.engine.test_store import execute, read
from tests.executor_svc.desk import Desk


async def test_bytes_that_nobody_has_seen_are_sent_again_unchanged(desk: Desk) -> None:
    desk.chain.drops = True
    order = await desk.submitted()
    desk.chain.advance()
    desk.again()

    await desk.settled(order, rounds=2)

    [attempt] = (await read(desk.store, order)).attempts
    assert desk.chain.sent == [attempt.transaction] * 3


async def test_a_lost_transaction_is_replaced_only_once_it_is_proven_dead(desk: Desk) -> None:
    desk.chain.drops = True
    order = await desk.submitted()
    # Dead by the newest block, not yet by the finalized height.
    desk.chain.advance(desk.chain.validity + 2)
    assert (await desk.settled(order)).live_attempt is not None

    desk.chain.advance()
    order = await desk.settled(order)
    assert (order.status, order.retries) == (Status.ROUTING, 1)
    [dead] = order.attempts
    assert dead.resolution is Resolution.EXPIRED_UNLANDED
    assert dead.evidence is not None
    assert dead.evidence.finalized_block_height > dead.last_valid_block_height
    assert dead.evidence.status_context_slot >= dead.evidence.height_context_slot

    desk.chain.drops = False
    order = await desk.retried(order)
    assert [attempt.number for attempt in order.attempts] == [1, 2]
    assert order.attempts[1].signature != dead.signature
    desk.chain.advance(4)
    order = await desk.settled(order, rounds=2)
    assert (order.status, order.settled) == (Status.CONFIRMED, True)
    assert len(desk.chain.landed) == 1


async def test_a_lagging_node_proves_nothing(desk: Desk) -> None:
    order = await desk.submitted()
    desk.chain.advance(20)
    desk.chain.status_lag = 20  # a block before the one in which it landed

    assert (await desk.settled(order)).live_attempt is not None

    desk.chain.status_lag = 0
    assert (await desk.settled(order, rounds=2)).settled


async def test_a_chain_that_does_not_answer_ends_no_order_that_was_signed(desk: Desk) -> None:
    order = await desk.submitted()
    desk.chain.advance(50)
    desk.chain.away = True
    following = asyncio.create_task(desk.settlement.follow())
    await execute(desk.store, "UPDATE orders SET next_check_at = now() - interval '1 h'")
    await asyncio.wait([following], timeout=0.5)
    assert (await read(desk.store, order)).sequence == order.sequence

    desk.chain.away = False
    async with asyncio.timeout(20):
        while not (await read(desk.store, order)).settled:
            await execute(desk.store, "UPDATE orders SET next_check_at = now() WHERE NOT settled")
    following.cancel()


async def test_a_reverted_swap_is_retried_once_the_error_is_final(desk: Desk) -> None:
    desk.chain.reverts = "SLIPPAGE_EXCEEDED: below the floor"
    order = await desk.submitted()
    desk.chain.advance(2)
    assert (await desk.settled(order)).live_attempt is not None

    desk.chain.advance(2)
    order = await desk.settled(order)
    assert order.status is Status.ROUTING
    assert order.attempts[0].resolution is Resolution.LANDED_WITH_ERROR
    assert order.failure is not None
    assert order.failure.reason == "SLIPPAGE_EXCEEDED"


async def test_four_reverted_attempts_are_the_end_with_all_evidence(desk: Desk) -> None:
    desk.chain.reverts = "SLIPPAGE_EXCEEDED: below the floor"
    order = await desk.submitted()
    floor = order.min_amount_out
    for _ in range(3):
        desk.chain.advance(4)
        order = await desk.settled(order)
        order = await desk.retried(order)
    desk.chain.advance(4)
    order = await desk.settled(order)

    assert (order.status, order.settled) == (Status.FAILED, True)
    assert [a.resolution for a in order.attempts] == [Resolution.LANDED_WITH_ERROR] * 4
    assert {a.min_amount_out for a in order.attempts} == {floor}
    assert (await desk.types(order))[-1] is EventType.ATTEMPT_RESOLVED_FAILED


async def test_a_fork_that_takes_a_confirmed_swap_back_reopens_the_order(desk: Desk) -> None:
    order = await desk.submitted()
    desk.chain.advance(2)
    order = await desk.settled(order)
    [(signature, landed)] = desk.chain.landed.items()
    del desk.chain.landed[signature]

    order = await desk.settled(order)
    assert (order.status, order.fill) == (Status.SUBMITTED, None)

    desk.chain.advance()
    assert desk.chain.landed[signature].slot > landed.slot
    desk.chain.advance(2)
    order = await desk.settled(order, rounds=2)
    assert (order.status, order.settled) == (Status.CONFIRMED, True)
    assert order.fill is not None
    assert order.fill.slot == desk.chain.landed[signature].slot


async def test_what_is_final_counts_when_a_fork_ran_the_same_bytes_to_another_result(
    desk: Desk,
) -> None:
    order = await desk.submitted()
    desk.chain.advance(2)
    reported = (await desk.settled(order)).fill
    [landed] = desk.chain.landed.values()
    landed.bonus = 7
    desk.chain.advance(2)

    order = await desk.settled(order, rounds=3)

    assert order.settled
    assert reported is not None
    assert order.fill == replace(reported, amount_out=reported.amount_out + 7)
    assert EventType.SWAP_REORGED in await desk.types(order)


@asynccontextmanager
async def hinted(desk: Desk) -> AsyncIterator[None]:
    """The chain's hints are all that the orders are looked at for."""
    await execute(desk.store, "UPDATE orders SET next_check_at = now() + interval '1 h'")
    loops = [desk.settlement.listen(), desk.settlement.settle_hinted()]
    running = [asyncio.create_task(loop) for loop in loops]
    try:
        yield
        assert not any(task.done() for task in running)
    finally:
        for task in running:
            task.cancel()


async def until(desk: Desk, order: Order, holds: Callable[[Order], bool]) -> Order:
    async with asyncio.timeout(20):
        while not holds(found := await read(desk.store, order)):
            pass
    return found


async def test_hints_of_the_chain_settle_an_order_without_waiting_for_its_next_look(
    desk: Desk,
) -> None:
    order = await desk.submitted()
    desk.chain.advance(4)

    async with hinted(desk):
        await until(desk, order, lambda order: order.settled and not desk.executor.signed)


async def test_what_a_hint_tells_of_a_swap_confirms_and_settles_it_without_a_further_call(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "LISTEN_AGAIN_SECONDS", 0.01)
    order = await desk.submitted()
    desk.chain.telling = lambda record: record
    read_again = forbid_reading(desk)
    desk.chain.advance(2)

    async with hinted(desk):
        confirmed = await until(desk, order, lambda order: order.status is Status.CONFIRMED)
        assert not confirmed.settled
        desk.chain.advance(2)
        order = await until(desk, order, lambda order: order.settled and not desk.executor.signed)

    assert read_again == []
    [landed] = desk.chain.landed.values()
    [attempt] = order.attempts
    assert attempt.resolution is Resolution.LANDED
    assert attempt.evidence == Evidence(desk.chain.height, "node-1", slot=landed.slot)
    assert order.fill is not None
    assert order.fill.amount_out == attempt.min_amount_out + landed.slot
    assert (await desk.types(order))[-2:] == [EventType.SWAP_CONFIRMED, EventType.SWAP_FINALIZED]


async def test_what_a_hint_tells_as_final_is_settled_with_the_commit_that_confirms_it(
    desk: Desk,
) -> None:
    order = await desk.submitted()
    desk.chain.telling = lambda record: record
    read_again = forbid_reading(desk)
    desk.chain.advance(4)

    async with hinted(desk):
        order = await until(desk, order, lambda order: order.settled)

    assert (order.sequence, read_again) == (7, [])


def forbid_reading(desk: Desk) -> list[Sequence[str]]:
    """Nobody may ask the chain for anything; who does is noted."""
    asked: list[Sequence[str]] = []

    async def refuse(signatures: Sequence[str] = ()) -> Any:
        asked.append(signatures)
        raise Unanswered("nobody should ask")

    for call in ("transactions", "statuses", "finalized_height"):
        setattr(desk.chain, call, refuse)
    return asked


@pytest.mark.parametrize(
    "wrong",
    [
        lambda record: None,
        lambda record: replace(record, error="SLIPPAGE_EXCEEDED"),
        lambda record: replace(record, commitment=Commitment.PROCESSED),
        lambda record: replace(record, slot=record.slot + 1),
        lambda record: replace(record, fee_lamports=record.fee_lamports + 1),
    ],
    ids=["absent", "failed", "not settled enough", "another slot", "another result"],
)
async def test_whatever_else_a_hint_tells_is_read_before_it_counts(
    desk: Desk, wrong: Callable[[Any], TransactionReading | None]
) -> None:
    order = await desk.submitted()
    desk.chain.advance(2)
    confirmed = await desk.settled(order)
    assert confirmed.fill is not None
    desk.executor.signed[order.attempts[0].signature] = confirmed
    desk.chain.advance(2)
    desk.chain.telling = wrong

    async with hinted(desk):
        settled = await until(desk, order, lambda order: order.sequence > confirmed.sequence)

    assert settled.settled
    assert settled.fill == confirmed.fill
    assert (await desk.types(order))[-1] is EventType.SWAP_FINALIZED


async def test_of_two_hints_the_one_of_the_node_that_is_further_counts(desk: Desk) -> None:
    order = await desk.submitted()
    desk.chain.advance(4)
    [signature] = [attempt.signature for attempt in order.attempts]
    [final] = await desk.chain.transactions([signature])
    assert final is not None
    behind = replace(final, commitment=Commitment.PROCESSED)
    read_again = forbid_reading(desk)

    async def say(wallet: str, wanted: object) -> AsyncIterator[Any]:
        for told in (behind, final, behind, None):
            yield {signature: told}

    desk.chain.changes = say  # type: ignore[method-assign]
    listening = asyncio.create_task(desk.settlement.listen())
    await until(desk, order, lambda _: desk.settlement._hint.is_set())
    settling = asyncio.create_task(desk.settlement.settle_hinted())
    settled = await until(desk, order, lambda order: order.settled)
    for task in (listening, settling):
        task.cancel()

    assert (settled.status, read_again) == (Status.CONFIRMED, [])


async def test_a_failure_that_a_hint_tells_of_ends_no_attempt(desk: Desk) -> None:
    desk.chain.reverts = "SLIPPAGE_EXCEEDED: below the floor"
    order = await desk.submitted()
    desk.chain.advance(4)
    [told] = await desk.chain.transactions([order.attempts[0].signature])
    assert told is not None
    asked = forbid_reading(desk)

    with pytest.raises(Unanswered):
        await desk.settlement.settle_landed([order], {order.attempts[0].signature: told})

    assert len(asked) == 1
    assert (await read(desk.store, order)).live_attempt is not None


async def test_what_is_final_at_first_sight_is_settled_with_the_commit_that_confirms_it(
    desk: Desk,
) -> None:
    order = await desk.submitted()
    desk.chain.advance(4)

    await desk.settlement.settle_landed([await read(desk.store, order)], {})

    order = await read(desk.store, order)
    assert (order.status, order.settled, order.sequence) == (Status.CONFIRMED, True, 7)
    assert (await desk.types(order))[-2:] == [EventType.SWAP_CONFIRMED, EventType.SWAP_FINALIZED]
    confirmed, finalized = await desk.store.events([(order.order_id, 5)], 10)
    assert confirmed.time == finalized.time


async def test_what_a_lagging_node_told_of_the_amounts_is_not_final(desk: Desk) -> None:
    order = await desk.submitted()
    desk.chain.advance(4)
    transactions = desk.chain.transactions

    async def behind(signatures: Sequence[str]) -> list[TransactionReading | None]:
        return [
            record and replace(record, commitment=Commitment.CONFIRMED)
            for record in await transactions(signatures)
        ]

    desk.chain.transactions = behind  # type: ignore[method-assign]
    order = await desk.settled(order)
    assert (order.status, order.settled) == (Status.CONFIRMED, False)

    desk.chain.transactions = transactions  # type: ignore[method-assign]
    assert (await desk.settled(order)).settled


async def test_an_order_whose_row_is_refused_holds_up_no_other(desk: Desk) -> None:
    good, bad = await desk.submitted(), await desk.submitted()
    desk.chain.advance(4)
    # The chain tells of less than the floor, which the record does not take.
    desk.chain.landed[bad.attempts[0].signature].bonus = -(10**6)

    await desk.settlement.settle_landed([bad, good], {})

    assert (await read(desk.store, good)).settled
    assert (await read(desk.store, bad)).status is Status.SUBMITTED


async def test_an_absent_transaction_proves_nothing_to_those_who_read_only_what_landed(
    desk: Desk,
) -> None:
    desk.chain.drops = True
    order = await desk.submitted()
    desk.chain.advance(20)

    await desk.settlement.settle_landed([await read(desk.store, order)], {})

    order = await read(desk.store, order)
    assert (order.status, order.sequence) == (Status.SUBMITTED, 5)


async def test_amounts_are_taken_from_the_slot_that_counts(desk: Desk) -> None:
    order = await desk.submitted()
    desk.chain.advance(2)
    transactions = desk.chain.transactions

    async def from_another_fork(signatures: Sequence[str]) -> list[TransactionReading | None]:
        return [
            record and replace(record, slot=record.slot + 1)
            for record in await transactions(signatures)
        ]

    desk.chain.transactions = from_another_fork  # type: ignore[method-assign]
    assert (await desk.settled(order)).status is Status.SUBMITTED

    desk.chain.transactions = transactions  # type: ignore[method-assign]
    assert (await desk.settled(order)).status is Status.CONFIRMED


async def test_a_cancel_of_a_live_attempt_waits_for_the_proof(desk: Desk) -> None:
    desk.chain.drops = True
    order = await desk.submitted()
    await desk.relay.commit(order.request_cancel())
    pushed = len(desk.chain.sent)

    order = await desk.settled(order)
    assert (order.status, len(desk.chain.sent)) == (Status.SUBMITTED, pushed)

    desk.chain.advance(20)
    order = await desk.settled(order)
    assert (order.status, order.settled) == (Status.CANCELLED, True)
    assert order.attempts[0].resolution is Resolution.EXPIRED_UNLANDED


async def test_a_cancelled_order_whose_swap_lands_is_confirmed(desk: Desk) -> None:
    order = await desk.submitted()
    await desk.relay.commit(order.request_cancel())
    desk.chain.advance(5)

    order = await desk.settled(order, rounds=2)

    assert (order.status, order.settled) == (Status.CONFIRMED, True)


async def test_a_live_attempt_outlives_expire_time_and_then_ends_the_order(desk: Desk) -> None:
    desk.chain.drops = True
    order = await desk.submitted()
    await execute(desk.store, "UPDATE orders SET expire_time = now()")
    assert (await desk.settled(order)).status is Status.SUBMITTED

    desk.chain.advance(20)
    order = await desk.settled(order)

    assert (order.status, order.settled) == (Status.EXPIRED, True)


async def test_what_was_signed_before_a_halt_is_followed_to_its_end(desk: Desk) -> None:
    order = await desk.submitted()
    await desk.switch.set(TradingState.HALTED, "why", "")
    desk.chain.advance(4)
    order = await desk.settled(order, rounds=2)
    assert (order.status, order.settled) == (Status.CONFIRMED, True)


async def test_an_attempt_that_dies_during_a_halt_is_replaced_after_it(desk: Desk) -> None:
    desk.chain.drops = True
    order = await desk.submitted()
    await desk.switch.set(TradingState.HALTED, "why", "")
    desk.chain.advance(10)
    order = await desk.settled(order)
    assert order.status is Status.ROUTING
    assert len((await desk.retried(order)).attempts) == 1
    await desk.switch.set(TradingState.ACTIVE, "", "")
    assert len((await desk.retried(order)).attempts) == 2
