"""Pages of orders: each order that was there is on one of them, whatever comes in between."""

from __future__ import annotations

from uuid import UUID

import pytest
from msgspec.structs import replace

from engine.store import Store
from engine.v1 import orders_pb2 as pb
from tests import builders
from tests.gateway.running import Gateway, refusal, swap, violations

NEWEST, OLDEST = pb.ORDER_BY_NEWEST_FIRST, pb.ORDER_BY_OLDEST_FIRST
# Ids of gateways whose clocks are behind and ahead of everybody's.
EARLY = UUID("01000000-0000-7000-8000-000000000000")
LATE = UUID("0fffffff-0000-7000-8000-000000000000")


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


@pytest.mark.parametrize(("given", "asked"), [(NEWEST, OLDEST), (OLDEST, NEWEST)])
async def test_a_page_token_of_the_other_order_is_refused(
    gateway: Gateway, given: pb.OrderBy.ValueType, asked: pb.OrderBy.ValueType
) -> None:
    await accepted(gateway, 2)
    page = await gateway.client.ListOrders(pb.ListOrdersRequest(order_by=given, page_size=1))
    mixed = pb.ListOrdersRequest(order_by=asked, page_token=page.next_page_token)

    [(field, _)] = violations(await refusal(gateway.client.ListOrders(mixed)))
    assert field == "page_token"


async def test_an_order_that_nobody_knows_is_refused(gateway: Gateway) -> None:
    request = pb.ListOrdersRequest.FromString(bytes([8 << 3, 77]))

    assert violations(await refusal(gateway.client.ListOrders(request))) == [
        ("order_by", "77 is not known: name one of OrderBy")
    ]
