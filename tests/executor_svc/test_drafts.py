"""What the executor signs of a route, with hints and with what venues build."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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
from engine.attempt import Resolution
from engine.errors import Refused
from engine.instructions import raydium
from engine.instructions.swap import KIND_OF_PROGRAM, LAYOUTS, swap_instruction
from engine.instructions.terms import SwapTerms
from engine.lifecycle import Status
from engine.programs import RAYDIUM_CPMM
from engine.route import Leg
from executor_svc import drafts
from tests import builders, swaps
from tests.engine.test_store import read
from tests.executor_svc.desk import FLOOR, WALLET, Desk
from tests.executor_svc.legs import SPLIT, TWO_HOPS, SlowVenue, hinted, leg, silence

ONE_LEG = {kind: leg(kind, "SOL USDC", 1_500_000_000, FLOOR) for kind in swaps.KINDS}


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


async def test_a_venue_that_cannot_build_is_retried_from_routing(desk: Desk) -> None:
    order = await desk.routed()
    desk.venue.refusal = Refused("VENUE_UNAVAILABLE", "raydium is not available")

    await desk.executor.execute([order.order_id])

    order = await read(desk.store, order)
    assert (order.status, order.retries, order.route) == (Status.ROUTING, 1, None)
    assert order.backing_off


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
    monkeypatch.setattr(drafts, "PATIENCE_SECONDS", 3600)
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
