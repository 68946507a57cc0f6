"""Executor and settlement against a real store, on a chain whose blocks the test makes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from msgspec.structs import replace
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.system_program import TransferParams, transfer

from engine import relay
from engine.accounts import Accounts
from engine.attempt import Leftover, Resolution
from engine.bus import Bus
from engine.chain import Blockhash, Commitment, TransactionReading
from engine.errors import Refused, StaleOrder
from engine.instructions.swap import VENUE_OF_KIND
from engine.lifecycle import EventType, Status
from engine.order import Order
from engine.relay import Relay
from engine.route import Leg, Route, RouteDecision
from engine.store import Store
from engine.trading import TradingState, TradingSwitch
from engine.v1 import venue_pb2
from engine.venue import BuiltSwap
from executor_svc import blockhash, executor
from executor_svc.blockhash import RecentBlockhash
from executor_svc.executor import Executor
from executor_svc.settlement import Settlement
from router_svc.router import Router
from tests import builders, swaps
from tests.engine.test_store import execute, facts, read
from tests.fakes import FakeChain, FakeVenue, asking

WALLET = Keypair.from_seed(bytes([3] * 32))


FLOOR = 200_000_000


def leg(kind: str, mints: str, amount_in: int, floor: int) -> Leg:
    """A leg in a pool of this kind; mints as "SOL USDC"."""
    mint_in, mint_out = (getattr(builders, symbol) for symbol in mints.split())
    pool = str(swaps.pool_of(kind)[0])
    return Leg(VENUE_OF_KIND[kind], pool, kind, mint_in, mint_out, amount_in, floor + 9, floor)


SPLIT = (
    leg("raydium_cpmm", "SOL USDC", 900_000_000, 130_000_000),
    leg("meteora_damm_v2", "SOL USDC", 600_000_000, 70_000_000),
)
TWO_HOPS = (
    leg("raydium_cpmm", "SOL RAY", 1_500_000_000, 80_000_000),
    leg("meteora_damm_v2", "RAY USDC", 80_000_000, FLOOR),
)


class Desk:
    """Router, executor and settlement as one hand; `again` is a process started anew."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.chain = FakeChain()
        self.venue = FakeVenue("raydium")
        self.other = FakeVenue("meteora", kind="meteora_damm_v2")
        self.again()

    def again(self) -> None:
        relay = Relay(self.store, Bus())
        venues = {"raydium": self.venue}
        self.switch, self.accounts = TradingSwitch(self.store), Accounts(self.store)
        self.router = Router(
            self.store, relay, asking(self.store, venues), self.switch, self.accounts
        )
        builders_of_swaps = {"raydium": self.venue, "meteora": self.other}
        self.executor = Executor(
            self.store, relay, builders_of_swaps, self.chain, WALLET, self.switch
        )
        self.settlement = Settlement(self.store, relay, self.chain, self.executor)
        self.relay = relay

    async def routed(self, **request: Any) -> Order:
        order = (await self.store.add(builders.new_order(**request))).order
        await self.router.route(order.order_id)
        return await read(self.store, order)

    async def along(self, *legs: Leg, **request: Any) -> Order:
        """An order whose route is these legs."""
        order = (await self.store.add(builders.new_order(**request))).order
        quoted = sum(leg.quoted_amount_out for leg in legs if leg.mint_out == builders.USDC)
        decision = RouteDecision((), "for the test", Route(legs, quoted), FLOOR)
        order = await self.relay.commit(order.start_routing())
        return await self.relay.commit(order.choose_route(decision))

    async def submitted(self, **request: Any) -> Order:
        order = await self.routed(**request)
        await self.executor.execute(order.order_id)
        return await read(self.store, order)

    async def settled(self, order: Order, *, rounds: int = 1) -> Order:
        for _ in range(rounds):
            await self.settlement.settle([await read(self.store, order)])
        return await read(self.store, order)

    async def retried(self, order: Order) -> Order:
        """The back-off is over: route and execute again."""
        await execute(self.store, "UPDATE orders SET not_before = now() WHERE not_before > now()")
        await self.router.route(order.order_id)
        await self.executor.execute(order.order_id)
        return await read(self.store, order)

    async def types(self, order: Order) -> list[EventType]:
        return [event.type for event in await self.store.events([(order.order_id, 0)], 100)]


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)


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
    await desk.executor.execute(order.order_id)
    desk.chain.advance(4)
    await desk.settlement.settle_landed([await read(desk.store, order)])

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


async def test_one_venue_that_does_not_build_is_enough_to_sign_nothing(desk: Desk) -> None:
    order = await desk.along(*SPLIT)
    desk.other.refusal = Refused("VENUE_UNAVAILABLE", "meteora is not available")

    await desk.executor.execute(order.order_id)

    order = await read(desk.store, order)
    assert (order.status, order.retries, order.attempts) == (Status.ROUTING, 1, ())
    assert order.failure is not None
    assert order.failure.message == "meteora is not available"


@pytest.mark.parametrize(
    ("legs", "reason"),
    [
        ((SPLIT[0], replace(SPLIT[1], min_amount_out=69_999_999)), "ROUTE_REFUSED"),
        ((SPLIT[0], replace(SPLIT[1], amount_in=600_000_001)), "ROUTE_REFUSED"),
        ((TWO_HOPS[0], replace(TWO_HOPS[1], amount_in=80_000_001)), "ROUTE_REFUSED"),
        ((SPLIT[0], replace(SPLIT[1], kind="raydium_cpmm")), "VENUE_ANSWER_INVALID"),
        ((SPLIT[0], replace(SPLIT[1], kind="meteora_dlmm")), "INSTRUCTIONS_REFUSED"),
        ((*SPLIT[:1] * 3,), "ROUTE_REFUSED"),
    ],
    ids=[
        "a floor too low",
        "too much in",
        "a middle token not sure to be there",
        "a kind that is another venue's",
        "a kind that is not the pool's",
        "one leg thrice",
    ],
)
async def test_legs_that_do_not_keep_what_was_agreed_are_never_signed(
    desk: Desk, legs: tuple[Leg, ...], reason: str
) -> None:
    order = await desk.along(*legs)

    await desk.executor.execute(order.order_id)

    order = await read(desk.store, order)
    assert (order.status, order.attempts, desk.chain.sent) == (Status.ROUTING, (), [])
    assert order.failure is not None
    assert order.failure.reason == reason


async def test_a_route_at_a_venue_that_the_order_does_not_allow_is_never_signed(
    desk: Desk,
) -> None:
    order = await desk.along(*SPLIT, venues=("raydium",))

    await desk.executor.execute(order.order_id)

    order = await read(desk.store, order)
    assert (order.status, order.attempts, desk.chain.sent) == (Status.ROUTING, (), [])
    assert order.failure is not None
    assert order.failure.reason == "ROUTE_REFUSED"
    assert "at meteora, which the order does not allow" in order.failure.message


async def test_a_venue_that_is_not_configured_ends_the_order(desk: Desk) -> None:
    order = await desk.along(SPLIT[0], replace(SPLIT[1], venue="orca"))

    await desk.executor.execute(order.order_id)

    order = await read(desk.store, order)
    assert order.status is Status.FAILED
    assert order.failure is not None
    assert order.failure.reason == "VENUE_UNKNOWN"


async def test_the_signature_is_on_record_before_the_first_byte_leaves(desk: Desk) -> None:
    on_record: list[int] = []
    send = desk.chain.send

    async def look_then_send(transaction: bytes) -> None:
        attempts = [
            a.transaction
            for o in await desk.store.list_orders("default", limit=9)
            for a in o.attempts
        ]
        on_record.append(attempts.count(transaction))
        await send(transaction)

    desk.chain.send = look_then_send  # type: ignore[method-assign]
    await desk.submitted()

    assert on_record == [1]


async def test_many_executors_on_one_order_make_one_attempt(desk: Desk) -> None:
    order = await desk.routed()

    outcomes = await asyncio.gather(
        *(desk.executor.execute(order.order_id) for _ in range(8)), return_exceptions=True
    )

    assert {type(outcome) for outcome in outcomes} <= {type(None), StaleOrder}
    assert len(set(desk.chain.sent)) == 1
    assert len((await read(desk.store, order)).attempts) == 1


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
    desk.chain.status_lag = 19

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


async def test_hints_of_the_chain_settle_an_order_without_waiting_for_its_next_look(
    desk: Desk,
) -> None:
    order = await desk.submitted()
    await execute(desk.store, "UPDATE orders SET next_check_at = now() + interval '1 h'")
    desk.chain.advance(4)

    loops = [desk.settlement.listen(), desk.settlement.settle_hinted()]
    running = [asyncio.create_task(loop) for loop in loops]
    async with asyncio.timeout(20):
        while not (await read(desk.store, order)).settled:
            await asyncio.wait(running, timeout=0.05)
    for task in running:
        task.cancel()

    assert desk.executor.signed == {}


async def test_what_is_final_at_first_sight_is_settled_with_the_commit_that_confirms_it(
    desk: Desk,
) -> None:
    order = await desk.submitted()
    desk.chain.advance(4)

    await desk.settlement.settle_landed([await read(desk.store, order)])

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

    await desk.settlement.settle_landed([bad, good])

    assert (await read(desk.store, good)).settled
    assert (await read(desk.store, bad)).status is Status.SUBMITTED


async def test_an_absent_transaction_proves_nothing_to_those_who_read_only_what_landed(
    desk: Desk,
) -> None:
    desk.chain.drops = True
    order = await desk.submitted()
    desk.chain.advance(20)

    await desk.settlement.settle_landed([await read(desk.store, order)])

    order = await read(desk.store, order)
    assert (order.status, order.sequence) == (Status.SUBMITTED, 5)


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


async def test_too_little_in_the_wallet_fails_at_once_and_signs_nothing(desk: Desk) -> None:
    desk.chain.refusal = Refused("INSUFFICIENT_FUNDS", "the wallet holds 1", permanent=True)

    order = await desk.submitted()

    assert (order.status, order.attempts, order.retries) == (Status.FAILED, (), 0)
    assert desk.chain.sent == []


async def test_a_venue_that_cannot_build_is_retried_from_routing(desk: Desk) -> None:
    order = await desk.routed()
    desk.venue.refusal = Refused("VENUE_UNAVAILABLE", "raydium is not available")

    await desk.executor.execute(order.order_id)

    order = await read(desk.store, order)
    assert (order.status, order.retries, order.route) == (Status.ROUTING, 1, None)
    assert order.backing_off


class SlowVenue(FakeVenue):
    """Builds once it is let."""

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(name, kind=kind)
        self.asked, self.let = asyncio.Event(), asyncio.Event()
        self.order: Order

    async def build(self, swap: venue_pb2.SwapOrder) -> BuiltSwap:
        self.asked.set()
        await self.let.wait()
        return await super().build(swap)


async def two_building(desk: Desk) -> tuple[SlowVenue, SlowVenue, list[asyncio.Task[None]]]:
    """Two venues that build, each for an order of its own, and the tasks that execute them."""
    desk.venue = raydium = SlowVenue("raydium", "raydium_cpmm")
    desk.other = meteora = SlowVenue("meteora", "meteora_damm_v2")
    desk.again()
    executing = []
    for venue in (raydium, meteora):
        venue.order = await desk.along(leg(venue.kind, "SOL USDC", 1_500_000_000, FLOOR))
        executing.append(asyncio.create_task(desk.executor.execute(venue.order.order_id)))
        async with asyncio.timeout(10):
            await venue.asked.wait()
    return raydium, meteora, executing


async def test_swaps_that_two_venues_build_go_on_together(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "PATIENCE_SECONDS", 3600)
    monkeypatch.setattr(relay, "ANNOUNCE_AFTER_SECONDS", 3600)  # a statement of its own
    raydium, meteora, executing = await two_building(desk)

    raydium.let.set()
    for _ in range(20):  # far more than it takes to be back
        await asyncio.sleep(0)
    meteora.let.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*executing)

    signed = [await read(desk.store, venue.order) for venue in (raydium, meteora)]
    assert [order.status for order in signed] == [Status.SUBMITTED] * 2
    # One statement recorded both: its time is theirs.
    assert len({order.update_time for order in signed}) == 1


async def test_a_venue_that_takes_its_time_to_build_holds_up_no_other(desk: Desk) -> None:
    raydium, meteora, executing = await two_building(desk)

    raydium.let.set()
    async with asyncio.timeout(10):
        await executing[0]
        assert (await read(desk.store, raydium.order)).status is Status.SUBMITTED
        assert not executing[1].done()
        meteora.let.set()
        await executing[1]


def draining(built: list[Instruction]) -> list[Instruction]:
    thief = Keypair.from_seed(bytes([66] * 32)).pubkey()
    stolen = TransferParams(from_pubkey=WALLET.pubkey(), to_pubkey=thief, lamports=10**9)
    return [*built, transfer(stolen)]


@pytest.mark.parametrize("garble", [draining, lambda built: built * 2, lambda built: []])
async def test_instructions_that_were_not_agreed_are_never_signed(
    desk: Desk, garble: Callable[[list[Instruction]], list[Instruction]]
) -> None:
    desk.venue.garble = garble

    order = await desk.submitted()

    assert (order.status, order.attempts) == (Status.ROUTING, ())
    assert order.failure is not None
    assert order.failure.reason == "INSTRUCTIONS_REFUSED"
    assert desk.chain.sent == []


async def test_a_cancel_between_building_and_signing_wins(desk: Desk) -> None:
    order = await desk.routed()
    simulate = desk.chain.simulate

    async def cancel_then_simulate(transaction: bytes) -> None:
        # Work that takes long is announced, which may come before the cancel or after it.
        for _ in range(2):
            with suppress(StaleOrder):
                await desk.relay.commit((await read(desk.store, order)).cancel())
                break
        await simulate(transaction)

    desk.chain.simulate = cancel_then_simulate  # type: ignore[method-assign]
    with pytest.raises(StaleOrder):
        await desk.executor.execute(order.order_id)

    assert (await read(desk.store, order)).status is Status.CANCELLED
    assert desk.chain.sent == []


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


async def test_while_trading_is_halted_orders_wait_without_using_up_tries(desk: Desk) -> None:
    routed = await desk.routed()
    accepted = (await desk.store.add(builders.new_order())).order
    await desk.switch.set(TradingState.HALTED, "why", "")
    desk.venue.refusal = Refused("VENUE_UNAVAILABLE", "nobody may ask it now")

    for order in (routed, accepted):
        await desk.router.route(order.order_id)
        await desk.executor.execute(order.order_id)
        assert facts(await read(desk.store, order)) == facts(order)
    desk.venue.refusal = None
    await desk.switch.set(TradingState.ACTIVE, "", "")
    for order in (routed, accepted):
        await desk.router.route(order.order_id)
        await desk.executor.execute(order.order_id)
        assert (await read(desk.store, order)).status is Status.SUBMITTED


async def test_an_executor_that_has_not_seen_the_halt_signs_nothing_all_the_same(
    desk: Desk,
) -> None:
    order = await desk.routed()
    await TradingSwitch(desk.store).set(TradingState.HALTED, "why", "")
    with pytest.raises(StaleOrder):
        await desk.executor.execute(order.order_id)
    order = await read(desk.store, order)
    assert (desk.chain.sent, order.attempts, order.retries) == ([], (), 0)


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
