"""A cancel at every step of an order's life, through real processes."""

from __future__ import annotations

import asyncio

import pytest

from engine.v1 import orders_pb2 as pb
from tests.system.conftest import Engine, assert_swapped_once

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOW = pb.CANCEL_OUTCOME_CANCELLED_NOW
PENDING = pb.CANCEL_OUTCOME_CANCEL_PENDING
TOO_LATE = pb.CANCEL_OUTCOME_TOO_LATE


async def cancel(engine: Engine, order: pb.Order) -> pb.CancelOrderResponse:
    async with engine.client() as client:
        return await client.CancelOrder(
            pb.CancelOrderRequest(order_id=order.order_id), timeout=10, wait_for_ready=True
        )


@pytest.mark.parametrize(
    ("method", "answered"),
    [
        ("Quote", False),
        ("Quote", True),
        ("BuildSwap", True),
        ("SimulateTransactions", True),
    ],
)
async def test_before_the_signature_a_cancel_is_final(
    engine: Engine, method: str, answered: bool
) -> None:
    held = engine.gate_of(method).hold(method, answered=answered)
    order = await engine.submit(venues=["raydium"])
    await held.reached.wait()

    assert (await cancel(engine, order)).outcome == NOW
    assert (await cancel(engine, order)).outcome == NOW
    held.release()
    # What was held has gone on, and come to nothing, once an order after it is through.
    await assert_swapped_once(engine, await engine.submit(venues=["raydium"]))

    events = await engine.watch(order)
    assert events[-1].status == pb.ORDER_STATUS_CANCELLED
    assert (await engine.order(order)).settled
    assert await engine.swaps_of(order) == []


async def test_after_the_signature_a_cancel_waits_and_the_swap_may_still_happen(
    engine: Engine,
) -> None:
    held = engine.chain.hold("SendTransactions")
    order = await engine.submit()
    await held.reached.wait()

    assert (await cancel(engine, order)).outcome == PENDING
    assert (await cancel(engine, order)).outcome == PENDING
    held.release()

    events = await engine.watch(order)
    assert pb.ORDER_EVENT_TYPE_CANCEL_REQUESTED in [event.type for event in events]
    assert (await engine.order(order)).status == pb.ORDER_STATUS_CONFIRMED
    assert len(await engine.swaps_of(order)) == 1
    assert (await cancel(engine, order)).outcome == TOO_LATE


async def test_a_cancelled_order_whose_bytes_never_left_ends_cancelled_with_the_proof(
    engine: Engine,
) -> None:
    held = engine.chain.hold("SendTransactions")
    order = await engine.submit()
    await held.reached.wait()

    assert (await cancel(engine, order)).outcome == PENDING

    events = await engine.watch(order)
    held.release()
    assert events[-1].type == pb.ORDER_EVENT_TYPE_ATTEMPT_RESOLVED_CANCELLED
    evidence = events[-1].attempt.evidence
    assert evidence.finalized_block_height > events[-1].attempt.last_valid_block_height
    assert evidence.status_context_slot >= evidence.height_context_slot
    assert await engine.swaps_of(order) == []


async def test_a_cancel_and_a_signature_at_the_same_moment_do_not_both_win(
    engine: Engine,
) -> None:
    held = engine.chain.hold("SimulateTransactions", answered=True)
    order = await engine.submit()
    await held.reached.wait()
    row = "SELECT FROM orders WHERE order_id = $1::text::uuid FOR UPDATE"
    async with engine.locked(row, order.order_id):
        held.release()
        await engine.until_blocked()
        cancelling = asyncio.create_task(cancel(engine, order))
        await engine.until_blocked(2)
    outcome = (await cancelling).outcome

    final = (await engine.watch(order))[-1]
    swaps = len(await engine.swaps_of(order))
    assert (outcome, swaps) in [(NOW, 0), (PENDING, 1)]
    assert (final.status == pb.ORDER_STATUS_CONFIRMED) == (swaps == 1)


async def test_cancels_thrown_at_orders_in_full_flight_never_lie(engine: Engine) -> None:
    async def trade(position: int) -> tuple[pb.Order, int]:
        order = await engine.submit()
        async with engine.client() as client:
            request = pb.WatchOrderRequest(order_id=order.order_id, after_sequence=0)
            async for response in client.WatchOrder(request):
                if response.event.sequence == position:
                    break
        return order, (await cancel(engine, order)).outcome

    answers = await asyncio.gather(*(trade(position) for position in [1, 2, 3, 4, 5, 6] * 4))

    for order, outcome in answers:
        final = (await engine.watch(order))[-1]
        swaps = len(await engine.swaps_of(order))
        assert swaps == (1 if final.status == pb.ORDER_STATUS_CONFIRMED else 0)
        assert (outcome == NOW) <= (swaps == 0)
        assert (outcome == TOO_LATE) <= (swaps == 1)
