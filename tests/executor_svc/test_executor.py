"""The executor against a real store, on a chain whose blocks the test makes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from engine import relay
from engine.attempt import Leftover, Resolution
from engine.chain import Blockhash, No
from engine.errors import Refused, StaleOrder, StoreUnavailable
from engine.instructions import raydium
from engine.instructions.swap import KIND_OF_PROGRAM, LAYOUTS, VENUE_OF_KIND, swap_instruction
from engine.instructions.terms import SwapTerms
from engine.lifecycle import EventType, Status
from engine.order import Order, Transition
from engine.programs import RAYDIUM_CPMM
from engine.route import Leg
from engine.trading import TradingState, TradingSwitch
from engine.v1 import venue_pb2
from engine.venue import BuiltSwap
from executor_svc import blockhash, executor
from executor_svc.blockhash import RecentBlockhash
from tests import builders, swaps
from tests.engine.test_store import facts, read
from tests.executor_svc.desk import FLOOR, WALLET, Desk
from tests.fakes import FakeChain, FakeVenue


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


async def test_one_venue_that_does_not_build_is_enough_to_sign_nothing(desk: Desk) -> None:
    order = await desk.along(*SPLIT)
    desk.other.refusal = Refused("VENUE_UNAVAILABLE", "meteora is not available")

    await desk.executor.execute([order.order_id])

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

    await desk.executor.execute([order.order_id])

    order = await read(desk.store, order)
    assert (order.status, order.attempts, desk.chain.sent) == (Status.ROUTING, (), [])
    assert order.failure is not None
    assert order.failure.reason == reason


async def test_a_route_at_a_venue_that_the_order_does_not_allow_is_never_signed(
    desk: Desk,
) -> None:
    order = await desk.along(*SPLIT, venues=("raydium",))

    await desk.executor.execute([order.order_id])

    order = await read(desk.store, order)
    assert (order.status, order.attempts, desk.chain.sent) == (Status.ROUTING, (), [])
    assert order.failure is not None
    assert order.failure.reason == "ROUTE_REFUSED"
    assert "at meteora, which the order does not allow" in order.failure.message


async def test_a_venue_that_is_not_configured_ends_the_order(desk: Desk) -> None:
    order = await desk.along(SPLIT[0], replace(SPLIT[1], venue="orca"))

    await desk.executor.execute([order.order_id])

    order = await read(desk.store, order)
    assert order.status is Status.FAILED
    assert order.failure is not None
    assert order.failure.reason == "VENUE_UNKNOWN"


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


async def test_a_venue_that_cannot_build_is_retried_from_routing(desk: Desk) -> None:
    order = await desk.routed()
    desk.venue.refusal = Refused("VENUE_UNAVAILABLE", "raydium is not available")

    await desk.executor.execute([order.order_id])

    order = await read(desk.store, order)
    assert (order.status, order.retries, order.route) == (Status.ROUTING, 1, None)
    assert order.backing_off


# ── swaps that no venue is asked for ──────────────────────────────────────────────────────────


def hinted(leg: Leg, **changes: Any) -> Leg:
    """The leg with the hints of its pool, but for the changes."""
    return replace(leg, hints=replace(swaps.hints(swaps.parties(leg.kind)), **changes))


def silence(desk: Desk, *venues: FakeVenue) -> None:
    """These venues build nothing."""
    for venue in venues or (desk.venue, desk.other):
        venue.refusal = Refused("VENUE_UNAVAILABLE", f"{venue.name} is not available")


def signed_swaps(raw: bytes) -> list[tuple[list[Pubkey], bytes]]:
    """Accounts and data of each swap in a transaction."""
    message = VersionedTransaction.from_bytes(raw).message
    keys = message.account_keys
    return [
        ([keys[account] for account in each.accounts], each.data)
        for each in message.instructions
        if keys[each.program_id_index] in KIND_OF_PROGRAM
    ]


@pytest.mark.parametrize("zero_for_one", [True, False], ids=["down", "up"])
@pytest.mark.parametrize("kind", swaps.KINDS)
async def test_the_first_try_asks_no_venue_for_a_swap_that_the_hints_build(
    desk: Desk, kind: str, zero_for_one: bool
) -> None:
    agreed = leg(kind, "SOL USDC", 1_500_000_000, FLOOR)
    config = 7 if LAYOUTS[kind].by_config else 0
    order = await desk.along(hinted(agreed, zero_for_one=zero_for_one, config=config))
    silence(desk)

    await desk.executor.execute([order.order_id])

    order = await read(desk.store, order)
    assert (order.status, order.retries) == (Status.SUBMITTED, 0)
    parties = swaps.parties(kind, wallet=WALLET.pubkey())
    parties = parties._replace(zero_for_one=zero_for_one, config=config)
    expected = swap_instruction(SwapTerms(parties, agreed.amount_in, FLOOR))
    accounts = [account.pubkey for account in expected.accounts]
    assert signed_swaps(desk.chain.sent[0]) == [(accounts, expected.data)]


async def test_what_is_signed_goes_on_record_without_hints(desk: Desk) -> None:
    order = await desk.along(*[hinted(leg) for leg in SPLIT])
    silence(desk)

    await desk.executor.execute([order.order_id])

    order = await read(desk.store, order)
    [attempt] = order.attempts
    assert attempt.legs == SPLIT
    assert order.route is not None
    assert order.route.legs == SPLIT
    *_, signed = await desk.store.events([(order.order_id, 0)], 100)
    assert signed.detail.attempt is not None
    assert signed.detail.attempt.legs == SPLIT


@pytest.mark.parametrize("missing", [0, 1])
async def test_of_a_route_only_the_legs_without_hints_are_built_by_their_venues(
    desk: Desk, missing: int
) -> None:
    legs = [hinted(leg) for leg in SPLIT]
    legs[missing] = SPLIT[missing]
    order = await desk.along(*legs)
    asked, not_asked = [desk.venue, desk.other][:: -1 if missing else 1]
    silence(desk, not_asked)

    await desk.executor.execute([order.order_id])

    order = await read(desk.store, order)
    assert [attempt.legs for attempt in order.attempts] == [SPLIT]

    # What it builds is held against what was agreed, as ever.
    asked.garble = draining
    other = await desk.along(*legs)
    await desk.executor.execute([other.order_id])
    other = await read(desk.store, other)
    assert (other.status, other.attempts) == (Status.ROUTING, ())
    assert other.failure is not None
    assert other.failure.reason == "INSTRUCTIONS_REFUSED"


async def test_after_a_retry_every_leg_is_its_venues_to_build(desk: Desk) -> None:
    order = await desk.along(hinted(SPLIT[0]), hinted(SPLIT[1]))
    desk.chain.refusal = Refused("PROGRAM_FAILED", "it goes through another array")
    await desk.executor.execute([order.order_id])
    order = await read(desk.store, order)
    assert (order.status, order.retries, order.attempts) == (Status.ROUTING, 1, ())
    desk.chain.refusal = None

    await desk.along_again(order, hinted(SPLIT[0], config=99), hinted(SPLIT[1]))
    silence(desk, desk.other)
    await desk.executor.execute([order.order_id])
    order = await read(desk.store, order)
    assert (order.status, order.retries, order.attempts) == (Status.ROUTING, 2, ())
    desk.other.refusal = None

    await desk.along_again(order, hinted(SPLIT[0], config=99), hinted(SPLIT[1]))
    await desk.executor.execute([order.order_id])
    order = await read(desk.store, order)
    assert [attempt.legs for attempt in order.attempts] == [SPLIT]
    # The venue has built with the config that it knows.
    config = raydium.amm_config(RAYDIUM_CPMM, 2)
    assert config in signed_swaps(desk.chain.sent[0])[0][0]


async def test_after_an_attempt_every_leg_is_its_venues_to_build(desk: Desk) -> None:
    desk.chain.reverts = "PROGRAM_FAILED: it goes through another array"
    order = await desk.along(hinted(SPLIT[0]), hinted(SPLIT[1]))
    await desk.executor.execute([order.order_id])
    desk.chain.advance(4)
    order = await desk.settled(order)
    assert [attempt.resolution for attempt in order.attempts] == [Resolution.LANDED_WITH_ERROR]

    await desk.along_again(order, *map(hinted, SPLIT))
    silence(desk)
    await desk.executor.execute([order.order_id])

    order = await read(desk.store, order)
    assert (order.retries, len(order.attempts)) == (2, 1)
    assert order.failure is not None
    assert order.failure.reason == "VENUE_UNAVAILABLE"


ONE_LEG = {kind: leg(kind, "SOL USDC", 1_500_000_000, FLOOR) for kind in swaps.KINDS}


@pytest.mark.parametrize(
    ("kind", "wrong", "reason"),
    [
        ("raydium_amm_v4", {"market": "no address"}, "ROUTE_REFUSED"),
        ("raydium_amm_v4", {"market": ""}, "ROUTE_REFUSED"),
        ("raydium_amm_v4", {"market": None}, "INSTRUCTIONS_REFUSED"),
        ("raydium_amm_v4", {"market": builders.SOL}, "INSTRUCTIONS_REFUSED"),
        ("raydium_cpmm", {"config": 2**16}, "INSTRUCTIONS_REFUSED"),
        ("raydium_cpmm", {"config": -1}, "INSTRUCTIONS_REFUSED"),
        ("raydium_clmm", {"arrays": (2**31,)}, "INSTRUCTIONS_REFUSED"),
        ("meteora_dlmm", {"arrays": (-(2**63) - 1,)}, "INSTRUCTIONS_REFUSED"),
        ("meteora_dlmm", {"arrays": tuple(range(30))}, "TRANSACTION_TOO_LARGE"),
        ("meteora_dlmm", {"arrays": tuple(range(300))}, "INSTRUCTIONS_REFUSED"),
    ],
)
async def test_hints_that_lead_to_no_swap_cost_a_try_and_the_next_one_asks(
    desk: Desk, kind: str, wrong: dict[str, Any], reason: str
) -> None:
    agreed = ONE_LEG[kind]
    venue = desk.venue if agreed.venue == "raydium" else desk.other
    venue.kind = kind
    order = await desk.along(hinted(agreed, **wrong))

    await desk.executor.execute([order.order_id])

    order = await read(desk.store, order)
    assert (order.status, order.retries, desk.chain.sent) == (Status.ROUTING, 1, [])
    assert order.failure is not None
    assert order.failure.reason == reason

    await desk.along_again(order, hinted(agreed, **wrong))
    await desk.executor.execute([order.order_id])
    assert [a.legs for a in (await read(desk.store, order)).attempts] == [(agreed,)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"venue": "orca"}, "VENUE_UNKNOWN"),
        ({"kind": "meteora_damm_v2"}, "VENUE_ANSWER_INVALID"),
        ({"kind": "orca_whirlpool"}, "VENUE_ANSWER_INVALID"),
        ({"pool": "no address"}, "ROUTE_REFUSED"),
        ({"min_amount_out": FLOOR - 1}, "ROUTE_REFUSED"),
    ],
)
async def test_hints_change_nothing_of_what_a_leg_has_to_keep(
    desk: Desk, changes: dict[str, Any], reason: str
) -> None:
    order = await desk.along(replace(hinted(ONE_LEG["raydium_cpmm"]), **changes))

    await desk.executor.execute([order.order_id])

    order = await read(desk.store, order)
    assert (order.attempts, desk.chain.sent) == ((), [])
    assert order.failure is not None
    assert order.failure.reason == reason


# ── orders of one hint ────────────────────────────────────────────────────────────────────────


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


async def two_building(desk: Desk) -> tuple[SlowVenue, SlowVenue, list[asyncio.Task[list[UUID]]]]:
    """Two venues that build, each for an order of its own, and the tasks that execute them."""
    desk.venue = raydium = SlowVenue("raydium", "raydium_cpmm")
    desk.other = meteora = SlowVenue("meteora", "meteora_damm_v2")
    desk.again()
    executing = []
    for venue in (raydium, meteora):
        venue.order = await desk.along(leg(venue.kind, "SOL USDC", 1_500_000_000, FLOOR))
        executing.append(asyncio.create_task(desk.executor.execute([venue.order.order_id])))
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
