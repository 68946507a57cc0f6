"""With the pools' streams followed, as by default, nothing waits for a venue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from engine.v1 import orders_pb2 as pb
from engine.v1 import sim_pb2
from engine.v1.sim_pb2_grpc import SimControlServiceStub
from tests.system.conftest import (
    PATIENCE_SECONDS,
    Engine,
    assert_swapped_once,
    running_engine,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRADES = [
    (*trade, venue)
    for venue in ("raydium", "meteora")
    for trade in (("SOL", "USDC", "1.5"), ("USDC", "SOL", "200"), ("RAY", "SOL", "9"))
]


@pytest_asyncio.fixture(loop_scope="module")
async def own(tmp_path: Path) -> AsyncIterator[Engine]:
    async with running_engine(tmp_path, follows_pools=True) as running:
        yield running


async def test_orders_are_swapped_at_once_though_no_venue_quotes_or_builds(own: Engine) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not all(quote.is_local for quote in await quotes(own)):
            pass
    async with grpc.aio.insecure_channel(own.stack.chain_address) as channel:
        for call in ("Quote", "BuildSwap"):
            fault = sim_pb2.Fault(call=call, fail=sim_pb2.FailCall(code="UNAVAILABLE"))
            request = sim_pb2.InjectFaultRequest(fault=fault)
            await SimControlServiceStub(channel).InjectFault(request, timeout=10)

    orders = await asyncio.gather(
        *(
            own.submit(token_in=token_in, token_out=token_out, amount_in=amount, venues=[venue])
            for token_in, token_out, amount, venue in TRADES
        )
    )

    for order in orders:
        await assert_swapped_once(own, order)
        events = await own.watch(order)
        assert pb.ORDER_EVENT_TYPE_RETRY_SCHEDULED not in [event.type for event in events]


async def quotes(engine: Engine) -> list[pb.VenueQuote]:
    """What an order was routed by, just now."""
    events = await engine.watch(await engine.submit())
    return [quote for event in events for quote in event.route.quotes]
