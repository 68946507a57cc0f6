"""The main job through real processes."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal

import asyncpg
import grpc
import nats
import pytest
from nats.aio.msg import Msg

from engine.v1 import orders_pb2 as pb
from engine.v1 import sim_pb2
from engine.v1.sim_pb2_grpc import SimControlServiceStub
from tests import builders
from tests.system.conftest import Engine

pytestmark = pytest.mark.asyncio(loop_scope="session")

LIFE = [
    pb.ORDER_STATUS_PENDING,
    pb.ORDER_STATUS_ROUTING,
    pb.ORDER_STATUS_ROUTING,
    pb.ORDER_STATUS_BUILDING,
    pb.ORDER_STATUS_SUBMITTED,
    pb.ORDER_STATUS_CONFIRMED,
    pb.ORDER_STATUS_CONFIRMED,
]
PAIRS = [("SOL", "USDC", "1.5"), ("USDC", "SOL", "200"), ("JUP", "USDC", "40"), ("RAY", "SOL", "9")]


async def test_ten_orders_at_once_are_each_swapped_exactly_once(engine: Engine) -> None:
    orders = await asyncio.gather(
        *(
            engine.submit(token_in=token_in, token_out=token_out, amount_in=amount)
            for token_in, token_out, amount in (PAIRS * 3)[:10]
        )
    )
    streams = await asyncio.gather(*(engine.watch(order) for order in orders))

    ledger = await engine.swaps()
    connection = await asyncpg.connect(engine.stack.postgres_dsn)
    for order, events in zip(orders, streams, strict=True):
        assert [event.sequence for event in events] == [1, 2, 3, 4, 5, 6, 7]
        assert [event.status for event in events] == LIFE
        [swap] = [swap for swap in ledger if swap.memo.split(":")[1] == order.order_id]
        row = await connection.fetchrow(
            "SELECT o.*, t.decimals FROM orders o JOIN tokens t ON t.mint = o.token_out "
            "WHERE order_id = $1",
            order.order_id,
        )
        assert row is not None
        assert row["status"] == "confirmed"
        assert row["settled"]
        assert (row["filled_amount_in"], row["amount_out"]) == (swap.amount_in, swap.amount_out)
        assert row["amount_out"] >= row["min_amount_out"] == swap.min_amount_out
        fill = events[5].fill
        assert Decimal(fill.amount_out).scaleb(row["decimals"]) == swap.amount_out
        assert fill.tx_hash == swap.signature
        final = await engine.order(order)
        assert (final.amount_out, final.tx_hash) == (fill.amount_out, swap.signature)
    await connection.close()


async def test_the_audit_trail_holds_every_quote_and_the_reason(engine: Engine) -> None:
    order = await engine.submit()
    events = await engine.watch(order)

    route = events[2].route
    assert [quote.venue for quote in route.quotes] == ["meteora", "raydium"]
    # What other tests of this stack did to the venues weighs too, once it is enough.
    scores = {score.venue: Decimal(score.score_bps) for score in route.scores}
    best = max(
        route.quotes,
        key=lambda quote: Decimal(quote.amount_out) * (10_000 + scores.get(quote.venue, 0)),
    )
    assert route.venue == best.venue
    assert route.why
    connection = await asyncpg.connect(engine.stack.postgres_dsn)
    detail = await connection.fetchval(
        "SELECT detail FROM order_events WHERE order_id = $1 AND type = 'route_chosen'",
        order.order_id,
    )
    await connection.close()
    assert detail is not None
    assert len(json.loads(detail)["route"]["quotes"]) == 2


async def test_watchers_before_during_and_after_and_resumed_ones_see_the_same(
    engine: Engine,
) -> None:
    held = engine.venues["raydium"].hold("Quote")
    order = await engine.submit()
    await held.reached.wait()
    during = asyncio.create_task(engine.watch(order))
    held.release()
    events = await during

    assert await engine.watch(order) == events
    for sequence in range(7):
        assert await engine.watch(order, after=sequence) == events[sequence:]


async def test_a_preview_agrees_with_the_route_that_follows(engine: Engine) -> None:
    async with engine.client() as client:
        preview = await client.PreviewOrder(
            pb.PreviewOrderRequest(token_in="RAY", token_out="SOL", amount_in="25"), timeout=10
        )
    order = await engine.submit(token_in="RAY", token_out="SOL", amount_in="25")
    chosen = (await engine.watch(order))[2].route

    def essence(route: pb.RouteDecision) -> list[object]:
        quotes = [(q.venue, q.pool, q.amount_out, q.fee, q.price_impact_bps) for q in route.quotes]
        return [route.venue, route.why, route.min_amount_out, quotes]

    assert essence(preview.route) == essence(chosen)


async def test_more_than_the_wallet_holds_fails_at_once_and_signs_nothing(engine: Engine) -> None:
    order = await engine.submit(token_in="SOL", token_out="USDC", amount_in="9000000000")
    events = await engine.watch(order)

    assert events[-1].status == pb.ORDER_STATUS_FAILED
    assert events[-1].error.reason == "INSUFFICIENT_FUNDS"
    assert not any(event.HasField("retry") for event in events)
    assert not (await engine.order(order)).attempts
    assert await engine.swaps_of(order) == []


async def test_an_amount_of_nineteen_digits_goes_through_without_overflow(engine: Engine) -> None:
    most = 2**63 - 1
    async with grpc.aio.insecure_channel(engine.stack.chain_address) as channel:
        await SimControlServiceStub(channel).FundWallet(
            sim_pb2.FundWalletRequest(
                wallet=engine.stack.wallet.address, mint=builders.SOL, amount=str(most)
            ),
            timeout=10,
        )
    order = await engine.submit(amount_in="9223372036.854775807", slippage_bps=5000)
    events = await engine.watch(order)

    assert events[-1].status == pb.ORDER_STATUS_CONFIRMED
    [swap] = await engine.swaps_of(order)
    assert swap.amount_in == most
    assert events[5].fill.amount_in == "9223372036.854775807"


async def test_a_pair_that_no_venue_has_fails_with_the_venues_words(engine: Engine) -> None:
    order = await engine.submit(token_in="BONK", token_out="JUP", amount_in="1000000")
    events = await engine.watch(order)

    assert [event.status for event in events][-1] == pb.ORDER_STATUS_FAILED
    assert events[-1].error.reason == "NO_ROUTE"
    assert len(events[-1].route.quotes) == 2


async def test_an_order_past_its_expire_time_is_never_signed(engine: Engine) -> None:
    held = engine.venues["raydium"].hold("Quote", answered=True)
    request = pb.SubmitOrderRequest(token_in="SOL", token_out="USDC", amount_in="1")
    request.expire_time.GetCurrentTime()
    request.expire_time.FromNanoseconds(request.expire_time.ToNanoseconds() + 700_000_000)
    async with engine.client() as client:
        order = (await client.SubmitOrder(request, timeout=5)).order
    await held.reached.wait()
    connection = await asyncpg.connect(engine.stack.postgres_dsn)
    await connection.execute(
        "SELECT pg_sleep_until(expire_time) FROM orders WHERE order_id = $1", order.order_id
    )
    await connection.close()
    held.release()

    events = await engine.watch(order)

    assert events[-1].status == pb.ORDER_STATUS_EXPIRED
    assert await engine.swaps_of(order) == []


async def test_a_plain_nats_subscriber_hears_every_event(engine: Engine) -> None:
    client = await nats.connect(engine.stack.nats_url)
    heard: asyncio.Queue[pb.OrderEvent] = asyncio.Queue()

    async def hear(message: Msg) -> None:
        heard.put_nowait(pb.OrderEvent.FromString(message.data))

    await client.subscribe("orders.status.>", cb=hear)
    await client.flush()
    order = await engine.submit()
    events = await engine.watch(order)

    async with asyncio.timeout(10):
        assert [await heard.get() for _ in events] == events
    await client.close()
