"""Every check of a venue passes the simulator's venues, and fails one that is wrong in its way."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from engine.v1 import venue_pb2 as pb
from oee.conformance import arithmetic, builds, pools, quotes
from oee.conformance.check import Outcome, examine
from oee.conformance.suite import VENUE_CHECKS
from oee.conformance.venue import TRIES, Venue
from tests.oee.conformance.conftest import LISTEN_SECONDS, KeptBack, Mistake, World, Wrong, failed
from tests.oee.conformance.venue_mistakes import (
    LARGEST,
    STRANGER,
    WRONG,
    each,
    each_quote,
    little_for_the_largest,
    setting,
    the_largest_for_the_largest,
)

# One listens for seconds, and the arithmetic is always wrong as well where a quote is.
SLOW = (pools.a_watch_is_never_silent, *(check.run for check in arithmetic.CHECKS))
QUICK = [check for check in VENUE_CHECKS if check.run not in SLOW]


@pytest.mark.parametrize("name", ["raydium", "meteora"])
async def test_the_simulators_venues_keep_every_promise(name: str, world: World) -> None:
    venue = Venue(await world.channel(world.venue(name)), world.wallet, LISTEN_SECONDS)

    found = [finding async for finding in examine(venue, VENUE_CHECKS)]

    assert {f.check: f.words for f in found if f.outcome is Outcome.FAILED} == {}
    assert {f.check for f in found if f.outcome is Outcome.NOT_CHECKED} <= {
        "states-can-be-read",
        "quotes-are-what-the-engine-computes",
    }


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("mistake", WRONG)
async def test_a_venue_that_is_wrong_fails_the_check_that_says_so(
    mistake: str, still_world: World
) -> None:
    venue = await still_world.wrong_venue(WRONG[mistake].wrong)

    found = await failed(venue, QUICK)

    assert WRONG[mistake].is_told(found), found


def test_every_check_has_a_venue_that_breaks_it() -> None:
    assert {mistake.check for mistake in WRONG.values()} == {check.name for check in QUICK}


class MovedOn:
    """The first so many promises of too much are of a later slot than what was listed."""

    def __init__(self, promises: int) -> None:
        self._left = promises

    def __call__(self, request: pb.QuoteRequest, response: pb.QuoteResponse) -> None:
        the_largest_for_the_largest(request, response)
        for result in response.results:
            if result.quote.amount_out == LARGEST and self._left:
                self._left -= 1
                result.quote.slot += 1_000


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("promises", "outcome"), [(1, Outcome.FAILED), (TRIES, Outcome.NOT_CHECKED)]
)
async def test_a_promise_of_another_state_than_the_listed_one_is_asked_for_again(
    promises: int, outcome: Outcome, still_world: World
) -> None:
    venue = await still_world.wrong_venue(Wrong("Quote", MovedOn(promises), little_for_the_largest))
    [check] = [check for check in quotes.CHECKS if check.name == "too-much-is-not-promised"]

    [finding] = [finding async for finding in examine(venue, [check])]

    assert finding.outcome is outcome, finding


TOLD = "what-pools-tell-builds-the-same"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("venue", "told", "outcome"),
    [
        ("raydium", setting(kind="meteora_damm_v2"), Outcome.FAILED),
        ("meteora", setting(mint_a=STRANGER), Outcome.FAILED),
        ("raydium", setting(market=STRANGER), Outcome.OK),
        ("raydium", lambda pool: pool.ClearField("config"), Outcome.NOT_CHECKED),
        ("raydium", setting(kind=""), Outcome.NOT_CHECKED),
    ],
    ids=["another kind", "another first mint", "what it does not need", "no config", "no kind"],
)
async def test_what_a_pool_tells_is_held_against_what_the_venue_builds(
    venue: str, told: Callable[[Any], object], outcome: Outcome, still_world: World
) -> None:
    def answer(request: Any, response: pb.WatchPoolsResponse) -> None:
        for pool in response.pools:
            if not pool.market:
                told(pool)

    subject = await still_world.wrong_venue(Wrong("WatchPools", answer), venue=venue)
    [check] = [check for check in builds.CHECKS if check.name == TOLD]

    [finding] = [finding async for finding in examine(subject, [check])]

    assert finding.outcome is outcome, finding


def telling_states(request: Any, response: pb.ListPoolsResponse | pb.WatchPoolsResponse) -> None:
    """The simulated pools are those of Raydium's cp-swap, as long as nobody trades in them."""
    for pool in response.pools:
        if pool.kind:
            continue
        pool.kind = "raydium_cpmm"
        pool.state = json.dumps(
            {
                "vault_0": pool.reserve_a,
                "vault_1": pool.reserve_b,
                "trade_fee_rate": pool.fee_ppm,
                "protocol_fee_rate": 120_000,
                "fund_fee_rate": 40_000,
            }
        )


def of_a_kind(query: pb.QuoteQuery, quote: pb.Quote) -> None:
    quote.kind = quote.kind or "raydium_cpmm"


def one_unit_more(query: pb.QuoteQuery, quote: pb.Quote) -> None:
    quote.amount_out += 1


def mixed_up(request: Any, response: Any) -> None:
    """Each pool has the state of the next one of its kind."""
    for kind in {pool.kind for pool in response.pools}:
        alike = [pool for pool in response.pools if pool.kind == kind]
        states = [pool.state for pool in alike]
        for pool, state in zip(alike, states[1:] + states[:1], strict=True):
            pool.state = state


OPEN_STATES = (
    Wrong("ListPools", telling_states),
    Wrong("WatchPools", telling_states),
    Wrong("Quote", each_quote(of_a_kind)),
)
WRONG_ARITHMETIC = {
    "one base unit more": (
        [Wrong("Quote", each_quote(one_unit_more))],
        "quotes-are-what-the-engine-computes",
    ),
    "the state of another pool": (
        [Wrong("ListPools", mixed_up), Wrong("WatchPools", mixed_up)],
        "quotes-are-what-the-engine-computes",
    ),
    "a quote of no kind": (
        [Wrong("Quote", each_quote(lambda q, a: a.ClearField("kind")))],
        "quotes-are-what-the-engine-computes",
    ),
    "a kind that nobody knows": (
        [Wrong("ListPools", each("pools", setting(kind="orca_whirlpool")))],
        "states-can-be-read",
    ),
    "a state without a kind": (
        [Wrong("ListPools", each("pools", setting(kind="")))],
        "states-can-be-read",
    ),
    "a state that is no JSON": (
        [Wrong("ListPools", each("pools", setting(state="{")))],
        "states-can-be-read",
    ),
    "a state with a field missing": (
        [Wrong("ListPools", each("pools", setting(state="{}")))],
        "states-can-be-read",
    ),
}


async def test_states_that_are_told_are_held_against_the_quotes(world: World) -> None:
    venue = await world.wrong_venue(*OPEN_STATES)

    found = [finding async for finding in examine(venue, arithmetic.CHECKS)]

    assert [finding for finding in found if finding.outcome is not Outcome.OK] == []


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("wrong", WRONG_ARITHMETIC)
async def test_a_quote_that_is_not_what_its_state_gives_is_told(
    wrong: str, still_world: World
) -> None:
    spoilt, check = WRONG_ARITHMETIC[wrong]

    found = await failed(await still_world.wrong_venue(*OPEN_STATES, *spoilt), arithmetic.CHECKS)

    assert check in found


def kept_back(request: Any, response: pb.WatchPoolsResponse) -> None:
    """Only what changed is told."""
    if not response.pools:
        raise KeptBack


class Earlier:
    """Every message is of an earlier slot than the one before."""

    def __init__(self) -> None:
        self._slot = 10**9

    def __call__(self, request: Any, response: pb.WatchPoolsResponse) -> None:
        self._slot -= 1
        response.slot = self._slot


PULSE = "a-watch-is-never-silent"
WRONG_PULSES = {
    "silence": Mistake(Wrong("WatchPools", kept_back), PULSE, "silence"),
    "no clock": Mistake(Wrong("WatchPools", lambda q, a: setattr(a, "time", 0)), PULSE, "time 0"),
    "no slot": Mistake(Wrong("WatchPools", lambda q, a: setattr(a, "slot", 0)), PULSE, "slot 0"),
    "backwards": Mistake(Wrong("WatchPools", Earlier()), PULSE, "or a later one"),
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("mistake", WRONG_PULSES)
async def test_a_watch_that_may_be_stale_is_told(mistake: str, still_world: World) -> None:
    venue = await still_world.wrong_venue(WRONG_PULSES[mistake].wrong)

    found = await failed(venue, [check for check in pools.CHECKS if check.name == PULSE])

    assert WRONG_PULSES[mistake].is_told(found), found


FAULTS = {
    "drain": ({"misbuild": {"kind": "MISBUILD_KIND_DRAIN"}}, "a call of"),
    "lower floor": ({"misbuild": {"kind": "MISBUILD_KIND_LOWER_FLOOR"}}, "min_amount_out"),
    "other pool": ({"misbuild": {"kind": "MISBUILD_KIND_OTHER_POOL"}}, "pool"),
    "more in": ({"misbuild": {"kind": "MISBUILD_KIND_MORE_IN"}}, "amount_in"),
    "other recipient": ({"misbuild": {"kind": "MISBUILD_KIND_OTHER_RECIPIENT"}}, "account"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_treacherous_swap_is_not_the_one_that_was_asked_for(
    fault: str, world: World
) -> None:
    effect, said = FAULTS[fault]
    await world.inject(venue="raydium", **effect)
    venue = Venue(await world.channel(world.venue()), world.wallet, LISTEN_SECONDS)

    found = await failed(venue, builds.CHECKS)

    assert said in str(found["the-engine-reads-the-swap-back"].words)


async def test_a_method_that_is_not_served_is_named_with_the_remedy(world: World) -> None:
    await world.inject(venue="raydium", call="BuildSwap", fail={"code": "UNIMPLEMENTED"})
    venue = Venue(await world.channel(world.venue()), world.wallet, LISTEN_SECONDS)

    found = await failed(venue, builds.CHECKS)

    assert found.keys() == {check.name for check in builds.CHECKS}
    assert {finding.words["right"] for finding in found.values()} <= {
        "serve this method",
        "refuse the whole call with INVALID_ARGUMENT, so that nobody takes it for an outage",
    }


async def test_without_a_pool_nothing_else_can_be_checked(world: World) -> None:
    await world.inject(venue="raydium", call="ListPools", fail={"code": "INTERNAL"})
    venue = Venue(await world.channel(world.venue()), world.wallet, LISTEN_SECONDS)

    found = [finding async for finding in examine(venue, quotes.CHECKS)]

    assert {finding.outcome for finding in found} == {Outcome.NOT_CHECKED}
