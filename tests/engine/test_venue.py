"""The venue client against a venue that answers as scripted, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
import pytest
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from engine import venue as venue_module
from engine.errors import Refused
from engine.route import Hints
from engine.rpc import serving
from engine.v1 import venue_pb2 as pb
from engine.v1 import venue_pb2_grpc
from engine.venue import BuiltSwap, Venue, open_venues
from oee.ports import free_ports
from tests.builders import SOL, USDC

PATIENCE_SECONDS = 15
POOL = str(Keypair.from_seed(bytes([1] * 32)).pubkey())
WALLET = str(Keypair.from_seed(bytes([2] * 32)).pubkey())
QUERY = pb.QuoteQuery(order_id="order", mint_in=SOL, mint_out=USDC, amount_in=1_500_000_000)
SWAP = pb.SwapOrder(
    order_id="order", pool=POOL, mint_in=SOL, mint_out=USDC, amount_in=5, wallet=WALLET
)

Context = grpc.aio.ServicerContext[Any, Any]
Quoting = Callable[[pb.QuoteRequest, Context], Awaitable[pb.QuoteResponse]]
Building = Callable[[pb.BuildSwapRequest, Context], Awaitable[pb.BuildSwapResponse]]


def fair(query: pb.QuoteQuery) -> pb.QuoteResult:
    """What an honest venue says to this query: two for one."""
    quote = pb.Quote(
        pool=POOL,
        mint_in=query.mint_in,
        mint_out=query.mint_out,
        amount_in=query.amount_in,
        amount_out=query.amount_in * 2,
        fee=7,
        price_impact_ppm=11,
        slot=13,
    )
    return pb.QuoteResult(quote=quote)


def fair_instructions(swap: pb.SwapOrder) -> pb.BuildSwapResult:
    accounts = [pb.AccountMeta(address=WALLET, signer=True, writable=True)]
    instruction = pb.Instruction(program=swap.pool, accounts=accounts, data=b"swap")
    return pb.BuildSwapResult(
        swap=pb.SwapInstructions(
            instructions=[instruction],
            kind="raydium_amm_v4",
            arrays=[60, -1],
            market=POOL,
            config=3,
            one_for_zero=True,
        )
    )


class ScriptedVenue(venue_pb2_grpc.VenueServiceServicer):
    """A venue that answers honestly, unless told to answer otherwise."""

    def __init__(self) -> None:
        self.quoting: Quoting = self.quote_fairly
        self.building: Building = self.build_fairly
        self.asked: list[list[str]] = []

    async def quote_fairly(self, request: pb.QuoteRequest, context: Context) -> pb.QuoteResponse:
        return pb.QuoteResponse(results=[fair(query) for query in request.queries])

    async def build_fairly(
        self, request: pb.BuildSwapRequest, context: Context
    ) -> pb.BuildSwapResponse:
        return pb.BuildSwapResponse(results=[fair_instructions(swap) for swap in request.swaps])

    async def Quote(self, request: pb.QuoteRequest, context: Context) -> pb.QuoteResponse:
        self.asked.append([query.order_id for query in request.queries])
        return await self.quoting(request, context)

    async def BuildSwap(
        self, request: pb.BuildSwapRequest, context: Context
    ) -> pb.BuildSwapResponse:
        self.asked.append([swap.order_id for swap in request.swaps])
        return await self.building(request, context)

    async def ListPools(
        self, request: pb.ListPoolsRequest, context: Context
    ) -> pb.ListPoolsResponse:
        return pb.ListPoolsResponse()

    async def WatchPools(
        self, request: pb.WatchPoolsRequest, context: Context
    ) -> AsyncIterator[pb.WatchPoolsResponse]:
        yield pb.WatchPoolsResponse()


@pytest.fixture
async def script() -> ScriptedVenue:
    return ScriptedVenue()


@pytest.fixture
async def address(script: ScriptedVenue) -> AsyncIterator[str]:
    add = partial(venue_pb2_grpc.add_VenueServiceServicer_to_server, script)
    services = {"engine.v1.VenueService": add}
    async with serving("127.0.0.1:0", services, grace_seconds=0) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture
async def venue(address: str) -> AsyncIterator[Venue]:
    async with open_venues({"raydium": address}) as venues:
        yield venues["raydium"]


class CountedPace:
    """Takes note of the turns that are taken."""

    calls_ahead = 1
    turns = 0

    def __init__(self, turns_per_second: float) -> None:
        self.turns_per_second = turns_per_second

    async def turn(self) -> None:
        CountedPace.turns += 1


async def test_every_call_of_a_venue_with_a_limit_waits_for_its_turn(
    script: ScriptedVenue, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(venue_module, "Pace", CountedPace)
    async with open_venues({"raydium": address}, calls_per_second=3) as venues:
        venue = venues["raydium"]
        await asyncio.gather(*(venue.quote(QUERY, PATIENCE_SECONDS) for _ in range(10)))
        quotes = len(script.asked)
        assert CountedPace.turns == quotes
        await venue.build(SWAP)
    assert CountedPace.turns == quotes + 1


def refusing(code: grpc.StatusCode) -> Callable[[Any, Context], Awaitable[Any]]:
    async def refuse(request: object, context: Context) -> None:
        await context.abort(code, "the venue's own words")

    return refuse


async def never(request: object, context: Context) -> Any:
    await asyncio.Event().wait()


def quoting(*results: pb.QuoteResult) -> Quoting:
    async def quote(request: pb.QuoteRequest, context: Context) -> pb.QuoteResponse:
        return pb.QuoteResponse(results=results)

    return quote


def building(*results: pb.BuildSwapResult) -> Building:
    async def build(request: pb.BuildSwapRequest, context: Context) -> pb.BuildSwapResponse:
        return pb.BuildSwapResponse(results=results)

    return build


def altered(**fields: object) -> pb.QuoteResult:
    result = fair(QUERY)
    result.quote.MergeFrom(pb.Quote(**fields))  # type: ignore[arg-type]
    return result


# ── quotes ────────────────────────────────────────────────────────────────────────────────────


async def test_a_quote_comes_back_as_the_venue_gave_it(venue: Venue) -> None:
    assert await venue.quote(QUERY, PATIENCE_SECONDS) == fair(QUERY).quote


NO_ANSWERS = [
    (grpc.StatusCode.UNAVAILABLE, "VENUE_UNAVAILABLE"),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED"),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "VENUE_TIMEOUT"),
    (grpc.StatusCode.INTERNAL, "VENUE_UNAVAILABLE"),
    (grpc.StatusCode.UNIMPLEMENTED, "VENUE_UNAVAILABLE"),
]


@pytest.mark.parametrize(("code", "reason"), NO_ANSWERS)
async def test_a_venue_without_an_answer_is_a_refusal_that_may_pass(
    venue: Venue, script: ScriptedVenue, code: grpc.StatusCode, reason: str
) -> None:
    script.quoting = script.building = refusing(code)

    with pytest.raises(Refused, match="raydium") as quote:
        await venue.quote(QUERY, PATIENCE_SECONDS)
    with pytest.raises(Refused, match="raydium") as build:
        await venue.build(SWAP)

    for refused in (quote.value, build.value):
        assert (refused.reason, refused.permanent) == (reason, False)


async def test_a_venue_that_is_not_there_is_a_refusal_that_may_pass() -> None:
    [port] = free_ports(1)
    async with open_venues({"raydium": f"127.0.0.1:{port}"}) as venues:
        with pytest.raises(Refused) as refused:
            await venues["raydium"].quote(QUERY, PATIENCE_SECONDS)

    assert (refused.value.reason, refused.value.permanent) == ("VENUE_UNAVAILABLE", False)


async def test_a_venue_that_comes_back_is_found_again(script: ScriptedVenue) -> None:
    [port] = free_ports(1)
    add = partial(venue_pb2_grpc.add_VenueServiceServicer_to_server, script)
    async with open_venues({"raydium": f"127.0.0.1:{port}"}) as venues:
        with pytest.raises(Refused):
            await venues["raydium"].quote(QUERY, PATIENCE_SECONDS)
        async with serving(f"127.0.0.1:{port}", {"engine.v1.VenueService": add}, grace_seconds=0):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while await _refuses(venues["raydium"]):  # noqa: ASYNC110 - another end answers
                    await asyncio.sleep(0.02)


async def _refuses(venue: Venue) -> bool:
    try:
        await venue.quote(QUERY, PATIENCE_SECONDS)
    except Refused:
        return True
    return False


@pytest.mark.parametrize(
    ("reason", "name", "permanent"),
    [
        (pb.REFUSAL_REASON_NO_POOL, "NO_POOL", True),
        (pb.REFUSAL_REASON_INSUFFICIENT_LIQUIDITY, "INSUFFICIENT_LIQUIDITY", True),
        (pb.REFUSAL_REASON_INVALID, "INVALID", True),
        (pb.REFUSAL_REASON_UNAVAILABLE, "UNAVAILABLE", False),
        (pb.REFUSAL_REASON_RATE_LIMITED, "RATE_LIMITED", False),
        # One that was added after this client was built.
        (77, "UNSPECIFIED", False),
    ],
)
async def test_a_refusal_in_words_keeps_them(
    venue: Venue,
    script: ScriptedVenue,
    reason: pb.RefusalReason.ValueType,
    name: str,
    permanent: bool,
) -> None:
    refusal = pb.Refusal(reason=reason, message="not with us")
    script.quoting = quoting(pb.QuoteResult(refusal=refusal))
    script.building = building(pb.BuildSwapResult(refusal=refusal))

    with pytest.raises(Refused, match=r"^not with us$") as quote:
        await venue.quote(QUERY, PATIENCE_SECONDS)
    with pytest.raises(Refused, match=r"^not with us$") as build:
        await venue.build(SWAP)

    assert (quote.value.reason, quote.value.permanent) == (name, permanent)
    # What this pool does not do now, another may: no refusal to build ends an order.
    assert (build.value.reason, build.value.permanent) == (name, False)


@pytest.mark.parametrize(
    "results",
    [
        [],
        [fair(QUERY), fair(QUERY)],
        [altered(mint_in=USDC)],
        [altered(mint_out=SOL)],
        [altered(amount_in=1)],
        [altered(pool="no address")],
        [
            pb.QuoteResult(
                quote=pb.Quote(pool=POOL, mint_in=SOL, mint_out=USDC, amount_in=1_500_000_000)
            )
        ],
        [pb.QuoteResult(quote=pb.Quote())],
    ],
    ids=["none", "two", "mint_in", "mint_out", "amount_in", "pool", "nothing out", "empty"],
)
async def test_a_quote_for_anything_else_is_not_believed(
    venue: Venue, script: ScriptedVenue, results: list[pb.QuoteResult]
) -> None:
    script.quoting = quoting(*results)

    with pytest.raises(Refused, match="raydium") as refused:
        await venue.quote(QUERY, PATIENCE_SECONDS)

    assert (refused.value.reason, refused.value.permanent) == ("VENUE_ANSWER_INVALID", False)


async def test_an_answer_that_says_nothing_is_a_refusal_that_may_pass(
    venue: Venue, script: ScriptedVenue
) -> None:
    script.quoting = quoting(pb.QuoteResult())

    with pytest.raises(Refused, match=r"^raydium refused$") as refused:
        await venue.quote(QUERY, PATIENCE_SECONDS)

    assert not refused.value.permanent


async def test_a_slow_answer_holds_up_nobody_and_what_comes_meanwhile_is_asked_together(
    venue: Venue, script: ScriptedVenue
) -> None:
    gate, both_there = asyncio.Event(), asyncio.Event()

    async def wait(request: pb.QuoteRequest, context: Context) -> pb.QuoteResponse:
        if len(script.asked) == 2:
            both_there.set()
        await gate.wait()
        return await script.quote_fairly(request, context)

    script.quoting = wait
    first = asyncio.create_task(venue.quote(_query(0), PATIENCE_SECONDS))
    await asyncio.sleep(0)  # it is alone when it goes
    await asyncio.sleep(0)
    late = [asyncio.create_task(venue.quote(_query(n), PATIENCE_SECONDS)) for n in range(100, 110)]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await both_there.wait()  # though the first is still on the road
    gate.set()

    answers = await asyncio.gather(first, *late)

    assert [answer.amount_in for answer in answers] == [1, *range(101, 111)]
    # Two calls under way may overtake each other on the wire.
    assert sorted(script.asked) == [["0"], [str(n) for n in range(100, 110)]]


def _query(number: int) -> pb.QuoteQuery:
    return pb.QuoteQuery(order_id=str(number), mint_in=SOL, mint_out=USDC, amount_in=number + 1)


async def test_a_refusal_of_one_query_of_a_batch_is_nobody_else_s(
    venue: Venue, script: ScriptedVenue
) -> None:
    no = pb.QuoteResult(refusal=pb.Refusal(reason=pb.REFUSAL_REASON_NO_POOL, message="no pool"))

    async def choosy(request: pb.QuoteRequest, context: Context) -> pb.QuoteResponse:
        return pb.QuoteResponse(
            results=[{"1": no}.get(q.order_id, fair(q)) for q in request.queries]
        )

    script.quoting = choosy
    results = await asyncio.gather(
        *(venue.quote(_query(n), PATIENCE_SECONDS) for n in range(3)), return_exceptions=True
    )

    assert script.asked == [["0", "1", "2"]]
    assert [type(result) for result in results] == [pb.Quote, Refused, pb.Quote]


# ── instructions ──────────────────────────────────────────────────────────────────────────────


async def test_instructions_come_back_as_the_venue_built_them(venue: Venue) -> None:
    wallet = AccountMeta(Pubkey.from_string(WALLET), True, True)

    assert await venue.build(SWAP) == BuiltSwap(
        instructions=(Instruction(Pubkey.from_string(POOL), b"swap", [wallet]),),
        hints=Hints(arrays=(60, -1), market=POOL, config=3, zero_for_one=False),
    )


@pytest.mark.parametrize(
    "swap",
    [
        pb.SwapInstructions(instructions=[pb.Instruction(program="no address")]),
        pb.SwapInstructions(
            instructions=[pb.Instruction(program=POOL, accounts=[pb.AccountMeta(address="0OIl")])]
        ),
        pb.SwapInstructions(instructions=[pb.Instruction()]),
        pb.SwapInstructions(market="no address"),
    ],
)
async def test_malformed_addresses_are_not_signed(
    venue: Venue, script: ScriptedVenue, swap: pb.SwapInstructions
) -> None:
    script.building = building(pb.BuildSwapResult(swap=swap))

    with pytest.raises(Refused, match="malformed addresses") as refused:
        await venue.build(SWAP)

    assert (refused.value.reason, refused.value.permanent) == ("VENUE_ANSWER_INVALID", False)


async def test_a_swap_that_names_more_arrays_than_fit_is_not_signed(
    venue: Venue, script: ScriptedVenue
) -> None:
    script.building = building(pb.BuildSwapResult(swap=pb.SwapInstructions(arrays=range(9))))

    with pytest.raises(Refused, match="named 9 arrays for one swap; 8 is most") as refused:
        await venue.build(SWAP)

    assert refused.value.reason == "VENUE_ANSWER_INVALID"


async def test_the_wrong_number_of_swaps_is_not_signed(venue: Venue, script: ScriptedVenue) -> None:
    script.building = building(fair_instructions(SWAP), fair_instructions(SWAP))

    with pytest.raises(Refused, match="gave 2 answers to 1 questions"):
        await venue.build(SWAP)


async def test_a_build_is_waited_for_only_so_long(
    venue: Venue, script: ScriptedVenue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(venue_module, "BUILD_SECONDS", 0.1)
    script.building = never

    with pytest.raises(Refused) as refused:
        await venue.build(SWAP)

    assert refused.value.reason == "VENUE_TIMEOUT"
