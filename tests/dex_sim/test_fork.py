"""What befalls transactions: lost, late, repeated, below their floor, taken back by a fork."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dex_sim.market import SOL, USDC
from engine.v1 import chain_pb2
from engine.v1 import sim_pb2 as pb

if TYPE_CHECKING:
    from tests.dex_sim.conftest import Desk, OpenDesk

ONE_SOL = 10**9
# Of the first block: no slot is skipped in these tests, so slot and height move together.
HEIGHT_BELOW_SLOT = 1_000 - 950

DROPPED = pb.SwitchFork(result=pb.FORK_RESULT_DROPPED, after_slots=3)
FLIPPED = pb.SwitchFork(result=pb.FORK_RESULT_FLIPPED, after_slots=3)


async def hits(desk: Desk) -> int:
    """How often the only fault hit."""
    [report] = await desk.faults()
    return report.hits


async def until_hit(desk: Desk) -> None:
    await desk.until(lambda: hits(desk), lambda count: count > 0)


async def test_a_dropped_transaction_never_lands_until_it_is_sent_again(desk: Desk) -> None:
    await desk.inject(order_id="order", times=1, drop=pb.DropTransaction())
    raw = await desk.swap("raydium", ONE_SOL)

    sent = await desk.send(raw)
    await desk.land(await desk.swap("raydium", ONE_SOL, memo="oee:other:1:key"))
    lost = await desk.swaps()
    await desk.land(raw)

    assert not sent.HasField("error")
    assert [swap.memo for swap in lost] == ["oee:other:1:key"]
    assert [swap.memo for swap in await desk.swaps()] == ["oee:other:1:key", "oee:order:1:key"]


async def test_one_attempt_may_be_lost_for_ever_while_the_next_one_lands(desk: Desk) -> None:
    await desk.inject(order_id="order", attempt=1, drop=pb.DropTransaction())
    first, second = [
        await desk.swap("raydium", ONE_SOL, memo=f"oee:order:{attempt}:key") for attempt in (1, 2)
    ]

    for _ in range(3):
        await desk.send(first)
    await desk.land(second)

    assert [swap.memo for swap in await desk.swaps()] == ["oee:order:2:key"]
    assert await hits(desk) == 3


async def test_a_held_transaction_lands_in_the_last_block_that_may_hold_it(desk: Desk) -> None:
    await desk.inject(times=1, hold=pb.HoldTransaction())
    signed_with = await desk.blockhash()
    raw = await desk.swap("raydium", ONE_SOL, blockhash=signed_with.blockhash)

    await desk.send(raw)
    again = await desk.send(raw)
    [swap] = await desk.until(desk.swaps, bool)

    assert not again.HasField("error")
    assert swap.slot - HEIGHT_BELOW_SLOT == signed_with.last_valid_block_height
    assert await hits(desk) == 1


async def test_a_transaction_may_be_held_for_some_blocks_only(desk: Desk) -> None:
    await desk.inject(times=1, hold=pb.HoldTransaction(blocks=20))
    held = await desk.swap("raydium", ONE_SOL)
    other = await desk.swap("raydium", ONE_SOL, memo="oee:other:1:key")

    await desk.chain.SendTransactions(chain_pb2.SendTransactionsRequest(transactions=[held, other]))
    first, second = await desk.until(desk.swaps, lambda swaps: len(swaps) == 2)

    assert first.memo == "oee:other:1:key"
    assert second.slot - first.slot == 20


async def test_a_swap_that_slips_lands_below_its_floor_and_costs_only_the_fee(desk: Desk) -> None:
    await desk.inject(order_id="order", venue="raydium", slip=pb.SlipSwap())
    before = await desk.supply()

    slipped = await desk.land(await desk.swap("raydium", ONE_SOL, 1000))
    other = await desk.land(await desk.swap("raydium", ONE_SOL, 1000, memo="oee:other:1:key"))

    assert slipped.error.reason == chain_pb2.TRANSACTION_ERROR_REASON_SLIPPAGE_EXCEEDED
    assert slipped.error.message == "yields 999, the floor is 1000"
    assert not other.HasField("error")
    assert [swap.memo for swap in await desk.swaps()] == ["oee:other:1:key"]
    assert await desk.supply() == before


async def test_a_fork_takes_a_swap_back_and_the_wallet_has_all_as_before(desk: Desk) -> None:
    before = await desk.balances()
    supply = await desk.supply()
    fault = await desk.inject(order_id="order", times=1, fork=DROPPED)
    raw = await desk.swap("raydium", ONE_SOL)
    signature = (await desk.send(raw)).signature
    seen = await desk.until(lambda: desk.status(signature), lambda s: s.statuses[0].found)
    [swap] = await desk.swaps()
    pools = await desk.pools("raydium")

    await until_hit(desk)

    assert seen.statuses[0].slot == swap.slot
    assert not (await desk.status(signature)).statuses[0].found
    assert await desk.swaps() == []
    assert await desk.balances() == before
    # There somebody else swapped in the wallet's place: no pool goes back in time.
    assert [p.state for p in await desk.pools("raydium")] == [p.state for p in pools]
    assert await desk.supply() == supply

    await desk.clear(fault)
    status = await desk.land(raw)
    [again] = await desk.swaps()

    assert status.slot == again.slot > swap.slot
    assert (swap.number, again.number) == (1, 2)
    assert await desk.supply() == supply


async def test_a_fork_that_turns_a_success_into_an_error_leaves_the_fee_paid(desk: Desk) -> None:
    before, supply = await desk.balances(), await desk.supply()
    await desk.inject(order_id="order", times=1, fork=FLIPPED)
    signature = (await desk.send(await desk.swap("meteora", ONE_SOL))).signature
    await until_hit(desk)

    status = await desk.finalized(signature)

    record = await desk.chain.GetTransactions(
        chain_pb2.GetTransactionsRequest(signatures=[signature])
    )
    assert status.error.reason == chain_pb2.TRANSACTION_ERROR_REASON_PROGRAM_FAILED
    assert list(record.transactions[0].changes) == []
    assert await desk.swaps() == []
    assert await desk.supply() == supply
    assert await desk.balances() == {
        **before,
        "": before[""] - record.transactions[0].fee_lamports,
    }


async def test_a_fork_that_turns_an_error_into_a_success_keeps_the_floor(desk: Desk) -> None:
    quoted = (await desk.quote("meteora", ONE_SOL)).quote.amount_out
    supply = await desk.supply()
    await desk.inject(order_id="order", times=1, fork=FLIPPED)
    signature = (await desk.send(await desk.swap("meteora", ONE_SOL, quoted + 7))).signature
    seen = await desk.until(lambda: desk.status(signature), lambda s: s.statuses[0].found)
    await until_hit(desk)

    status = await desk.finalized(signature)

    [swap] = await desk.swaps()
    failed = seen.statuses[0]
    assert failed.error.reason == chain_pb2.TRANSACTION_ERROR_REASON_SLIPPAGE_EXCEEDED
    assert not status.HasField("error")
    assert status.slot == failed.slot == swap.slot
    assert swap.amount_out == swap.min_amount_out == quoted + 7
    assert (await desk.balances())[USDC.mint] == quoted + 7
    assert await desk.supply() == supply


async def test_an_error_that_no_fork_could_make_good_stays(desk: Desk) -> None:
    await desk.inject(fork=FLIPPED)

    status = await desk.land(await desk.swap("raydium", 11 * ONE_SOL))

    assert status.error.reason == chain_pb2.TRANSACTION_ERROR_REASON_INSUFFICIENT_FUNDS
    assert await hits(desk) == 0


async def test_what_a_fork_dropped_comes_back_by_itself_when_restored(desk: Desk) -> None:
    restored = pb.SwitchFork(result=pb.FORK_RESULT_RESTORED, after_slots=2, restored_after_slots=10)
    await desk.inject(order_id="order", times=1, fork=restored)
    signature = (await desk.send(await desk.swap("raydium", ONE_SOL))).signature
    first = await desk.until(lambda: desk.status(signature), lambda s: s.statuses[0].found)

    status = await desk.finalized(signature)

    [swap] = await desk.swaps()
    assert status.slot == swap.slot == first.statuses[0].slot + 12
    assert swap.number == 2


async def test_what_a_fork_restores_too_late_never_lands(open_desk: OpenDesk) -> None:
    desk = await open_desk(slot_milliseconds=1)
    restored = pb.SwitchFork(
        result=pb.FORK_RESULT_RESTORED, after_slots=2, restored_after_slots=150
    )
    await desk.inject(order_id="order", times=1, fork=restored)
    signature = (await desk.send(await desk.swap("raydium", ONE_SOL))).signature
    await until_hit(desk)
    now = await desk.height(chain_pb2.COMMITMENT_PROCESSED)

    await desk.until(desk.height, lambda h: h.block_height > now.block_height + 150)

    assert not (await desk.status(signature)).statuses[0].found
    assert await desk.swaps() == []


async def test_a_repeated_transaction_lands_once_and_again_when_a_fork_drops_it(
    desk: Desk,
) -> None:
    await desk.inject(times=1, repeat=pb.RepeatTransaction())
    signature = (await desk.send(await desk.swap("raydium", ONE_SOL))).signature
    await desk.finalized(signature)
    once = await desk.swaps()

    await desk.clear()
    await desk.inject(times=1, fork=DROPPED)
    await desk.inject(order_id="again", times=1, repeat=pb.RepeatTransaction())
    raw = await desk.swap("raydium", ONE_SOL, memo="oee:again:1:key")
    status = await desk.land(raw)

    assert len(once) == 1
    swaps = await desk.swaps()
    assert [(swap.number, swap.memo) for swap in swaps] == [
        (1, "oee:order:1:key"),
        (3, "oee:again:1:key"),
    ]
    assert status.slot == swaps[1].slot


async def test_a_fork_never_touches_what_is_finalized(desk: Desk) -> None:
    await desk.land(await desk.swap("raydium", ONE_SOL))
    [swap] = await desk.swaps()
    await desk.inject(fork=pb.SwitchFork(result=pb.FORK_RESULT_DROPPED))

    signature = (await desk.send(await desk.swap("meteora", ONE_SOL, memo="later"))).signature
    await until_hit(desk)

    assert not (await desk.status(signature)).statuses[0].found
    assert await desk.swaps() == [swap]


async def test_what_was_spent_since_is_not_taken_back(desk: Desk) -> None:
    supply = await desk.supply()
    await desk.inject(
        order_id="first", fork=pb.SwitchFork(result=pb.FORK_RESULT_DROPPED, after_slots=20)
    )
    first = await desk.swap("raydium", ONE_SOL, memo="oee:first:1:key")
    await desk.send(first)
    [swap] = await desk.until(desk.swaps, bool)
    spends = await desk.swap(
        "meteora", swap.amount_out, mint_in=USDC.mint, mint_out=SOL.mint, memo="oee:second:1:key"
    )
    status = await desk.land(spends)

    assert not status.HasField("error")
    assert len(await desk.swaps()) == 2
    assert await hits(desk) == 0
    assert await desk.supply() == supply


async def test_a_seed_repeats_which_transactions_are_lost(
    open_desk: OpenDesk, tmp_path: object
) -> None:
    landed = []
    for name in ("one", "two"):
        desk = await open_desk(seed=5, data_directory=f"{tmp_path}/{name}")
        await desk.inject(percent=50, drop=pb.DropTransaction())
        raws = [await desk.swap("raydium", ONE_SOL // 10, memo=f"oee:{n}:1:key") for n in range(12)]
        sent = [(await desk.send(raw)).signature for raw in raws]
        await desk.clear()
        await desk.land(await desk.swap("raydium", ONE_SOL // 10, memo="last"))
        landed.append([swap.memo for swap in await desk.swaps()])
        assert len(set(sent)) == 12

    one, two = landed
    assert one == two
    assert 1 < len(one) < 13
