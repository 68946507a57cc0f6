"""Previews and validate_only: what venues would do, and nothing stored."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from google.rpc import error_details_pb2

from engine.v1 import orders_pb2 as pb
from engine.v1 import venue_pb2
from tests.gateway import running as gateways
from tests.gateway.running import (
    NO_NATS,
    POOL,
    UNREACHABLE,
    Answer,
    code,
    detail,
    pays,
    reason,
    refusal,
    refuses,
    running,
    stored,
    swap,
)

NO_POOL = refuses(venue_pb2.REFUSAL_REASON_NO_POOL, "no pool for this pair")
LIMITED = refuses(venue_pb2.REFUSAL_REASON_RATE_LIMITED, "ask again later")
PREVIEW = pb.PreviewOrderRequest(token_in="SOL", token_out="USDC", amount_in="1.5")


async def test_a_preview_shows_every_quote_and_the_route_that_would_win(dsn: str) -> None:
    async with (
        gateways.venues(raydium=pays(225_000_000), meteora=pays(224_000_000)) as addresses,
        running(dsn, NO_NATS, venues=addresses) as gateway,
    ):
        route = (await gateway.client.PreviewOrder(PREVIEW)).route

        assert await stored(gateway) == []
    assert (route.venue, route.min_amount_out) == ("raydium", "222.75")
    assert route.why == "meteora offered 44.44 bps less than raydium"
    for quote in route.quotes:
        assert quote.latency.ToMicroseconds() > 0
        quote.ClearField("latency")
    facts: dict[str, Any] = {"pool": POOL, "fee": "0.00375", "price_impact_bps": "1.2", "slot": 7}
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


def swaps(reserve_in: int, reserve_out: int) -> Answer:
    """A pool that keeps the product of its reserves, without a fee."""

    def answer(query: venue_pb2.QuoteQuery) -> venue_pb2.QuoteResult:
        amount_out = reserve_out * query.amount_in // (reserve_in + query.amount_in)
        return pays(amount_out)(query)

    return answer


async def test_a_preview_shows_what_other_amounts_would_yield_by_their_own_best_route(
    dsn: str,
) -> None:
    """raydium pays more for little, meteora is deeper."""
    async with (
        gateways.venues(
            raydium=swaps(1_000 * 10**9, 151_000 * 10**6),
            meteora=swaps(100_000 * 10**9, 15_000_000 * 10**6),
        ) as addresses,
        running(dsn, NO_NATS, venues=addresses) as gateway,
    ):
        preview = await gateway.client.PreviewOrder(PREVIEW)
        held = pb.PreviewOrderRequest(min_amount_out="225")
        held.MergeFrom(PREVIEW)
        with_floor = await gateway.client.PreviewOrder(held)
    curve = preview.curve
    assert [point.amount_in for point in curve] == [
        *("0.015", "0.05", "0.15", "0.5", "1.5", "4.5", "15", "45", "150")
    ]
    assert [point.venue for point in curve] == ["raydium"] * 6 + ["meteora"] * 3
    asked = next(point for point in curve if point.amount_in == PREVIEW.amount_in)
    assert asked.amount_out == preview.route.quoted_amount_out
    impacts = [Decimal(point.price_impact_bps) for point in curve]
    assert impacts[0] == 0
    assert impacts == sorted(impacts)
    # A floor that the client gives is meant for its own amount.
    assert with_floor.curve == curve


async def test_the_curve_ends_where_no_venue_can_fill_the_amount(dsn: str) -> None:
    def shallow(query: venue_pb2.QuoteQuery) -> venue_pb2.QuoteResult:
        dry = refuses(venue_pb2.REFUSAL_REASON_INSUFFICIENT_LIQUIDITY, "the pool holds too little")
        deep = swaps(1_000 * 10**9, 150_000 * 10**6)
        return (dry if query.amount_in > 10 * 10**9 else deep)(query)

    async with (
        gateways.venues(raydium=shallow) as addresses,
        running(dsn, NO_NATS, venues=addresses) as gateway,
    ):
        curve = (await gateway.client.PreviewOrder(PREVIEW)).curve
    assert [point.amount_in for point in curve] == ["0.015", "0.05", "0.15", "0.5", "1.5", "4.5"]


@pytest.mark.parametrize(
    ("answer", "fields", "why"),
    [
        (LIMITED, {}, "no venue offered a quote"),
        (
            pays(225_000_000),
            {"min_amount_out": "226"},
            "225 USDC from raydium, is below the floor of 226 USDC",
        ),
    ],
)
async def test_a_preview_that_may_succeed_later_is_shown_without_a_route(
    dsn: str, answer: Any, fields: dict[str, Any], why: str
) -> None:
    request = pb.PreviewOrderRequest(**fields)
    request.MergeFrom(PREVIEW)
    async with (
        gateways.venues(raydium=answer, meteora=NO_POOL) as addresses,
        running(dsn, NO_NATS, venues=addresses) as gateway,
    ):
        route = (await gateway.client.PreviewOrder(request)).route
        checked = swap(validate_only=True, **fields)
        status = await refusal(gateway.client.SubmitOrder(checked))
    assert (route.venue, why in route.why) == ("", True), route.why
    assert [quote.venue for quote in route.quotes] == ["meteora", "raydium"]
    assert (code(status), reason(status)) == ("FAILED_PRECONDITION", "NO_ROUTE")
    assert status.message == route.why


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
        assert await stored(gateway) == []
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
