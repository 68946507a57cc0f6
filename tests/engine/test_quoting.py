"""Deciding with pools from streams where they are trusted, and with quotes asked for elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import msgspec
import pytest

from engine.accounts import Accounts
from engine.bus import Bus
from engine.errors import Overloaded, Refused
from engine.failures import Failure
from engine.lifecycle import EventType
from engine.order import OrderRequest
from engine.pool_book import PoolBook, Stream
from engine.quoting import Quoter
from engine.relay import Relay
from engine.route import Hints, Route, RouteDecision, VenueQuote
from engine.routing import NoOffer
from engine.routing.paths import Rules
from engine.store import Store
from engine.trading import TradingSwitch
from engine.v1 import venue_pb2 as pb
from engine.venue_scores import VenueScores
from gateway.route_pace import RoutePace
from gateway.routes import Routes
from router_svc.router import Router
from tests import builders, swaps
from tests.builders import RAY, SOL, USDC
from tests.engine.test_pool_book import meteora_pool, news, pool
from tests.engine.test_store import read
from tests.fakes import FakeVenue, asking

PATIENCE_SECONDS = 15
MAX_SHARE = 3000
REQUEST = builders.new_order().request


class StreamingVenue(FakeVenue):
    """Streams one pool for SOL and USDC; `silenced` ends the stream, until it is cleared."""

    def __init__(self, name: str, usdc: int, config: int | None = None) -> None:
        super().__init__(name)
        self.usdc = usdc
        self.config = config
        self.silenced = asyncio.Event()
        self.ended = asyncio.Event()
        self.asked = 0
        self.lingers: Callable[[], Awaitable[None]] | None = None

    async def quote(self, query: pb.QuoteQuery, timeout_seconds: float) -> pb.Quote:
        self.asked += 1
        if self.lingers is not None:
            await self.lingers()
        return await super().quote(query, timeout_seconds)

    async def pools(self) -> AsyncIterator[pb.WatchPoolsResponse]:
        if self.silenced.is_set():
            raise Refused("VENUE_UNAVAILABLE", "no stream")
        told = meteora_pool if self.name == "meteora" else partial(pool, config=self.config)
        first = told(f"{self.name}'s", self.usdc, vault_a=10**15)
        yield pb.WatchPoolsResponse(pools=[first], slot=1, time=1)
        yield pb.WatchPoolsResponse(slot=2, time=1)
        await self.silenced.wait()
        self.ended.set()
        raise Refused("VENUE_UNAVAILABLE", "the stream ended")


Start = Callable[..., Awaitable[Quoter]]


@pytest.fixture
async def start(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Makes a quoter over venues, and waits until as many streams as said are complete."""
    happened = asyncio.Event()
    hear = Stream.hear

    def heard(stream: Stream, *said: Any) -> None:
        hear(stream, *said)
        happened.set()

    monkeypatch.setattr(Stream, "hear", heard)
    async with AsyncExitStack() as opened:

        async def begin(*venues: FakeVenue, streams: int) -> Quoter:
            named = {venue.name: venue for venue in venues}
            book = PoolBook(named, max_slot_lag=10, max_pool_share_bps=MAX_SHARE)
            quoter = Quoter(
                named, book, VenueScores(store), Rules(), store.tokens, PATIENCE_SECONDS
            )
            following = asyncio.create_task(quoter.follow())
            opened.callback(following.cancel)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(book.trusted()) < streams:
                    happened.clear()
                    await happened.wait()
            return quoter

        yield begin


async def chosen(quoter: Quoter) -> RouteDecision:
    decision = await quoter.decide(REQUEST)
    assert isinstance(decision, RouteDecision)
    return decision


async def test_venues_that_stream_are_not_asked(start: Start) -> None:
    meteora, raydium = (
        StreamingVenue("meteora", 14 * 10**13),
        StreamingVenue("raydium", 15 * 10**13),
    )
    quoter = await start(meteora, raydium, streams=2)

    decision = await chosen(quoter)

    assert decision.venue == "raydium"
    assert [(quote.venue, quote.is_local) for quote in decision.quotes] == [
        ("meteora", True),
        ("raydium", True),
    ]
    assert (meteora.asked, raydium.asked) == (0, 0)


async def test_a_venue_without_a_stream_is_asked_beside_those_that_stream(start: Start) -> None:
    streaming, silent = StreamingVenue("raydium", 14 * 10**13), FakeVenue("meteora", 150)
    quoter = await start(streaming, silent, streams=1)

    decision = await chosen(quoter)

    assert decision.venue == "meteora"
    assert {quote.venue: quote.is_local for quote in decision.quotes} == {
        "meteora": False,
        "raydium": True,
    }


async def test_a_stream_that_ends_while_another_venue_is_asked_costs_no_quote(
    start: Start,
) -> None:
    raydium = StreamingVenue("raydium", 14 * 10**13)
    meteora = StreamingVenue("meteora", 0)
    meteora.silenced.set()
    meteora.refusal = Refused("NO_POOL", "meteora has no such pool", permanent=True)
    quoter = await start(meteora, raydium, streams=1)

    async def ends() -> None:
        raydium.silenced.set()
        await raydium.ended.wait()

    meteora.lingers = ends
    decision = await quoter.decide(REQUEST)

    # Not NoOffer, and that for good, because of the one that has no pool.
    assert not isinstance(decision, NoOffer)
    assert decision.venue == "raydium"


async def test_when_the_streams_are_gone_everybody_is_asked(start: Start) -> None:
    raydium = StreamingVenue("raydium", 14 * 10**13)
    quoter = await start(raydium, streams=1)
    assert (await chosen(quoter)).quotes[0].is_local
    raydium.silenced.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await raydium.ended.wait()

    decision = await chosen(quoter)

    assert [(quote.venue, quote.is_local) for quote in decision.quotes] == [("raydium", False)]
    assert raydium.asked == 1


# ── hints for whoever signs ───────────────────────────────────────────────────────────────────


def hints_of(quoter: Quoter, decision: RouteDecision) -> list[Hints | None]:
    """The hints of each leg; that the route has nothing else beside was agreed is seen to."""
    route = quoter.hinted(decision)
    assert decision.route is not None
    assert route is not None
    assert Route(route.agreed_legs, route.quoted_amount_out) == decision.route
    assert b"hints" not in msgspec.json.encode(decision)
    return [leg.hints for leg in route.legs]


@pytest.mark.parametrize(
    ("config", "hints"),
    [(0, Hints()), (3, Hints(config=3)), (None, None)],
    ids=["config 0", "config 3", "not told"],
)
async def test_the_route_chosen_gets_hints_if_its_pool_tells_all_of_them(
    start: Start, config: int | None, hints: Hints | None
) -> None:
    raydium = StreamingVenue("raydium", 15 * 10**13, config)
    quoter = await start(raydium, StreamingVenue("meteora", 14 * 10**13), streams=2)

    decision = await chosen(quoter)

    assert decision.venue == "raydium"
    assert hints_of(quoter, decision) == [hints]


@pytest.mark.parametrize("zero_for_one", [True, False])
async def test_hints_tell_which_way_the_swap_goes(start: Start, zero_for_one: bool) -> None:
    quoter = await start(StreamingVenue("meteora", 15 * 10**13), streams=1)
    mints = (SOL, USDC) if zero_for_one else (USDC, SOL)

    decision = await quoter.decide(OrderRequest(*mints, 1_000_000))

    assert isinstance(decision, RouteDecision)
    assert hints_of(quoter, decision) == [Hints(zero_for_one=zero_for_one)]


async def test_each_leg_of_a_route_has_its_own_hints_or_none(start: Start) -> None:
    quoter = await start(
        StreamingVenue("raydium", 15 * 10**13),
        StreamingVenue("meteora", 15 * 10**13),
        streams=2,
    )

    decision = await quoter.decide(OrderRequest(SOL, USDC, 10**14))

    assert isinstance(decision, RouteDecision)
    assert decision.route is not None
    venues = [leg.venue for leg in decision.route.legs]
    hints = zip(venues, hints_of(quoter, decision), strict=True)
    assert dict(hints) == {"raydium": None, "meteora": Hints()}


@pytest.mark.parametrize("elsewhere", [True, False], ids=["in another pool", "in this pool"])
async def test_a_leg_that_a_venue_was_asked_to_quote_gets_no_hints(
    store: Store, elsewhere: bool
) -> None:
    venue = Asked("raydium")
    at = (await venue.quote(pb.QuoteQuery(amount_in=1_000), 1)).pool
    # It pays more than what the venue quotes.
    known = pool("a" if elsewhere else at, 200_000, config=0)
    quoter = quoting(store, {"raydium": venue}, news(5, known, pool("b", kind="")), news(6))

    decision = await decide(quoter)

    assert isinstance(decision, RouteDecision)
    assert {(quote.pool, quote.is_local) for quote in decision.quotes} == {
        (at, False),
        (known.address, True),
    }
    assert hints_of(quoter, decision) == [Hints() if elsewhere else None]


async def test_the_router_hands_the_hints_to_the_executor_with_the_order_alone(
    store: Store,
) -> None:
    told = [news(5, pool("a", config=3)), news(6)]
    quoter = quoting(store, {"raydium": Asked("raydium")}, *told)
    router = Router(store, Relay(store, Bus()), quoter, TradingSwitch(store), Accounts(store))
    order = (await store.add(builders.new_order(amount_in=1_000))).order

    await router.route([order.order_id])

    routed = await read(store, order)
    assert routed.route is not None
    assert [leg.hints for leg in routed.route.legs] == [Hints(config=3)]
    [decision] = [e.detail.route for e in await store.events([(order.order_id, 2)], 10)]
    assert decision is not None
    assert decision.route is not None
    assert decision.route.legs == routed.route.agreed_legs


async def test_orders_of_a_hint_do_not_wait_for_the_one_whose_venue_is_asked(
    store: Store,
) -> None:
    told = [news(5, pool("a", config=3)), news(6)]
    quoter = quoting(store, {"raydium": Asked("raydium")}, *told)
    meteora = Asked("meteora")
    quoter._venues = {"raydium": Asked("raydium"), "meteora": meteora}
    router = Router(store, Relay(store, Bus()), quoter, TradingSwitch(store), Accounts(store))
    local = (await store.add(builders.new_order(amount_in=1_000, venues=("raydium",)))).order
    remote = (await store.add(builders.new_order(amount_in=1_000, venues=("meteora",)))).order

    left = await router.route([remote.order_id, local.order_id])

    assert (left, meteora.times) == ([remote.order_id], 0)
    assert (await read(store, local)).route is not None
    assert (await read(store, remote)).route is None
    assert await router.route(left) == []
    route = (await read(store, remote)).route
    assert route is not None
    assert route.venue == "meteora"


# ── what streams do not tell ──────────────────────────────────────────────────────────────────

SMALL = OrderRequest(SOL, USDC, 1_000)


class Asked(FakeVenue):
    """Counts how often it is asked for a quote."""

    times = 0

    async def quote(self, query: pb.QuoteQuery, timeout_seconds: float) -> pb.Quote:
        self.times += 1
        return await super().quote(query, timeout_seconds)


def quoting(store: Store, venues: dict[str, Asked], *told: pb.WatchPoolsResponse) -> Quoter:
    """A quoter whose streams, of all these venues, have told that much."""
    book = PoolBook({}, max_slot_lag=10, max_pool_share_bps=MAX_SHARE)
    for name in venues:
        stream = book._streams[name] = Stream()
        for message in told:
            stream.hear(message, asyncio.get_running_loop().time())
    return Quoter(dict(venues), book, VenueScores(store), Rules(), store.tokens, 2)


async def decide(quoter: Quoter, request: OrderRequest = SMALL) -> RouteDecision | NoOffer:
    async with asyncio.timeout(15):
        return await quoter.decide(request)


@pytest.mark.parametrize(
    "unknown",
    [pool("b", kind=""), pool("b", state="[" * 100_000), pool("b", state='{"vault_0": 0}')],
    ids=["kept to itself", "bottomless", "impossible"],
)
async def test_the_first_order_of_a_pair_with_nothing_but_an_unknown_pool_is_quoted_by_its_venue(
    store: Store, unknown: pb.Pool
) -> None:
    venue = Asked("raydium")

    decision = await decide(quoting(store, {"raydium": venue}, news(5, unknown), news(6)))

    assert isinstance(decision, RouteDecision)
    assert [(quote.venue, quote.refusal) for quote in decision.quotes] == [("raydium", None)]


@pytest.mark.parametrize(
    ("held", "reason", "share_ppm"),
    [("500", None, 300_000), ("499", "POOL_SHARE_LIMIT", None), ("", None, None)],
    ids=["enough", "too little", "not told"],
)
async def test_a_quote_that_was_asked_for_is_held_to_what_the_stream_tells_of_its_pool(
    store: Store, held: str, reason: str | None, share_ppm: int | None
) -> None:
    venue = Asked("raydium")
    at = (await venue.quote(pb.QuoteQuery(amount_in=1_000), 1)).pool
    unknown = pool(at, kind="", reserve_a="1", reserve_b=held)

    decision = await decide(quoting(store, {"raydium": venue}, news(5, unknown), news(6)))

    record = decision.decision if isinstance(decision, NoOffer) else decision
    [quote] = record.quotes
    assert (quote.refusal and quote.refusal.reason, quote.pool_share_ppm) == (reason, share_ppm)


async def test_a_preview_and_the_router_keep_the_same_limit_and_tell_the_same(
    store: Store,
) -> None:
    told = pool("a", reserve_a="1000000", reserve_b="150000")
    quoter = quoting(store, {"raydium": Asked("raydium")}, news(5, told), news(6))
    request = OrderRequest(SOL, USDC, 500_000)
    router = Router(store, Relay(store, Bus()), quoter, TradingSwitch(store), Accounts(store))
    order = (await store.add(builders.new_order(amount_in=500_000))).order

    previewed, _ = await Routes(quoter, RoutePace(0)).preview("default", request, None)
    await router.route([order.order_id])

    events = await store.events([(order.order_id, 0)], 10)
    [retried] = [each.detail for each in events if each.type is EventType.RETRY_SCHEDULED]
    assert retried.failure is not None
    assert retried.failure.reason == "POOL_SHARE_LIMIT"
    assert retried.failure.message == previewed.why
    assert "would pay 3327.74 bps of all it holds, MAX_POOL_SHARE_BPS allows 3000" in previewed.why
    assert retried.route is not None
    assert retried.route.quotes == previewed.quotes


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (OrderRequest(SOL, RAY, 1_000), "NO_ROUTE"),
        (OrderRequest(SOL, USDC, 1), "INSUFFICIENT_LIQUIDITY"),
    ],
    ids=["no pool", "too little"],
)
async def test_what_a_stream_does_not_tell_ends_no_order_unless_the_venue_says_so_too(
    store: Store, request_: OrderRequest, reason: str
) -> None:
    venue = Asked("raydium")
    quoter = quoting(store, {"raydium": venue}, news(5, pool("a")), news(6))

    venue.refusal = Refused("VENUE_UNAVAILABLE", "raydium is away")
    away = await decide(quoter, request_)
    word = "NO_POOL" if reason == "NO_ROUTE" else reason
    venue.refusal = Refused(word, "raydium has nothing for this", permanent=True)
    refused = await decide(quoter, request_)

    assert isinstance(away, NoOffer)
    assert isinstance(refused, NoOffer)
    assert (away.permanent, away.failure.reason) == (False, "VENUE_UNAVAILABLE")
    assert (refused.permanent, refused.failure.reason) == (True, reason)
    assert len(refused.decision.quotes) == 1


# ── all venues at once ────────────────────────────────────────────────────────────────────────


async def asked(
    store: Store, *venues: FakeVenue, names: tuple[str, ...] = (), seconds: float = 15
) -> dict[str, VenueQuote]:
    """What each venue said, of a quoter that follows no stream."""
    quoter = asking(store, {venue.name: venue for venue in venues}, seconds)
    offer = await decide(quoter, OrderRequest(SOL, USDC, 1_500_000_000, venues=names))
    decision = offer.decision if isinstance(offer, NoOffer) else offer
    return {quote.venue: quote for quote in decision.quotes}


async def test_a_late_venue_holds_nobody_up_beyond_the_deadline_and_is_on_record(
    store: Store,
) -> None:
    class Late(FakeVenue):
        async def quote(self, query: pb.QuoteQuery, timeout_seconds: float) -> pb.Quote:
            never: asyncio.Future[pb.Quote] = asyncio.get_running_loop().create_future()
            return await never

    quotes = await asked(store, FakeVenue("raydium"), Late("meteora"), seconds=0.5)

    assert quotes["raydium"].refusal is None
    assert quotes["raydium"].amount_out == 225_000_000
    refusal = quotes["meteora"].refusal
    assert refusal is not None
    assert refusal.reason == "VENUE_TIMEOUT"
    assert not quotes["meteora"].permanent
    assert quotes["meteora"].latency_microseconds >= 450_000


async def test_every_fact_of_a_quote_is_on_record(store: Store) -> None:
    venue = FakeVenue("raydium")
    venue.price_impact_ppm = 11

    quote = (await asked(store, venue))["raydium"]

    assert (quote.pool, quote.kind) == (str(swaps.pool_of(venue.kind)[0]), venue.kind)
    assert (quote.amount_out, quote.fee) == (225_000_000, 3_750_000)
    assert (quote.price_impact_ppm, quote.slot, quote.refusal) == (11, 1, None)


async def test_only_the_venues_that_are_named_are_asked(store: Store) -> None:
    raydium, meteora = Asked("raydium"), Asked("meteora")

    quotes = await asked(store, raydium, meteora, names=("meteora",))

    assert list(quotes) == ["meteora"]
    assert (raydium.times, meteora.times) == (0, 1)


async def test_a_venue_that_is_not_configured_is_a_permanent_refusal(store: Store) -> None:
    quotes = await asked(store, FakeVenue("raydium"), names=("orca", "raydium"))

    orca = quotes["orca"]
    assert orca.refusal is not None
    assert (orca.refusal.reason, orca.permanent) == ("VENUE_UNKNOWN", True)
    assert quotes["raydium"].refusal is None


@pytest.mark.parametrize("permanent", [True, False])
async def test_what_a_venue_refuses_is_on_record_in_its_words(
    store: Store, permanent: bool
) -> None:
    away, refusing = FakeVenue("raydium"), FakeVenue("meteora")
    away.refusal = Refused("VENUE_UNAVAILABLE", "raydium is away")
    refusing.refusal = Refused("NO_POOL", "not with us", permanent=permanent)

    quotes = await asked(store, away, refusing)

    assert quotes["raydium"].refusal == Failure("VENUE_UNAVAILABLE", "raydium is away")
    assert quotes["meteora"].refusal == Failure("NO_POOL", "not with us")
    assert quotes["meteora"].permanent is permanent


async def test_a_venue_that_too_much_waits_for_is_on_record_too(store: Store) -> None:
    class Busy(FakeVenue):
        async def quote(self, query: pb.QuoteQuery, timeout_seconds: float) -> pb.Quote:
            raise Overloaded("too much is waiting")

    quote = (await asked(store, Busy("raydium")))["raydium"]

    assert quote.refusal is not None
    assert (quote.refusal.reason, quote.permanent) == ("OVERLOADED", False)
