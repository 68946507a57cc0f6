"""The router against a real store, with venues that behave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.accounts import Accounts
from engine.allowance import AccountLimits
from engine.bus import Bus
from engine.errors import Refused
from engine.lifecycle import EventType, Status
from engine.order import Order
from engine.relay import Relay
from engine.store import Store
from engine.trading import TradingSwitch
from router_svc.router import Router
from tests import builders
from tests.engine.test_store import execute, read
from tests.fakes import FakeVenue, asking

AWAY = Refused("VENUE_UNAVAILABLE", "raydium is not available (UNAVAILABLE)")
NO_POOL = Refused("NO_POOL", "raydium has no pool for this pair", permanent=True)


@pytest.fixture
def venues() -> dict[str, FakeVenue]:
    return {"meteora": FakeVenue("meteora", 149), "raydium": FakeVenue("raydium", 150)}


@pytest.fixture
def router(store: Store, venues: dict[str, FakeVenue]) -> Router:
    switch, accounts = TradingSwitch(store), Accounts(store)
    return Router(store, Relay(store, Bus()), asking(store, venues), switch, accounts)


async def routed(store: Store, router: Router, **request: Any) -> Order:
    order = (await store.add(builders.new_order(**request))).order
    await router.route([order.order_id])
    return await read(store, order)


async def test_the_best_net_price_wins_and_pins_the_floor(store: Store, router: Router) -> None:
    order = await routed(store, router, slippage_bps=50)

    assert order.status is Status.ROUTING
    assert order.route is not None
    assert (order.route.venue, order.route.quoted_amount_out) == ("raydium", 225_000_000)
    assert order.min_amount_out == 223_875_000


async def test_a_refusal_stays_on_record_beside_the_winner(
    store: Store, router: Router, venues: dict[str, FakeVenue]
) -> None:
    venues["raydium"].refusal = AWAY

    order = await routed(store, router)

    assert order.route is not None
    assert order.route.venue == "meteora"
    [decision] = [e.detail.route for e in await store.events([(order.order_id, 2)], 10)]
    assert decision is not None
    refusals = {quote.venue: quote.refusal for quote in decision.quotes}
    assert refusals["meteora"] is None
    assert refusals["raydium"] is not None
    assert refusals["raydium"].message == str(AWAY)


async def test_venues_that_stay_away_are_asked_four_times_with_doubling_waits(
    store: Store, router: Router, venues: dict[str, FakeVenue]
) -> None:
    for venue in venues.values():
        venue.refusal = AWAY
    order = await routed(store, router)
    while order.status is Status.ROUTING:
        # Nobody shortens the wait: a hint that comes early is nothing.
        await router.route([order.order_id])
        assert (await read(store, order)).sequence == order.sequence
        await execute(store, "UPDATE orders SET not_before = now()")
        await router.route([order.order_id])
        order = await read(store, order)

    events = await store.events([(order.order_id, 0)], 100)
    waits = [event.detail.retry.delay_milliseconds for event in events if event.detail.retry]
    assert waits == [1000, 2000, 4000]
    assert (order.status, order.settled, order.retries) == (Status.FAILED, True, 3)
    assert order.failure is not None
    assert order.failure.reason == "VENUE_UNAVAILABLE"
    assert str(AWAY) in order.failure.message


async def test_a_pair_without_a_pool_fails_at_once(
    store: Store, router: Router, venues: dict[str, FakeVenue]
) -> None:
    for venue in venues.values():
        venue.refusal = NO_POOL

    order = await routed(store, router)

    assert (order.status, order.retries) == (Status.FAILED, 0)
    assert order.failure is not None
    assert order.failure.reason == "NO_ROUTE"


async def test_one_venue_away_and_one_without_a_pool_is_worth_a_retry(
    store: Store, router: Router, venues: dict[str, FakeVenue]
) -> None:
    venues["raydium"].refusal = NO_POOL
    venues["meteora"].refusal = AWAY

    order = await routed(store, router)

    assert (order.status, order.retries) == (Status.ROUTING, 1)


async def test_a_requote_below_the_pinned_floor_is_not_taken(
    store: Store, router: Router, venues: dict[str, FakeVenue]
) -> None:
    order = await routed(store, router)
    retrying = order.retry_or_fail(builders.FAILURE)
    await store.save(retrying)
    await execute(store, "UPDATE orders SET not_before = now()")
    for venue in venues.values():
        venue.rate = 100

    await router.route([order.order_id])

    again = await read(store, order)
    assert (again.status, again.retries) == (Status.ROUTING, 2)
    assert again.min_amount_out == order.min_amount_out
    assert again.failure is not None
    assert again.failure.reason == "PRICE_FLOOR_NOT_MET"


async def test_the_clients_own_floor_replaces_slippage(store: Store, router: Router) -> None:
    order = await routed(store, router, slippage_bps=None, min_amount_out=225_000_000)
    too_high = await routed(store, router, slippage_bps=None, min_amount_out=225_000_001)

    assert order.min_amount_out == 225_000_000
    assert too_high.route is None
    assert too_high.failure is not None
    assert too_high.failure.reason == "PRICE_FLOOR_NOT_MET"


async def test_only_allowed_venues_are_asked(store: Store, router: Router) -> None:
    order = await routed(store, router, venues=("meteora",))

    assert order.route is not None
    assert order.route.venue == "meteora"
    events = await store.events([(order.order_id, 0)], 100)
    [decision] = [event.detail.route for event in events if event.detail.route]
    assert [quote.venue for quote in decision.quotes] == ["meteora"]


async def test_two_routers_on_one_order_leave_one_route(store: Store, router: Router) -> None:
    order = (await store.add(builders.new_order())).order

    await asyncio.gather(*(router.route([order.order_id]) for _ in range(8)))

    types = [event.type for event in await store.events([(order.order_id, 0)], 100)]
    assert types == [
        EventType.ORDER_ACCEPTED,
        EventType.ROUTING_STARTED,
        EventType.ROUTE_CHOSEN,
    ]


async def test_an_order_past_expire_time_is_not_routed(store: Store, router: Router) -> None:
    order = (await store.add(builders.new_order())).order
    await execute(store, "UPDATE orders SET expire_time = now()")

    await router.route([order.order_id])

    assert (await read(store, order)).status is Status.EXPIRED


@pytest.mark.parametrize("status", [Status.BUILDING, Status.SUBMITTED, Status.FAILED])
async def test_a_late_hint_changes_nothing(store: Store, router: Router, status: Status) -> None:
    order = await builders.stored(store, status)

    await router.route([order.order_id])

    assert (await read(store, order)).sequence == order.sequence


async def test_an_order_whose_account_takes_no_such_price_impact_is_tried_again_and_then_fails(
    store: Store, venues: dict[str, FakeVenue]
) -> None:
    accounts = Accounts(store)
    await accounts.set("default", AccountLimits(max_price_impact_bps=50))
    switch = TradingSwitch(store)
    router = Router(store, Relay(store, Bus()), asking(store, venues), switch, accounts)
    for venue in venues.values():
        venue.price_impact_ppm = 5_001
    order = await routed(store, router)
    for _ in range(3):
        assert (order.status, order.route) == (Status.ROUTING, None)
        await execute(store, "UPDATE orders SET not_before = now()")
        await router.route([order.order_id])
        order = await read(store, order)
    assert order.status is Status.FAILED
    assert order.failure is not None
    assert order.failure.reason == "RISK_LIMIT"
    assert "limit of 50 bps: meteora 50.01, raydium 50.01" in order.failure.message

    venues["meteora"].price_impact_ppm = 5_000
    order = await routed(store, router)
    assert order.route is not None
    assert order.route.venue == "meteora"  # the better price has too much impact
