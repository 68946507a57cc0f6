"""Pages of orders: each order that was there is on one of them, whatever comes in between."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from msgspec.structs import replace

from engine.store import Store
from engine.v1 import admin_pb2
from engine.v1 import orders_pb2 as pb
from gateway.fields import shown
from tests import builders
from tests.gateway.running import Gateway, refusal, swap, violations

NEWEST, OLDEST = pb.ORDER_BY_NEWEST_FIRST, pb.ORDER_BY_OLDEST_FIRST
# Ids of gateways whose clocks are behind and ahead of everybody's.
EARLY = UUID("01000000-0000-7000-8000-000000000000")
LATE = UUID("0fffffff-0000-7000-8000-000000000000")
YEAR_3000 = Timestamp(seconds=32_503_680_000)


async def accepted(gateway: Gateway, count: int) -> list[str]:
    """The ids of new orders, as they were accepted."""
    return [(await gateway.client.SubmitOrder(swap())).order.order_id for _ in range(count)]


@pytest.mark.parametrize("order_by", [NEWEST, OLDEST])
async def test_pages_have_every_order_once_while_others_are_accepted(
    gateway: Gateway, store: Store, order_by: pb.OrderBy.ValueType
) -> None:
    before = await accepted(gateway, 7)
    strangers = {str(EARLY), str(LATE)}
    seen: list[str] = []
    token = ""
    # Two further gateways, one clock behind and one ahead, and this one: all accept meanwhile.
    meanwhile = iter((EARLY, LATE))
    while True:
        page = await gateway.client.ListOrders(
            pb.ListOrdersRequest(order_by=order_by, page_size=2, page_token=token)
        )
        seen += [order.order_id for order in page.orders]
        token = page.next_page_token
        if not token:
            break
        for order_id in meanwhile:
            await store.add(replace(builders.new_order(), order_id=order_id))
            break
        if len(seen) < 5:
            await accepted(gateway, 1)

    assert len(seen) == len(set(seen))
    there = [order_id for order_id in seen if order_id in before]
    assert there == (before if order_by == OLDEST else before[::-1])
    assert sorted(seen) == (seen if order_by == OLDEST else seen[::-1])
    assert set(seen) & strangers


async def test_newest_first_is_what_is_listed_unless_told_otherwise(gateway: Gateway) -> None:
    before = await accepted(gateway, 3)
    listed = await gateway.client.ListOrders(pb.ListOrdersRequest())

    assert [order.order_id for order in listed.orders] == before[::-1]


@pytest.mark.parametrize(
    ("given", "asked", "differs"),
    [
        ({}, {"order_by": OLDEST}, "another order_by"),
        ({"order_by": OLDEST}, {}, "another order_by"),
        ({"token": "SOL"}, {}, "other filters"),
        ({}, {"token": "SOL"}, "other filters"),
        ({}, {"statuses": [pb.ORDER_STATUS_PENDING]}, "other filters"),
        ({}, {"venue": "raydium"}, "other filters"),
        ({}, {"create_time_from": Timestamp(seconds=1)}, "other filters"),
        (
            {"create_time_from": Timestamp(seconds=1)},
            {"create_time_from": Timestamp(seconds=2)},
            "other filters",
        ),
        ({}, {"create_time_before": YEAR_3000}, "other filters"),
    ],
)
async def test_a_page_token_is_good_for_its_own_list_alone(
    gateway: Gateway, given: dict[str, Any], asked: dict[str, Any], differs: str
) -> None:
    await accepted(gateway, 2)
    page = await gateway.client.ListOrders(pb.ListOrdersRequest(page_size=1, **given))
    token = page.next_page_token
    other = pb.ListOrdersRequest(page_token=token, **asked)

    assert violations(await refusal(gateway.client.ListOrders(other))) == [
        ("page_token", f"{shown(token)} is of {differs}: ask for the first page again")
    ]


async def test_a_list_said_in_other_words_goes_on_with_its_token(gateway: Gateway) -> None:
    first, _ = await accepted(gateway, 2)
    pending, failed = pb.ORDER_STATUS_PENDING, pb.ORDER_STATUS_FAILED
    page = await gateway.client.ListOrders(
        pb.ListOrdersRequest(page_size=1, token="SOL", statuses=[pending, failed])
    )

    rest = await gateway.client.ListOrders(
        pb.ListOrdersRequest(
            page_token=page.next_page_token,
            token=builders.SOL,
            statuses=[failed, pending, failed],
            order_by=NEWEST,
        )
    )
    assert [order.order_id for order in rest.orders] == [first]


async def test_a_page_token_of_one_orders_events_is_refused_for_anothers(
    gateway: Gateway, store: Store
) -> None:
    one, other = [
        (await gateway.client.SubmitOrder(swap(key))).order.order_id for key in ("one", "other")
    ]
    order = await store.get_by_client_order_id("default", "one")
    assert order is not None
    await store.save(order.start_routing())
    page = await gateway.client.ListOrderEvents(
        pb.ListOrderEventsRequest(order_id=one, page_size=1)
    )
    token = page.next_page_token

    # The order may be named by its other id.
    rest = pb.ListOrderEventsRequest(client_order_id="one", page_token=token)
    assert [event.sequence for event in (await gateway.client.ListOrderEvents(rest)).events] == [2]
    mixed = pb.ListOrderEventsRequest(order_id=other, page_token=token)
    assert violations(await refusal(gateway.client.ListOrderEvents(mixed))) == [
        ("page_token", f"{shown(token)} is of another order's events: ask for the first page again")
    ]


async def test_a_page_token_of_another_method_is_refused_by_its_name(gateway: Gateway) -> None:
    tokens = await gateway.client.ListTokens(pb.ListTokensRequest(page_size=1))
    request = pb.ListOrdersRequest(page_token=tokens.next_page_token)

    assert violations(await refusal(gateway.client.ListOrders(request))) == [
        (
            "page_token",
            f"{tokens.next_page_token!r} is of ListTokens: ask for the first page again",
        )
    ]


async def test_a_page_token_of_one_accounts_keys_is_refused_for_anothers(gateway: Gateway) -> None:
    request = admin_pb2.CreateKeyRequest(account="desk", role=admin_pb2.ROLE_OPERATOR)
    operator = gateway.called_with((await gateway.admin.CreateKey(request)).secret)
    await operator.admin.CreateKey(request)
    page = await operator.admin.ListKeys(admin_pb2.ListKeysRequest(account="desk", page_size=1))

    everyone = admin_pb2.ListKeysRequest(page_token=page.next_page_token)
    [(field, why)] = violations(await refusal(operator.admin.ListKeys(everyone)))
    assert (field, "is of another account" in why) == ("page_token", True), why


async def test_an_order_that_nobody_knows_is_refused(gateway: Gateway) -> None:
    request = pb.ListOrdersRequest.FromString(bytes([8 << 3, 77]))

    assert violations(await refusal(gateway.client.ListOrders(request))) == [
        ("order_by", "77 is not known: name one of OrderBy")
    ]
