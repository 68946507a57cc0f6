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

MEMO = "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"
STRANGER = "So11111111111111111111111111111111111111113"


def each(items: str, spoil: Callable[[Any], object]) -> Callable[[Any, Any], object]:
    """Spoils each item of an answer."""

    def answer(request: Any, response: Any) -> None:
        for item in getattr(response, items):
            spoil(item)

    return answer


def each_quote(spoil: Callable[[pb.QuoteQuery, pb.Quote], object]) -> Callable[[Any, Any], object]:
    """Spoils each quote of an answer, knowing what was asked."""

    def answer(request: pb.QuoteRequest, response: pb.QuoteResponse) -> None:
        for query, result in zip(request.queries, response.results, strict=False):
            if result.HasField("quote"):
                spoil(query, result.quote)

    return answer


def each_swap(spoil: Callable[[pb.SwapInstructions], object]) -> Callable[[Any, Any], object]:
    def answer(request: Any, response: pb.BuildSwapResponse) -> None:
        for result in response.results:
            if result.HasField("swap"):
                spoil(result.swap)

    return answer


def setting(**fields: Any) -> Callable[[Any], object]:
    """Sets fields of a message."""

    def spoil(message: Any) -> None:
        for name, value in fields.items():
            setattr(message, name, value)

    return spoil


def refusing_as(reason: pb.RefusalReason.ValueType) -> Callable[[Any, Any], object]:
    """Refuses for another reason."""

    def spoil(result: Any) -> None:
        if result.HasField("refusal"):
            result.refusal.reason = reason

    return each("results", spoil)


def all_or_nothing(request: Any, response: Any) -> None:
    """One bad item makes all of them refused."""
    if refused := [result for result in response.results if result.HasField("refusal")]:
        for result in response.results:
            result.CopyFrom(refused[0])


def answering_nonsense(request: Any, response: Any) -> None:
    """Every refusal becomes what the first good item got."""
    good = [result for result in response.results if not result.HasField("refusal")]
    for result in response.results:
        if good and result.HasField("refusal"):
            result.CopyFrom(good[0])


def another_config(request: Any, response: pb.WatchPoolsResponse) -> None:
    """Every pool that has a config tells one that it has not."""
    for pool in response.pools:
        if pool.HasField("config"):
            pool.config = 9


def first_only(items: str) -> Callable[[Any], object]:
    """Only the first 500 items are taken."""

    def spoil(request: Any) -> None:
        del getattr(request, items)[500:]

    return spoil


def reversed_items(items: str) -> Callable[[Any, Any], object]:
    def answer(request: Any, response: Any) -> None:
        told = [
            type(item).FromString(item.SerializeToString()) for item in getattr(response, items)
        ]
        del getattr(response, items)[:]
        getattr(response, items).extend(reversed(told))

    return answer


def forgetting_the_last(items: str) -> Callable[[Any, Any], object]:
    def answer(request: Any, response: Any) -> None:
        del getattr(response, items)[-1:]

    return answer


class Shrinking:
    """Yields less, the more is paid."""

    def __call__(self, query: pb.QuoteQuery, quote: pb.Quote) -> None:
        quote.amount_out = max(1, 10**18 // max(1, query.amount_in))


class GoingBack:
    """Every answer is of an earlier slot than the one before."""

    def __init__(self) -> None:
        self._slot = 10**9

    def __call__(self, request: Any, response: pb.QuoteResponse) -> None:
        self._slot -= 1
        for result in response.results:
            if result.HasField("quote"):
                result.quote.slot = self._slot


class Fresh:
    """No two instructions are the same."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, swap: pb.SwapInstructions) -> None:
        self._count += 1
        swap.instructions[0].data += self._count.to_bytes(4, "big")


def no_impact_for_large_ones(query: pb.QuoteQuery, quote: pb.Quote) -> None:
    quote.price_impact_ppm = 10**6 // (1 + quote.price_impact_ppm)


def with_memo(swap: pb.SwapInstructions) -> None:
    swap.instructions.add(program=MEMO, data=b"hello")


def with_stranger(swap: pb.SwapInstructions) -> None:
    swap.instructions.add(program=STRANGER)


def cosigned(swap: pb.SwapInstructions) -> None:
    swap.instructions[0].accounts[1].signer = True


def unsigned(swap: pb.SwapInstructions) -> None:
    for account in swap.instructions[0].accounts:
        account.signer = False


def duplicated(request: Any, response: pb.ListPoolsResponse) -> None:
    response.pools.insert(0, response.pools[0])


def another_program_for_half(request: Any, response: pb.BuildSwapResponse) -> None:
    """Every other swap of a call goes to somebody else."""
    for result in response.results[1::2]:
        if result.HasField("swap"):
            result.swap.instructions[0].program = STRANGER


def nothing_is_one(request: pb.BuildSwapRequest) -> None:
    for swap in request.swaps:
        swap.amount_in = swap.amount_in or 1


def nothing_is_something(request: pb.QuoteRequest, response: pb.QuoteResponse) -> None:
    for query, result in zip(request.queries, response.results, strict=True):
        if not query.amount_in:
            result.quote.amount_out = 1


def empty(result: Any) -> None:
    result.Clear()


def all_liquidity_refused(request: pb.QuoteRequest, response: pb.QuoteResponse) -> None:
    """What is listed is not quoted in one direction."""
    for query, result in zip(request.queries, response.results, strict=True):
        if result.HasField("quote") and query.mint_in < query.mint_out:
            result.refusal.reason = pb.REFUSAL_REASON_NO_POOL


LARGEST = 2**64 - 1


def little_for_the_largest(request: pb.QuoteRequest) -> None:
    """What nobody can pay is quoted as if it were little."""
    for query in request.queries:
        if query.amount_in == LARGEST:
            query.amount_in = 1_000_000


def the_largest_for_the_largest(request: pb.QuoteRequest, response: pb.QuoteResponse) -> None:
    """And promised in full."""
    for query, result in zip(request.queries, response.results, strict=True):
        if query.amount_in == LARGEST and result.HasField("quote"):
            result.quote.amount_in = result.quote.amount_out = LARGEST


# What is wrong, the checks that must fail, and a word of what they say.
WRONG = {
    "no pools": Mistake(
        Wrong("ListPools", lambda q, a: a.ClearField("pools")),
        "pools-are-listed",
        "an empty list",
    ),
    "pools not sorted": Mistake(
        Wrong("ListPools", reversed_items("pools")),
        "pools-are-in-order",
        "after",
    ),
    "a pool twice": Mistake(
        Wrong("ListPools", duplicated),
        "pools-are-in-order",
        "more than once",
    ),
    "an address that is none": Mistake(
        Wrong("ListPools", lambda q, a: setattr(a.pools[0], "address", "0")),
        "pools-are-well-formed",
        "address '0'",
        {"watch-begins-with-every-pool", "quotes-name-a-listed-pool"},
    ),
    "equal mints": Mistake(
        Wrong("ListPools", lambda q, a: setattr(a.pools[0], "mint_b", a.pools[0].mint_a)),
        "pools-are-well-formed",
        "mint_b",
    ),
    "a reserve that is no number": Mistake(
        Wrong("ListPools", each("pools", setting(reserve_a="1.5"))),
        "pools-are-well-formed",
        "reserve_a '1.5'",
    ),
    "all of it as the fee": Mistake(
        Wrong("ListPools", each("pools", setting(fee_ppm=10**6))),
        "pools-are-well-formed",
        "fee_ppm 1000000",
    ),
    "pools of no slot": Mistake(
        Wrong("ListPools", each("pools", setting(slot=0))),
        "pools-are-well-formed",
        "slot 0",
    ),
    "a watch that forgets a pool": Mistake(
        Wrong("WatchPools", forgetting_the_last("pools")),
        "watch-begins-with-every-pool",
        "not a word about",
    ),
    "a watch of malformed pools": Mistake(
        Wrong("WatchPools", each("pools", setting(mint_a="SOL"))),
        "watch-begins-with-every-pool",
        "mint_a 'SOL'",
    ),
    "a watch that ends": Mistake(
        Wrong("WatchPools", lambda q, a: a.Clear()),
        "watch-begins-with-every-pool",
        "its end",
    ),
    "too few quotes": Mistake(
        Wrong("Quote", forgetting_the_last("results")),
        "queries-are-answered-in-order",
        "results",
        {"five-hundred-queries-and-no-more"},
    ),
    "quotes in another order": Mistake(
        Wrong("Quote", reversed_items("results")),
        "queries-are-answered-in-order",
        "mint_in",
        {
            "more-in-is-more-out",
            "a-larger-swap-moves-the-price-further",
            "there-and-back-never-pays",
        },
    ),
    "neither quote nor refusal": Mistake(
        Wrong("Quote", each("results", empty)),
        "queries-are-answered-in-order",
        "neither",
        {
            "pools-are-quoted-both-ways",
            "an-unknown-pair-has-no-pool",
            "nothing-is-invalid",
            "too-much-is-not-promised",
        },
    ),
    "another token": Mistake(
        Wrong("Quote", each_quote(lambda q, a: setattr(a, "mint_out", STRANGER))),
        "queries-are-answered-in-order",
        STRANGER,
        {"quotes-name-a-listed-pool", "what-is-quoted-can-be-built"},
    ),
    "another amount": Mistake(
        Wrong("Quote", each_quote(lambda q, a: setattr(a, "amount_in", a.amount_in - 1))),
        "queries-are-answered-in-order",
        "amount_in",
    ),
    "one direction only": Mistake(
        Wrong("Quote", all_liquidity_refused),
        "pools-are-quoted-both-ways",
        "NO_POOL",
        {"too-much-is-not-promised"},
    ),
    "nothing paid": Mistake(
        Wrong("Quote", each_quote(lambda q, a: setattr(a, "amount_out", 0))),
        "quotes-pay-something",
        "above 0",
    ),
    "everything as the fee": Mistake(
        Wrong("Quote", each_quote(lambda q, a: setattr(a, "fee", a.amount_in))),
        "quotes-pay-something",
        "a fee below",
    ),
    "an impact beyond all": Mistake(
        Wrong("Quote", each_quote(lambda q, a: setattr(a, "price_impact_ppm", 10**6 + 1))),
        "quotes-pay-something",
        "1000001",
    ),
    "a pool that is not listed": Mistake(
        Wrong("Quote", each_quote(lambda q, a: setattr(a, "pool", STRANGER))),
        "quotes-name-a-listed-pool",
        "not listed",
        {"what-is-quoted-can-be-built"},
    ),
    "expired when made": Mistake(
        Wrong("Quote", each_quote(lambda q, a: setattr(a.expire_time, "seconds", 1))),
        "quotes-stand-for-a-while",
        "s ago",
    ),
    "no expiry": Mistake(
        Wrong("Quote", each_quote(lambda q, a: a.ClearField("expire_time"))),
        "quotes-stand-for-a-while",
        "none",
    ),
    "quotes of no slot": Mistake(
        Wrong("Quote", each_quote(lambda q, a: setattr(a, "slot", 0))),
        "quotes-stand-for-a-while",
        "slot",
    ),
    "a bad query spoils all": Mistake(
        Wrong("Quote", all_or_nothing),
        "a-bad-query-is-refused-alone",
        "NO_POOL",
    ),
    "nonsense is quoted": Mistake(
        Wrong("Quote", answering_nonsense),
        "a-bad-query-is-refused-alone",
        "a quote",
    ),
    "refusals without a good reason": Mistake(
        Wrong("Quote", refusing_as(pb.REFUSAL_REASON_UNAVAILABLE)),
        "an-unknown-pair-has-no-pool",
        "UNAVAILABLE",
        {"nothing-is-invalid", "too-much-is-not-promised"},
    ),
    "nothing is quoted as something": Mistake(
        Wrong("Quote", nothing_is_something),
        "nothing-is-invalid",
        "a quote",
    ),
    "more than the pool has": Mistake(
        Wrong("Quote", the_largest_for_the_largest, little_for_the_largest),
        "too-much-is-not-promised",
        "that the pool holds",
    ),
    "501 queries": Mistake(
        Wrong("Quote", request=first_only("queries")),
        "five-hundred-queries-and-no-more",
        "INVALID_ARGUMENT",
    ),
    "more pays less": Mistake(
        Wrong("Quote", each_quote(Shrinking())),
        "more-in-is-more-out",
        "while",
        {"there-and-back-never-pays"},
    ),
    "impact upside down": Mistake(
        Wrong("Quote", each_quote(no_impact_for_large_ones)),
        "a-larger-swap-moves-the-price-further",
        "ppm",
    ),
    "a free lunch": Mistake(
        Wrong(
            "Quote", each_quote(lambda q, a: setattr(a, "amount_out", a.amount_out * 102 // 100))
        ),
        "there-and-back-never-pays",
        "back for",
        {"too-much-is-not-promised"},
    ),
    "slots that go back": Mistake(
        Wrong("Quote", GoingBack()),
        "slots-do-not-go-back",
        "slot",
    ),
    "too few builds": Mistake(
        Wrong("BuildSwap", forgetting_the_last("results")),
        "swaps-are-answered-in-order",
        "results",
        {"five-hundred-swaps-and-no-more"},
    ),
    "builds in another order": Mistake(
        Wrong("BuildSwap", reversed_items("results")),
        "the-engine-reads-the-swap-back",
        "as asked",
    ),
    "neither instructions nor refusal": Mistake(
        Wrong("BuildSwap", each("results", empty)),
        "swaps-are-answered-in-order",
        "neither",
        {"what-is-quoted-can-be-built"},
    ),
    "no instructions": Mistake(
        Wrong("BuildSwap", each_swap(lambda swap: swap.ClearField("instructions"))),
        "what-is-quoted-can-be-built",
        "none",
        {"only-the-wallet-signs", "the-engine-reads-the-swap-back"},
    ),
    "malformed addresses": Mistake(
        Wrong("BuildSwap", each_swap(lambda s: setattr(s.instructions[0], "program", "raydium"))),
        "what-is-quoted-can-be-built",
        "'raydium'",
    ),
    "another signer": Mistake(
        Wrong("BuildSwap", each_swap(cosigned)),
        "only-the-wallet-signs",
        "as well",
        {"the-engine-reads-the-swap-back"},
    ),
    "no signer": Mistake(
        Wrong("BuildSwap", each_swap(unsigned)),
        "only-the-wallet-signs",
        "no signer",
        {"the-engine-reads-the-swap-back"},
    ),
    "a memo of the venue's": Mistake(
        Wrong("BuildSwap", each_swap(with_memo)),
        "budget-and-memo-are-the-executors",
        "a memo instruction",
        {"the-engine-reads-the-swap-back"},
    ),
    "a program that nobody knows": Mistake(
        Wrong("BuildSwap", each_swap(with_stranger)),
        "the-engine-reads-the-swap-back",
        STRANGER,
    ),
    "a pool that tells another config": Mistake(
        Wrong("WatchPools", another_config),
        "what-pools-tell-builds-the-same",
        "config 9",
    ),
    "never twice the same": Mistake(
        Wrong("BuildSwap", each_swap(Fresh())),
        "building-twice-builds-the-same",
        "others the second time",
        {"the-engine-reads-the-swap-back"},
    ),
    "a bad swap spoils all": Mistake(
        Wrong("BuildSwap", all_or_nothing),
        "an-unknown-pool-is-refused-alone",
        "around",
        {"a-senseless-swap-is-refused-alone"},
    ),
    "nonsense is built": Mistake(
        Wrong("BuildSwap", answering_nonsense),
        "an-unknown-pool-is-refused-alone",
        "instructions",
        {"a-senseless-swap-is-refused-alone"},
    ),
    "another program for larger swaps": Mistake(
        Wrong("BuildSwap", another_program_for_half),
        "all-swaps-call-the-same-program",
        STRANGER,
        {"the-engine-reads-the-swap-back", "building-twice-builds-the-same"},
    ),
    "a swap of nothing": Mistake(
        Wrong("BuildSwap", request=nothing_is_one),
        "a-senseless-swap-is-refused-alone",
        "amount_in 0",
    ),
    "501 swaps": Mistake(
        Wrong("BuildSwap", request=first_only("swaps")),
        "five-hundred-swaps-and-no-more",
        "INVALID_ARGUMENT",
    ),
}


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
