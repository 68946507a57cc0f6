"""Orders accepted, shown, listed, previewed and cancelled through a real gateway."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from engine.attempt import Resolution
from engine.errors import StaleOrder
from engine.lifecycle import Status
from engine.order import Order
from engine.store import Store
from engine.v1 import orders_pb2 as pb
from tests import builders
from tests.gateway.running import (
    NO_NATS,
    Gateway,
    code,
    detail,
    eventually,
    reason,
    refusal,
    running,
    stored,
    swap,
    until_over,
    violations,
)

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


async def _accepted(store: Store, status: Status, key: str | None = None) -> Order:
    """An order that routers and executors led to this status."""
    return await builders.stored(store, status, builders.new_order(key))


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
    assert await stored(gateway) == [order]


AMOUNTS: list[Any] = [
    ({"amount_in": "18446744073.709551615"}, ("18446744073.709551615", "")),
    ({"amount_in": "0.000000001"}, ("0.000000001", "")),
    ({"token_in": "BONK", "amount_in": "184467440737095.51615"}, ("184467440737095.51615", "")),
    ({"min_amount_out": "18446744073709.551615"}, ("1.5", "18446744073709.551615")),
    ({"amount_in": "0001.50", "min_amount_out": "200.0"}, ("1.5", "200")),
]


async def test_an_amount_comes_back_exactly_up_to_the_largest_a_chain_can_hold(
    gateway: Gateway,
) -> None:
    for fields, shown in AMOUNTS:
        accepted = (await gateway.client.SubmitOrder(swap(**fields))).order
        found = await gateway.client.GetOrder(pb.GetOrderRequest(order_id=accepted.order_id))
        assert found.order == accepted
        assert (accepted.amount_in, accepted.min_amount_out) == shown


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


async def test_the_same_request_in_other_words_brings_the_same_order_back(
    gateway: Gateway,
) -> None:
    for number, (first, again) in enumerate(SAME):
        order = (await gateway.client.SubmitOrder(swap(f"key-{number}", **first))).order
        response = await gateway.client.SubmitOrder(swap(f"key-{number}", **again))
        assert response == pb.SubmitOrderResponse(order=order, duplicate=True)
    assert len(await stored(gateway)) == len(SAME)


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
    [order] = await stored(gateway)
    assert {response.order.order_id for response in responses} == {order.order_id}


async def test_without_a_key_every_call_makes_an_order(gateway: Gateway) -> None:
    first = await gateway.client.SubmitOrder(swap())
    again = await gateway.client.SubmitOrder(swap())

    assert await stored(gateway) == [again.order, first.order]
    assert (again.duplicate, again.order.client_order_id) == (False, "")


DIFFERENT: list[Any] = [
    ({"token_in": "RAY"}, "token_in"),
    ({"token_out": "USDT"}, "token_out"),
    ({"amount_in": "1.500000001"}, "amount_in"),
    ({"slippage_bps": 99}, "slippage_bps"),
    ({"min_amount_out": "200"}, "slippage_bps"),
    ({"venues": ["raydium"]}, "venues"),
    ({"expire_time": _timestamp(FAR)}, "expire_time"),
    ({"expire_time": _timestamp(PAST)}, "expire_time"),
    ({"amount_in": "2", "token_out": "USDT"}, "token_out"),
]


async def test_a_key_with_another_request_is_refused_and_the_difference_named(
    gateway: Gateway,
) -> None:
    order = (await gateway.client.SubmitOrder(swap("key-1"))).order

    for fields, first_difference in DIFFERENT:
        status = await refusal(gateway.client.SubmitOrder(swap("key-1", **fields)))
        assert (code(status), reason(status)) == ("ALREADY_EXISTS", "CLIENT_ORDER_ID_REUSED")
        assert dict(detail(status, error_details_pb2.ErrorInfo).metadata) == {
            "order_id": order.order_id,
            "first_difference": first_difference,
        }
        assert detail(status, error_details_pb2.ResourceInfo).resource_name == order.order_id
    assert await stored(gateway) == [order]


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
        ("expire_time", "2020-01-01T00:00:00Z has passed: give a later time")
    ]
    assert await stored(gateway) == []


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
    assert await listed(venue="a_venue-of.old") == []
    assert await listed(create_time_from=failed_time) == all_ids[:3]
    assert await listed(create_time_before=failed_time) == all_ids[3:]
    just_after = Timestamp()
    just_after.FromMicroseconds(failed_time.ToMicroseconds() + 1)
    assert await listed(create_time_from=failed_time, create_time_before=just_after) == [
        str(failed.order_id)
    ]
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


async def test_event_pages_are_the_watch_in_pieces(gateway: Gateway, store: Store) -> None:
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


@asynccontextmanager
async def _held(dsn: str, order: Order) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """The order's row, locked; yields a wait until so many others queue for it."""
    connection = await asyncpg.connect(dsn)

    async def until_queued(count: int) -> None:
        async def queued() -> bool:
            found: int = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            )
            return found == count

        await eventually(queued)

    async with connection.transaction():
        await connection.execute(
            "SELECT FROM orders WHERE order_id = $1 FOR UPDATE", order.order_id
        )
        yield until_queued
    await connection.close()


async def test_a_cancel_that_loses_to_a_signer_is_pending(
    dsn: str, gateway: Gateway, store: Store
) -> None:
    order = await _accepted(store, Status.BUILDING, "key-1")
    request = pb.CancelOrderRequest(client_order_id="key-1")
    async with _held(dsn, order) as until_queued:
        signing = asyncio.create_task(store.save(order.sign(builders.attempt(order))))
        await until_queued(1)
        cancelling = gateway.client.CancelOrder(request)
        await until_queued(2)

    await signing
    response = await cancelling
    assert response.outcome == pb.CANCEL_OUTCOME_CANCEL_PENDING
    assert response.order.cancel_requested
    assert response.order.sequence == order.sequence + 2


async def test_a_signer_that_loses_to_a_cancel_signs_nothing(
    dsn: str, gateway: Gateway, store: Store
) -> None:
    order = await _accepted(store, Status.BUILDING, "key-1")
    request = pb.CancelOrderRequest(client_order_id="key-1")
    async with _held(dsn, order) as until_queued:
        cancelling = gateway.client.CancelOrder(request)
        await until_queued(1)
        signing = asyncio.create_task(store.save(order.sign(builders.attempt(order))))
        await until_queued(2)

    response = await cancelling
    assert response.outcome == pb.CANCEL_OUTCOME_CANCELLED_NOW
    assert list(response.order.attempts) == []
    with pytest.raises(StaleOrder):
        await signing
