"""Orders accepted, shown, listed, previewed and cancelled through a real gateway."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from engine.lifecycle import Status
from engine.order import Order, Resolution
from engine.relay import Relay
from engine.store import Store
from engine.v1 import orders_pb2 as pb
from engine.v1 import venue_pb2
from tests import builders
from tests.gateway import running as gateways
from tests.gateway.running import (
    UNREACHABLE,
    Gateway,
    code,
    detail,
    pays,
    reason,
    refusal,
    refuses,
    running,
    swap,
    until_over,
    violations,
)

NO_NATS = f"nats://{UNREACHABLE}"
PAST = datetime(2020, 1, 1, tzinfo=UTC)
FAR = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
async def gateway(dsn: str) -> AsyncIterator[Gateway]:
    """Without venues, and without NATS: accepting, showing and cancelling needs neither."""
    async with running(dsn, NO_NATS) as started:
        yield started


def _timestamp(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message


async def _stored(gateway: Gateway) -> list[pb.Order]:
    return list((await gateway.client.ListOrders(pb.ListOrdersRequest())).orders)


async def _accepted(store: Store, status: Status, key: str | None = None) -> Order:
    """An order that routers and executors led to this status."""
    order = (await store.add(builders.new_order(key))).order
    for transition in builders.steps(order, status):
        order = (await store.save(transition)).order
    return order


# ── SubmitOrder ───────────────────────────────────────────────────────────────────────────────


async def test_an_accepted_order_is_shown_as_it_was_asked_for(gateway: Gateway) -> None:
    response = await gateway.client.SubmitOrder(
        swap("key-1", slippage_bps=50, venues=["raydium"], expire_time=_timestamp(FAR))
    )

    order = response.order
    assert order.create_time == order.update_time
    assert UUID(order.order_id).version == 7
    assert order == pb.Order(
        order_id=order.order_id,
        client_order_id="key-1",
        account="default",
        order_type=pb.ORDER_TYPE_MARKET,
        token_in="SOL",
        token_out="USDC",
        token_in_mint=builders.SOL,
        token_out_mint=builders.USDC,
        amount_in="1.5",
        slippage_bps=50,
        venues=["raydium"],
        expire_time=_timestamp(FAR),
        status=pb.ORDER_STATUS_PENDING,
        sequence=1,
        create_time=order.create_time,
        update_time=order.create_time,
    )
    assert not response.duplicate
    assert await _stored(gateway) == [order]


@pytest.mark.parametrize(
    ("fields", "amount_in", "min_amount_out"),
    [
        ({"amount_in": "18446744073.709551615"}, "18446744073.709551615", ""),
        ({"amount_in": "0.000000001"}, "0.000000001", ""),
        (
            {"token_in": "BONK", "amount_in": "184467440737095.51615"},
            "184467440737095.51615",
            "",
        ),
        ({"min_amount_out": "18446744073709.551615"}, "1.5", "18446744073709.551615"),
        ({"amount_in": "0001.50", "min_amount_out": "200.0"}, "1.5", "200"),
    ],
)
async def test_an_amount_comes_back_exactly_up_to_the_largest_a_chain_can_hold(
    gateway: Gateway, fields: dict[str, Any], amount_in: str, min_amount_out: str
) -> None:
    accepted = (await gateway.client.SubmitOrder(swap("key-1", **fields))).order

    found = await gateway.client.GetOrder(pb.GetOrderRequest(order_id=accepted.order_id))
    assert found.order == accepted
    assert (accepted.amount_in, accepted.min_amount_out) == (amount_in, min_amount_out)


SAME: list[Any] = [
    ({}, {}),
    ({"amount_in": "1.5"}, {"amount_in": "01.500"}),
    ({"token_in": "SOL", "token_out": "USDC"}, {"token_in": builders.SOL}),
    ({"token_out": builders.USDC}, {"token_out": "USDC"}),
    ({}, {"slippage_bps": 100}),
    ({"slippage_bps": 0}, {"slippage_bps": 0}),
    ({}, {"order_type": pb.ORDER_TYPE_MARKET}),
    ({"venues": ["raydium", "meteora"]}, {"venues": ["meteora", "raydium", "raydium"]}),
    ({"min_amount_out": "200"}, {"min_amount_out": "200.000000"}),
    (
        {"expire_time": Timestamp(seconds=4_000_000_000, nanos=1000)},
        {"expire_time": Timestamp(seconds=4_000_000_000, nanos=1999)},
    ),
]


@pytest.mark.parametrize(("first", "again"), SAME)
async def test_the_same_request_in_other_words_brings_the_same_order_back(
    gateway: Gateway, first: dict[str, Any], again: dict[str, Any]
) -> None:
    order = (await gateway.client.SubmitOrder(swap("key-1", **first))).order

    response = await gateway.client.SubmitOrder(swap("key-1", **again))
    assert response == pb.SubmitOrderResponse(order=order, duplicate=True)
    assert await _stored(gateway) == [order]


async def test_a_repeated_request_is_answered_with_the_order_as_it_is_now(
    gateway: Gateway, store: Store
) -> None:
    await _accepted(store, Status.CONFIRMED, "key-1")

    response = await gateway.client.SubmitOrder(swap("key-1"))
    assert response.duplicate
    assert response.order.status == pb.ORDER_STATUS_CONFIRMED


async def test_twenty_simultaneous_calls_with_one_key_make_one_order(gateway: Gateway) -> None:
    calls = [gateway.client.SubmitOrder(swap("key-1")) for _ in range(20)]

    responses = [await call for call in calls]
    assert Counter(response.duplicate for response in responses) == {False: 1, True: 19}
    [order] = await _stored(gateway)
    assert {response.order.order_id for response in responses} == {order.order_id}


async def test_without_a_key_every_call_makes_an_order(gateway: Gateway) -> None:
    first = await gateway.client.SubmitOrder(swap())
    again = await gateway.client.SubmitOrder(swap())

    assert await _stored(gateway) == [again.order, first.order]
    assert (again.duplicate, again.order.client_order_id) == (False, "")


@pytest.mark.parametrize(
    ("fields", "first_difference"),
    [
        ({"token_in": "RAY"}, "token_in"),
        ({"token_out": "USDT"}, "token_out"),
        ({"amount_in": "1.500000001"}, "amount_in"),
        ({"slippage_bps": 99}, "slippage_bps"),
        ({"min_amount_out": "200"}, "slippage_bps"),
        ({"venues": ["raydium"]}, "venues"),
        ({"expire_time": _timestamp(FAR)}, "expire_time"),
        ({"expire_time": _timestamp(PAST)}, "expire_time"),
        ({"amount_in": "2", "token_out": "USDT"}, "token_out"),
    ],
)
async def test_a_key_with_another_request_is_refused_and_the_difference_named(
    gateway: Gateway, fields: dict[str, Any], first_difference: str
) -> None:
    order = (await gateway.client.SubmitOrder(swap("key-1"))).order

    status = await refusal(gateway.client.SubmitOrder(swap("key-1", **fields)))
    assert (code(status), reason(status)) == ("ALREADY_EXISTS", "CLIENT_ORDER_ID_REUSED")
    assert dict(detail(status, error_details_pb2.ErrorInfo).metadata) == {
        "order_id": order.order_id,
        "first_difference": first_difference,
    }
    assert detail(status, error_details_pb2.ResourceInfo).resource_name == order.order_id
    assert await _stored(gateway) == [order]


async def test_a_request_repeated_after_its_expire_time_still_brings_the_order_back(
    gateway: Gateway, store: Store
) -> None:
    # Accepted in time, a while ago.
    order = (await store.add(builders.new_order("key-1", expire_time=PAST))).order

    response = await gateway.client.SubmitOrder(swap("key-1", expire_time=_timestamp(PAST)))
    assert (response.order.order_id, response.duplicate) == (str(order.order_id), True)


@pytest.mark.parametrize("key", ["", "key-1"])
async def test_a_new_order_whose_expire_time_has_passed_is_refused(
    gateway: Gateway, key: str
) -> None:
    request = swap(key, expire_time=_timestamp(PAST))

    assert violations(await refusal(gateway.client.SubmitOrder(request))) == [
        ("expire_time", "2020-01-01T00:00:00Z has passed")
    ]
    assert await _stored(gateway) == []


# ── reading ───────────────────────────────────────────────────────────────────────────────────


async def test_an_order_is_found_by_either_id(gateway: Gateway) -> None:
    order = (await gateway.client.SubmitOrder(swap("key-1"))).order
    names: list[dict[str, Any]] = [
        {"order_id": order.order_id},
        {"order_id": order.order_id.upper()},
        {"client_order_id": "key-1"},
    ]

    found = [await gateway.client.GetOrder(pb.GetOrderRequest(**name)) for name in names]
    assert [response.order for response in found] == [order] * 3


@pytest.mark.parametrize(
    "name",
    [{"order_id": "0198c0de-0000-7000-8000-000000000000"}, {"client_order_id": "key-2"}],
)
async def test_an_unknown_order_is_not_found_by_any_call(
    gateway: Gateway, name: dict[str, Any]
) -> None:
    await gateway.client.SubmitOrder(swap("key-1"))
    client = gateway.client
    calls = [
        client.GetOrder(pb.GetOrderRequest(**name)),
        client.CancelOrder(pb.CancelOrderRequest(**name)),
        client.ListOrderEvents(pb.ListOrderEventsRequest(**name)),
        anext(aiter(client.WatchOrder(pb.WatchOrderRequest(**name)))),
    ]

    for call in calls:
        status = await refusal(call)
        assert (code(status), reason(status)) == ("NOT_FOUND", "ORDER_NOT_FOUND")
        [named] = name.values()
        assert detail(status, error_details_pb2.ResourceInfo).resource_name == named


async def test_orders_are_filtered_by_status_token_venue_and_time(
    gateway: Gateway, store: Store
) -> None:
    pending = await _accepted(store, Status.PENDING)
    failed = await _accepted(store, Status.FAILED)
    confirmed = await _accepted(store, Status.CONFIRMED)
    ray = (await gateway.client.SubmitOrder(swap(token_in="RAY"))).order
    failed_time = (await gateway.client.GetOrder(_named(failed))).order.create_time

    async def listed(**fields: Any) -> list[str]:
        response = await gateway.client.ListOrders(pb.ListOrdersRequest(**fields))
        return [order.order_id for order in response.orders]

    all_ids = [ray.order_id, str(confirmed.order_id), str(failed.order_id), str(pending.order_id)]
    assert await listed() == all_ids
    assert await listed(statuses=[pb.ORDER_STATUS_FAILED]) == [str(failed.order_id)]
    assert await listed(statuses=[pb.ORDER_STATUS_PENDING, pb.ORDER_STATUS_CONFIRMED]) == [
        ray.order_id,
        str(confirmed.order_id),
        str(pending.order_id),
    ]
    assert await listed(token="RAY") == [ray.order_id]
    assert await listed(token=builders.SOL) == all_ids[1:]
    assert await listed(token="USDC") == all_ids
    assert await listed(venue="raydium") == [str(confirmed.order_id)]
    assert await listed(venue="a venue of old") == []
    assert await listed(create_time_from=failed_time) == all_ids[:3]
    assert await listed(create_time_before=failed_time) == all_ids[3:]
    assert await listed(create_time_from=failed_time, create_time_before=failed_time) == []
    assert await listed(token="USDC", venue="raydium", statuses=[pb.ORDER_STATUS_FAILED]) == []
    first, last = Timestamp(seconds=-62_135_596_800), Timestamp(seconds=253_402_300_799)
    assert await listed(create_time_from=first, create_time_before=last) == all_ids


def _named(order: Order) -> pb.GetOrderRequest:
    return pb.GetOrderRequest(order_id=str(order.order_id))


async def test_pages_miss_and_repeat_nothing_while_orders_are_accepted(gateway: Gateway) -> None:
    before = [(await gateway.client.SubmitOrder(swap())).order.order_id for _ in range(7)]

    pages = []
    request = pb.ListOrdersRequest(page_size=3)
    for _ in range(3):
        page = await gateway.client.ListOrders(request)
        pages.append([order.order_id for order in page.orders])
        request.page_token = page.next_page_token
        await gateway.client.SubmitOrder(swap())
    assert pages == [before[:3:-1], before[3:0:-1], before[:1]]
    assert request.page_token == ""


async def test_an_exactly_full_last_page_has_no_next(gateway: Gateway) -> None:
    for _ in range(3):
        await gateway.client.SubmitOrder(swap())

    page = await gateway.client.ListOrders(pb.ListOrdersRequest(page_size=3))
    assert (len(page.orders), page.next_page_token) == (3, "")


async def test_event_pages_are_the_watch_in_pieces(
    gateway: Gateway, store: Store
) -> None:
    order = await _accepted(store, Status.CONFIRMED, "key-1")
    watch = gateway.client.WatchOrder(
        pb.WatchOrderRequest(order_id=str(order.order_id), after_sequence=0)
    )
    watched = [response.event for response in await until_over(watch)]

    request = pb.ListOrderEventsRequest(client_order_id="key-1", page_size=4)
    first = await gateway.client.ListOrderEvents(request)
    request.page_token = first.next_page_token
    second = await gateway.client.ListOrderEvents(request)
    assert [len(first.events), len(second.events)] == [4, 2]
    assert [*first.events, *second.events] == watched
    assert second.next_page_token == ""


async def test_token_pages_show_every_token_by_symbol(gateway: Gateway) -> None:
    first = await gateway.client.ListTokens(pb.ListTokensRequest(page_size=4))
    second = await gateway.client.ListTokens(
        pb.ListTokensRequest(page_size=4, page_token=first.next_page_token)
    )

    assert [token.symbol for token in first.tokens] == ["BONK", "JUP", "RAY", "SOL"]
    assert [token.symbol for token in second.tokens] == ["USDC", "USDT"]
    assert first.tokens[3] == pb.Token(symbol="SOL", mint=builders.SOL, decimals=9)
    assert second.next_page_token == ""


# ── CancelOrder ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [Status.PENDING, Status.ROUTING, Status.BUILDING])
async def test_an_order_without_a_signature_is_cancelled_now_and_again(
    gateway: Gateway, store: Store, status: Status
) -> None:
    order = await _accepted(store, status, "key-1")
    by_key = pb.CancelOrderRequest(client_order_id="key-1")
    by_id = pb.CancelOrderRequest(order_id=str(order.order_id))

    response = await gateway.client.CancelOrder(by_key)
    assert response.outcome == pb.CANCEL_OUTCOME_CANCELLED_NOW
    assert (response.order.status, response.order.settled) == (pb.ORDER_STATUS_CANCELLED, True)
    again = await gateway.client.CancelOrder(by_id)
    assert again.outcome == pb.CANCEL_OUTCOME_CANCELLED_NOW
    assert again.order.sequence == response.order.sequence == order.sequence + 1


async def test_an_order_between_two_attempts_is_cancelled_now_and_again(
    gateway: Gateway, store: Store
) -> None:
    signed = await _accepted(store, Status.SUBMITTED, "key-1")
    await store.save(
        signed.resolve(Resolution.EXPIRED_UNLANDED, builders.EVIDENCE, builders.FAILURE)
    )
    request = pb.CancelOrderRequest(client_order_id="key-1")

    responses = [await gateway.client.CancelOrder(request) for _ in range(2)]
    assert [r.outcome for r in responses] == [pb.CANCEL_OUTCOME_CANCELLED_NOW] * 2
    assert [r.order.sequence for r in responses] == [signed.sequence + 2] * 2


async def test_the_cancel_of_a_signed_order_is_pending_until_its_attempt_is_resolved(
    gateway: Gateway, store: Store
) -> None:
    await _accepted(store, Status.SUBMITTED, "key-1")
    request = pb.CancelOrderRequest(client_order_id="key-1")

    responses = [await gateway.client.CancelOrder(request) for _ in range(2)]
    assert [r.outcome for r in responses] == [pb.CANCEL_OUTCOME_CANCEL_PENDING] * 2
    assert responses[0].order == responses[1].order
    assert responses[0].order.cancel_requested
    assert responses[0].order.status == pb.ORDER_STATUS_SUBMITTED
    pending = await store.get_by_client_order_id("default", "key-1")
    assert pending is not None
    await store.save(
        pending.resolve(Resolution.EXPIRED_UNLANDED, builders.EVIDENCE, builders.FAILURE)
    )
    ended = await gateway.client.CancelOrder(request)
    assert ended.outcome == pb.CANCEL_OUTCOME_TOO_LATE
    assert ended.order.status == pb.ORDER_STATUS_CANCELLED


@pytest.mark.parametrize("status", [Status.CONFIRMED, Status.FAILED, Status.EXPIRED])
async def test_an_order_that_has_ended_is_cancelled_too_late_and_stays_as_it_is(
    gateway: Gateway, store: Store, status: Status
) -> None:
    order = await _accepted(store, status)
    request = pb.CancelOrderRequest(order_id=str(order.order_id))

    response = await gateway.client.CancelOrder(request)
    assert response.outcome == pb.CANCEL_OUTCOME_TOO_LATE
    assert response.order == (await gateway.client.GetOrder(_named(order))).order
    assert response.order.sequence == order.sequence


async def test_a_cancel_and_a_signer_that_race_agree_on_who_was_first(
    gateway: Gateway, store: Store
) -> None:
    building = await _accepted(store, Status.BUILDING, "key-1")
    signing = asyncio.create_task(store.save(building.sign(builders.attempt(building))))
    cancel = await gateway.client.CancelOrder(pb.CancelOrderRequest(client_order_id="key-1"))

    await asyncio.wait({signing})
    signed = signing.exception() is None
    now = (await gateway.client.GetOrder(_named(building))).order
    assert (signed, cancel.outcome, now.status) in [
        (True, pb.CANCEL_OUTCOME_CANCEL_PENDING, pb.ORDER_STATUS_SUBMITTED),
        (False, pb.CANCEL_OUTCOME_CANCELLED_NOW, pb.ORDER_STATUS_CANCELLED),
    ]


# ── PreviewOrder, validate_only ───────────────────────────────────────────────────────────────

NO_POOL = refuses(venue_pb2.REFUSAL_REASON_NO_POOL, "no pool for this pair")
LIMITED = refuses(venue_pb2.REFUSAL_REASON_RATE_LIMITED, "ask again later")
PREVIEW = pb.PreviewOrderRequest(token_in="SOL", token_out="USDC", amount_in="1.5")


async def test_a_preview_shows_every_quote_and_the_route_that_would_win(dsn: str) -> None:
    async with (
        gateways.venues(raydium=pays(225_000_000), meteora=pays(224_000_000)) as addresses,
        running(dsn, NO_NATS, venues=addresses) as gateway,
    ):
        route = (await gateway.client.PreviewOrder(PREVIEW)).route

        assert await _stored(gateway) == []
    assert (route.venue, route.min_amount_out) == ("raydium", "222.75")
    assert route.why == "meteora offered 44.44 bps less than raydium"
    for quote in route.quotes:
        assert quote.latency.ToMicroseconds() > 0
        quote.ClearField("latency")
    facts: dict[str, Any] = {"pool": "pool", "fee": "0.00375", "price_impact_bps": "1.2", "slot": 7}
    assert list(route.quotes) == [
        pb.VenueQuote(venue="meteora", amount_out="224", net_price="149.333333333", **facts),
        pb.VenueQuote(venue="raydium", amount_out="225", net_price="150", **facts),
    ]


@pytest.mark.parametrize(
    ("fields", "floor"),
    [
        ({"slippage_bps": 0}, "225"),
        ({"slippage_bps": 5000}, "112.5"),
        ({"min_amount_out": "200"}, "200"),
    ],
)
async def test_a_preview_shows_the_floor_that_the_order_would_have(
    dsn: str, fields: dict[str, Any], floor: str
) -> None:
    request = pb.PreviewOrderRequest(**fields)
    request.MergeFrom(PREVIEW)
    async with (
        gateways.venues(raydium=pays(225_000_000)) as addresses,
        running(dsn, NO_NATS, venues=addresses) as gateway,
    ):
        assert (await gateway.client.PreviewOrder(request)).route.min_amount_out == floor


async def test_a_preview_asks_only_the_venues_it_names(dsn: str) -> None:
    request = pb.PreviewOrderRequest(venues=["meteora"])
    request.MergeFrom(PREVIEW)
    async with (
        gateways.venues(raydium=pays(225_000_000), meteora=pays(224_000_000)) as addresses,
        running(dsn, NO_NATS, venues=addresses) as gateway,
    ):
        route = (await gateway.client.PreviewOrder(request)).route
    assert ([quote.venue for quote in route.quotes], route.venue) == (["meteora"], "meteora")


async def test_a_preview_shows_refusals_beside_quotes(dsn: str) -> None:
    async with (
        gateways.venues(orca=LIMITED, phoenix=NO_POOL, raydium=pays(225_000_000)) as scripted,
        running(
            dsn,
            NO_NATS,
            venues=scripted | {"meteora": UNREACHABLE},
        ) as gateway,
    ):
        route = (await gateway.client.PreviewOrder(PREVIEW)).route
    assert (route.venue, route.why) == ("raydium", "raydium was the only venue with a quote")
    refused = {quote.venue: quote.refusal for quote in route.quotes}
    assert refused == {
        "meteora": pb.OrderError(
            reason="VENUE_UNAVAILABLE", message="meteora is not available (UNAVAILABLE)"
        ),
        "orca": pb.OrderError(reason="RATE_LIMITED", message="ask again later"),
        "phoenix": pb.OrderError(reason="NO_POOL", message="no pool for this pair"),
        "raydium": pb.OrderError(),
    }


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "no venue offered a quote"),
        ({"min_amount_out": "226"}, "is below the floor"),
    ],
)
async def test_a_preview_that_may_succeed_later_is_shown_without_a_route(
    dsn: str, fields: dict[str, Any], why: str
) -> None:
    request = pb.PreviewOrderRequest(**fields)
    request.MergeFrom(PREVIEW)
    answers = {"no venue offered a quote": LIMITED, "is below the floor": pays(225_000_000)}
    async with (
        gateways.venues(raydium=answers[why], meteora=NO_POOL) as addresses,
        running(dsn, NO_NATS, venues=addresses) as gateway,
    ):
        route = (await gateway.client.PreviewOrder(request)).route
    assert (route.venue, why in route.why) == ("", True), route.why
    assert [quote.venue for quote in route.quotes] == ["meteora", "raydium"]


async def test_what_no_venue_can_ever_do_is_refused_as_no_route(dsn: str) -> None:
    dry = refuses(venue_pb2.REFUSAL_REASON_INSUFFICIENT_LIQUIDITY, "the pool holds too little")
    async with (
        gateways.venues(raydium=NO_POOL, meteora=dry) as addresses,
        running(dsn, NO_NATS, venues=addresses) as gateway,
    ):
        calls = [
            gateway.client.PreviewOrder(PREVIEW),
            gateway.client.SubmitOrder(swap("key-1", validate_only=True)),
        ]
        for call in calls:
            status = await refusal(call)
            assert (code(status), reason(status)) == ("FAILED_PRECONDITION", "NO_ROUTE")
            found = detail(status, error_details_pb2.PreconditionFailure).violations
            assert [(v.type, v.subject, v.description) for v in found] == [
                ("NO_ROUTE", "meteora", "the pool holds too little"),
                ("NO_ROUTE", "raydium", "no pool for this pair"),
            ]
        # An order is accepted without asking any venue.
        assert (await gateway.client.SubmitOrder(swap("key-1"))).order.order_id


async def test_validate_only_answers_as_an_order_would_and_stores_nothing(dsn: str) -> None:
    async with (
        gateways.venues(raydium=pays(225_000_000)) as addresses,
        running(dsn, NO_NATS, venues=addresses) as gateway,
    ):
        checked = await gateway.client.SubmitOrder(swap("key-1", validate_only=True))
        assert await _stored(gateway) == []
        accepted = await gateway.client.SubmitOrder(swap("key-1"))
    assert not accepted.duplicate
    assert checked.order.order_id == ""
    for given in ("order_id", "create_time", "update_time"):
        accepted.order.ClearField(given)
    assert checked.order == accepted.order


async def test_validate_only_refuses_a_key_that_the_order_would_be_refused_for(dsn: str) -> None:
    async with (
        gateways.venues(raydium=pays(225_000_000)) as addresses,
        running(dsn, NO_NATS, venues=addresses) as gateway,
    ):
        await gateway.client.SubmitOrder(swap("key-1"))
        request = swap("key-1", amount_in="2", validate_only=True)
        assert code(await refusal(gateway.client.SubmitOrder(request))) == "ALREADY_EXISTS"


# ── outages ───────────────────────────────────────────────────────────────────────────────────


async def test_an_accepted_order_is_announced_and_offered_to_a_router(
    dsn: str, nats: Nats, bus: Bus
) -> None:
    assert bus.client is not None
    async with running(dsn, nats.url) as gateway:
        await _connected(gateway, bus)
        events = await bus.client.subscribe("orders.status.*")
        hints = await bus.client.subscribe(Queue.ROUTE.subject)
        await bus.client.flush()
        accepted = (await gateway.client.SubmitOrder(swap("key-1"))).order
        hint = await hints.next_msg(PATIENCE_SECONDS)
        announced = await events.next_msg(PATIENCE_SECONDS)

    assert UUID(bytes=hint.data) == UUID(accepted.order_id)
    event = pb.OrderEvent.FromString(announced.data)
    assert (event.order_id, event.sequence) == (accepted.order_id, 1)


async def _connected(gateway: Gateway, bus: Bus) -> None:
    """Return once the gateway has its connection to NATS, which comes up beside its door."""
    order = (await gateway.client.SubmitOrder(swap())).order
    watch = gateway.client.WatchOrder(pb.WatchOrderRequest(order_id=order.order_id))
    await anext(aiter(watch))
    await eventually(lambda: followed(bus, order.order_id))
    watch.cancel()
    await eventually(lambda: unfollowed(bus, order.order_id))


async def test_a_plain_subscriber_hears_every_event_of_every_order(dsn: str, nats: Nats) -> None:
    client = await nats_client.connect(nats.url)
    heard: list[pb.OrderEvent] = []
    async with (
        open_store(dsn) as store,
        open_bus(nats.url, "router") as bus,
        running(dsn, nats.url) as gateway,
    ):
        await eventually_connected(bus)
        await _connected(gateway, bus)
        subscription = await client.subscribe("orders.status.>")
        await client.flush()
        relay = Relay(store, bus)
        submitted = [
            (await gateway.client.SubmitOrder(swap(key))).order for key in ("swapped", "cancelled")
        ]
        order = await store.get(UUID(submitted[0].order_id))
        assert order is not None
        for transition in builders.steps(order, Status.CONFIRMED):
            order = await relay.commit(transition)
        await relay.commit(order.finalize(builders.EVIDENCE))
        await gateway.client.CancelOrder(pb.CancelOrderRequest(client_order_id="cancelled"))
        heard = [await subscription.next_msg(PATIENCE_SECONDS) for _ in range(9)]
        stored = [
            event
            for one in submitted
            for event in (
                await gateway.client.ListOrderEvents(
                    pb.ListOrderEventsRequest(order_id=one.order_id)
                )
            ).events
        ]
    await client.close()
    events = [pb.OrderEvent.FromString(message.data) for message in heard]
    assert sorted(events, key=_place) == sorted(stored, key=_place)
    assert {m.subject for m in heard} == {f"orders.status.{one.order_id}" for one in submitted}
