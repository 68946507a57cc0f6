"""The pool book against venues whose streams the test drives, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import grpc
import pytest

from engine import pool_book, venue
from engine.pool_book import PoolBook, Stream
from engine.routing.market import Market
from engine.rpc import serving
from engine.v1 import venue_pb2 as pb
from engine.v1 import venue_pb2_grpc
from engine.venue import open_venues
from tests.builders import SOL, USDC

PATIENCE_SECONDS = 15
USDT = "Es9vMFrzaCERmJfrF4H2FYD4KCoNkY11McCe8BenwNYB"
MINTS = (SOL, USDC, USDT)
MAX_SLOT_LAG = 10
MAX_SHARE = 3000


def pool(
    address: str,
    vault_b: int = 150_000,
    *,
    vault_a: int = 1_000_000,
    mint_b: str = USDC,
    **facts: Any,
) -> pb.Pool:
    """A CPMM pool of `vault_a` base units of SOL against `vault_b` of another token."""
    state = {
        "vault_0": vault_a,
        "vault_1": vault_b,
        "trade_fee_rate": 2500,
        "protocol_fee_rate": 120_000,
        "fund_fee_rate": 40_000,
    }
    told: dict[str, Any] = {"kind": "raydium_cpmm", "state": json.dumps(state), "slot": 1}
    return pb.Pool(address=address, mint_a=SOL, mint_b=mint_b, **(told | facts))


def meteora_pool(
    address: str, vault_b: int = 150_000, *, vault_a: int = 1_000_000, **facts: Any
) -> pb.Pool:
    """Meteora's with as much of either token, x * y = k as well."""
    state = {
        "collect_fee_mode": 2,
        "sqrt_price": 1 << 64,
        "sqrt_min_price": 0,
        "sqrt_max_price": 0,
        "liquidity": 0,
        "token_a_amount": vault_a,
        "token_b_amount": vault_b,
        "fee_version": 0,
        "protocol_fee_percent": 20,
        "activation_point": 0,
        "base_fee": {"mode": 0, "cliff_fee_numerator": 2_500_000},
    }
    told: dict[str, Any] = {"kind": "meteora_damm_v2", "state": json.dumps(state)}
    return pool(address, **(told | facts))


def news(
    slot: int, *pools: pb.Pool, time: int = 1_800_000_000, complete: bool | None = None
) -> pb.WatchPoolsResponse:
    return pb.WatchPoolsResponse(pools=pools, slot=slot, time=time, complete=complete)


class DrivenVenue(venue_pb2_grpc.VenueServiceServicer):
    """Says on its stream what the test puts into `script`; a status among it ends the stream."""

    def __init__(self, happened: asyncio.Event) -> None:
        self.happened = happened
        self.script: asyncio.Queue[pb.WatchPoolsResponse | grpc.StatusCode] = asyncio.Queue()
        self.opened = 0

    async def WatchPools(
        self, request: pb.WatchPoolsRequest, context: Any
    ) -> AsyncIterator[pb.WatchPoolsResponse]:
        self.opened += 1
        self.happened.set()
        while True:
            said = await self.script.get()
            if isinstance(said, grpc.StatusCode):
                await context.abort(said, "for the test")
            else:
                yield said


class Running:
    """A book that follows its venues."""

    def __init__(
        self, book: PoolBook, venues: dict[str, DrivenVenue], happened: asyncio.Event
    ) -> None:
        self.book = book
        self.venues = venues
        self.happened = happened

    def tell(self, name: str, *said: pb.WatchPoolsResponse | grpc.StatusCode) -> None:
        for each in said:
            self.venues[name].script.put_nowait(each)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until it is so: looked at whenever the book hears or asks anything."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds():
                self.happened.clear()
                await self.happened.wait()

    def asked(self, *names: str, mint_out: str = USDC) -> list[str]:
        """Whom the book leaves to be asked for a swap of SOL."""
        return self.book.beyond(self.book.market(MINTS), names, (SOL, mint_out))

    async def until_trusted(self, *names: str) -> Market:
        await self.until(lambda: self.book.trusted() == set(names))
        return self.book.market(MINTS)


def addresses(market: Market) -> set[str]:
    return {address for _, address in market.pools}


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    happened = asyncio.Event()
    hear = Stream.hear

    def heard(stream: Stream, message: pb.WatchPoolsResponse, now: float) -> None:
        hear(stream, message, now)
        happened.set()

    monkeypatch.setattr(Stream, "hear", heard)
    async with AsyncExitStack() as opened:

        async def begin(*names: str) -> Running:
            venues = {name: DrivenVenue(happened) for name in names}  # type: ignore[abstract]
            listening = {}
            for name, driven in venues.items():
                add = partial(venue_pb2_grpc.add_VenueServiceServicer_to_server, driven)
                services = {"engine.v1.VenueService": add}
                server = await opened.enter_async_context(
                    serving("127.0.0.1:0", services, grace_seconds=0)
                )
                listening[name] = f"127.0.0.1:{server.port}"
            clients = await opened.enter_async_context(open_venues(listening))
            book = PoolBook(clients, MAX_SLOT_LAG, MAX_SHARE)
            following = asyncio.create_task(book.follow())
            opened.callback(following.cancel)
            return Running(book, venues, happened)

        yield begin


async def test_pools_of_all_venues_are_one_market_once_each_stream_has_told_them_all(
    start: Start,
) -> None:
    running = await start("meteora", "raydium")

    # Pools may come in several messages: one without any that is new completes them.
    running.tell("raydium", news(5, pool("a")), news(6, pool("b")))
    running.tell("meteora", news(5, meteora_pool("c")), news(6))
    await running.until_trusted("meteora")
    running.tell("raydium", news(6, pool("a")))
    market = await running.until_trusted("meteora", "raydium")

    assert addresses(market) == {"a", "b", "c"}
    assert market.clocks == {"meteora": 1_800_000_000, "raydium": 1_800_000_000}
    assert running.asked("meteora", "raydium") == []


async def test_what_changed_is_in_the_next_market(start: Start) -> None:
    running = await start("raydium")
    running.tell("raydium", news(5, pool("a"), pool("b")), news(6))
    before = await running.until_trusted("raydium")

    running.tell("raydium", news(7, pool("a", 160_000), time=1_800_000_060))
    await running.until(lambda: running.book.market(MINTS).clocks["raydium"] == 1_800_000_060)

    after = running.book.market(MINTS)
    assert {at: p.state.vault_1 for (_, at), p in after.pools.items()} == {
        "a": 160_000,
        "b": 150_000,
    }
    assert {at: p.state.vault_1 for (_, at), p in before.pools.items()} == {
        "a": 150_000,
        "b": 150_000,
    }


async def test_the_same_market_is_given_as_long_as_nothing_changed(start: Start) -> None:
    running = await start("raydium")
    running.tell("raydium", news(5, pool("a")), news(6))
    market = await running.until_trusted("raydium")

    assert running.book.market(MINTS) is market


async def test_pools_are_read_when_their_tokens_are_asked_for(start: Start) -> None:
    running = await start("raydium")
    running.tell("raydium", news(5, pool("a"), pool("b", mint_b=USDT)), news(6))
    await running.until_trusted("raydium")
    fresh = PoolBook({}, MAX_SLOT_LAG, MAX_SHARE)
    fresh._streams, fresh._broken = running.book._streams, True

    assert addresses(fresh.market((SOL, USDC))) == {"a"}
    assert addresses(fresh.market(MINTS)) == {"a", "b"}


async def test_a_venue_without_a_stream_has_to_be_asked(start: Start) -> None:
    running = await start("meteora", "raydium")
    running.tell("raydium", news(5, pool("a")), news(6))
    running.tell("meteora", grpc.StatusCode.UNIMPLEMENTED)
    await running.until_trusted("raydium")

    assert running.asked("meteora", "raydium") == ["meteora"]


async def test_a_stream_that_breaks_takes_its_pools_along_until_it_is_back(start: Start) -> None:
    running = await start("meteora", "raydium")
    running.tell("meteora", news(5, meteora_pool("meteora's")), news(6))
    running.tell("raydium", news(5, pool("raydium's")), news(6))
    await running.until_trusted("meteora", "raydium")

    running.tell("raydium", grpc.StatusCode.UNAVAILABLE)
    await running.until(lambda: running.venues["raydium"].opened == 2)
    market = await running.until_trusted("meteora")
    assert addresses(market) == {"meteora's"}
    assert running.asked("raydium") == ["raydium"]

    running.tell("raydium", news(9, pool("another")), news(10))
    market = await running.until_trusted("meteora", "raydium")
    assert addresses(market) == {"meteora's", "another"}


async def test_a_stream_that_breaks_and_is_back_between_two_looks_is_read_anew(
    start: Start,
) -> None:
    running = await start("raydium")
    running.tell("raydium", news(5, pool("gone")), news(6))
    await running.until_trusted("raydium")

    running.tell("raydium", grpc.StatusCode.UNAVAILABLE, news(7, pool("new")), news(8))
    await running.until(lambda: running.venues["raydium"].opened == 2)
    await running.until(lambda: running.book.trusted() == {"raydium"})

    assert addresses(running.book.market(MINTS)) == {"new"}


async def test_a_silent_stream_is_not_trusted(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (pool_book, venue):
        monkeypatch.setattr(module, "SILENCE_SECONDS", 0.3)
    running = await start("raydium")
    running.tell("raydium", news(5, pool("a")), news(6))
    await running.until_trusted("raydium")

    await running.until(lambda: running.venues["raydium"].opened == 2)

    assert running.book.trusted() == set()
    assert addresses(running.book.market(MINTS)) == set()


async def test_a_stream_that_stays_behind_is_not_trusted_though_it_speaks(start: Start) -> None:
    running = await start("meteora", "raydium")
    running.tell("meteora", news(5, meteora_pool("meteora")), news(6))
    running.tell("raydium", news(5, pool("raydium")), news(6))
    await running.until_trusted("meteora", "raydium")

    running.tell("raydium", news(6 + MAX_SLOT_LAG))
    running.tell("meteora", news(6))
    await running.until(lambda: running.book._streams["raydium"].slot == 6 + MAX_SLOT_LAG)
    assert running.book.trusted() == {"meteora", "raydium"}

    running.tell("raydium", news(7 + MAX_SLOT_LAG))
    market = await running.until_trusted("raydium")
    assert addresses(market) == {"raydium"}
    assert running.asked("meteora", "raydium") == ["meteora"]

    running.tell("meteora", news(7 + MAX_SLOT_LAG))
    assert addresses(await running.until_trusted("meteora", "raydium")) == {"meteora", "raydium"}


@pytest.mark.parametrize(
    "facts",
    [
        {"kind": ""},
        {"kind": "orca_whirlpool"},
        {"kind": "meteora_damm_v2", "state": meteora_pool("b").state},
        {"state": ""},
        {"state": "{}"},
        {"state": '{"vault_0": -1}'},
    ],
    ids=["none", "unknown", "another venue's", "empty", "without fields", "impossible"],
)
async def test_a_venue_is_asked_for_pairs_with_a_pool_that_cannot_be_computed_here(
    start: Start, facts: dict[str, Any]
) -> None:
    running = await start("raydium")
    running.tell("raydium", news(5, pool("a"), pool("b", **facts), pool("c", mint_b=USDT)), news(6))
    market = await running.until_trusted("raydium")

    assert addresses(market) == {"a", "c"}
    assert running.asked("raydium") == ["raydium"]
    assert running.asked("raydium", mint_out=USDT) == []


async def test_what_a_pool_holds_is_known_of_pools_that_cannot_be_computed_here_too(
    start: Start,
) -> None:
    running = await start("raydium")
    held: dict[str, Any] = {"reserve_a": "1000000", "reserve_b": "150000"}
    running.tell("raydium", news(5, pool("a", **held), pool("b", kind="", **held)), news(6))
    market = await running.until_trusted("raydium")

    [computed] = market.pools.values()
    assert (computed.reserve_a, computed.reserve_b) == (1_000_000, 150_000)
    assert [running.book.depth("raydium", "b", mint) for mint in (SOL, USDC)] == [10**6, 150_000]
    assert running.book.depth("raydium", "b", USDT) == 0
    assert running.book.depth("raydium", "c", USDC) == 0
    assert running.book.depth("meteora", "b", USDC) == 0


@pytest.mark.parametrize(
    ("told", "market", "config"),
    [
        ({}, None, None),
        ({"config": 0}, None, 0),
        ({"config": 3, "market": ""}, None, 3),
        ({"market": "the market"}, "the market", None),
    ],
    ids=["nothing", "config 0", "config 3", "a market"],
)
async def test_what_is_not_told_of_a_pool_is_not_taken_for_told(
    start: Start, told: dict[str, Any], market: str | None, config: int | None
) -> None:
    running = await start("raydium")
    running.tell("raydium", news(5, pool("a", **told)), news(6))

    [known] = (await running.until_trusted("raydium")).pools.values()

    assert (known.market, known.config) == (market, config)


@pytest.mark.parametrize("amount", ["", "-1", "1.5", "²", "9" * 41, "many"])
async def test_what_is_no_amount_is_not_known_to_be_held(start: Start, amount: str) -> None:
    running = await start("raydium")
    running.tell("raydium", news(5, pool("a", reserve_a="1", reserve_b=amount)), news(6))
    market = await running.until_trusted("raydium")

    assert [each.reserve_b for each in market.pools.values()] == [0]
    assert running.book.depth("raydium", "a", USDC) == 0


async def test_a_market_offers_no_more_of_a_pool_than_the_book_was_told_to(start: Start) -> None:
    running = await start("raydium")
    held: dict[str, Any] = {"reserve_a": "1000000", "reserve_b": "150000"}
    running.tell("raydium", news(5, pool("a", **held)), news(6))
    market = await running.until_trusted("raydium")

    [offer] = market.offers(SOL, USDC)

    # For some 43 % of what the pool holds of one token it pays 30 % of the other.
    assert offer.amount_out(400_000) > 0 == offer.amount_out(440_000)
    assert offer.pay(440_000).amount_out > 45_000


async def test_a_book_that_follows_nobody_asks_everybody() -> None:
    book = PoolBook({}, MAX_SLOT_LAG, MAX_SHARE)

    market = book.market(MINTS)

    assert addresses(market) == set()
    assert book.beyond(market, ("meteora", "raydium"), (SOL, USDC)) == ["meteora", "raydium"]


async def test_a_stream_that_has_told_no_pool_is_not_complete(start: Start) -> None:
    running = await start("raydium")

    # The venue is there, and still reading its pools.
    running.tell("raydium", news(5), news(6))
    await running.until(lambda: "raydium" in running.book._streams)
    running.tell("raydium", news(7, pool("a")))
    await running.until(lambda: running.book._streams["raydium"].slot == 7)
    assert running.book.trusted() == set()

    running.tell("raydium", news(8))
    assert addresses(await running.until_trusted("raydium")) == {"a"}


async def test_a_heartbeat_between_the_first_pools_does_not_say_that_those_were_all(
    start: Start,
) -> None:
    running = await start("raydium")

    running.tell("raydium", news(5, pool("a"), complete=False), news(6, complete=False))
    await running.until(lambda: running.book._streams.get("raydium", Stream()).slot == 6)
    assert running.book.trusted() == set()

    running.tell("raydium", news(7, pool("b"), complete=True))
    assert addresses(await running.until_trusted("raydium")) == {"a", "b"}


async def test_no_venue_hides_a_pool_of_another_by_telling_of_one_at_its_address(
    start: Start,
) -> None:
    running = await start("meteora", "raydium")
    running.tell("raydium", news(5, pool("a")), news(6))
    await running.until_trusted("raydium")

    running.tell("meteora", news(5, meteora_pool("a", 10**9)), news(6))
    market = await running.until_trusted("meteora", "raydium")
    [hostile, honest] = market.offers(SOL, USDC)
    assert (hostile.pool.venue, honest.pool.venue) == ("meteora", "raydium")

    running.tell("meteora", news(7, meteora_pool("a", kind="")))
    await running.until(lambda: running.book._streams["meteora"].slot == 7)
    assert running.book.market(MINTS).pools.keys() == {("raydium", "a")}


async def test_each_venue_s_pools_are_priced_by_its_own_clock(start: Start) -> None:
    running = await start("meteora", "raydium")
    running.tell("raydium", news(5, pool("a")), news(6, time=1_800_000_000))
    running.tell("meteora", news(5, meteora_pool("c")), news(6, time=1_900_000_000))

    market = await running.until_trusted("meteora", "raydium")

    assert {o.pool.venue: o.now for o in market.offers(SOL, USDC)} == {
        "meteora": 1_900_000_000,
        "raydium": 1_800_000_000,
    }


async def test_a_pool_that_cannot_be_computed_any_more_is_gone_until_it_can_be_again(
    start: Start,
) -> None:
    running = await start("raydium")
    running.tell("raydium", news(5, pool("a"), pool("b")), news(6))
    await running.until_trusted("raydium")

    running.tell("raydium", news(7, pool("a", state="{}"), time=1_800_000_060))
    await running.until(lambda: running.book.market(MINTS).clocks["raydium"] == 1_800_000_060)
    assert addresses(running.book.market(MINTS)) == {"b"}
    assert running.book.beyond(running.book.market(MINTS), ("raydium",), (SOL, USDC)) == ["raydium"]

    running.tell("raydium", news(8, pool("a"), time=1_800_000_120))
    await running.until(lambda: running.book.market(MINTS).clocks["raydium"] == 1_800_000_120)
    assert addresses(running.book.market(MINTS)) == {"a", "b"}
    assert running.book.beyond(running.book.market(MINTS), ("raydium",), (SOL, USDC)) == []


async def test_a_state_that_is_not_one_takes_no_other_pool_of_the_pair_along(start: Start) -> None:
    running = await start("raydium")
    deep = pool("deep", state="[" * 100_000)
    running.tell("raydium", news(5, *[pool(f"{n}") for n in range(9)], deep), news(6))

    market = await running.until_trusted("raydium")

    assert addresses(market) == {str(n) for n in range(9)}


async def test_a_pool_whose_mints_change_ends_its_stream(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(venue, "SILENCE_SECONDS", 60)
    running = await start("raydium")
    running.tell("raydium", news(5, pool("a")), news(6))
    await running.until_trusted("raydium")

    running.tell("raydium", news(7, pool("a", mint_b=USDT)))
    await running.until(lambda: running.venues["raydium"].opened == 2)

    assert running.book.trusted() == set()
