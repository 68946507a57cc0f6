"""The kill switch, over the whole stack."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from engine.v1 import admin_pb2 as admin
from engine.v1 import orders_pb2 as pb
from engine.v1.admin_pb2_grpc import AdminServiceStub
from tests.system.conftest import Engine, assert_swapped_once

pytestmark = pytest.mark.asyncio(loop_scope="session")


# To sign, if it did.
LONG_ENOUGH_SECONDS = 0.5


async def set_trading(engine: Engine, state: admin.TradingState.ValueType) -> float:
    """Set the trading state; returns when it was set."""
    async with grpc.aio.insecure_channel(engine.stack.address) as channel:
        request = admin.SetTradingStateRequest(state=state, why="for the test")
        response = await AdminServiceStub(channel).SetTradingState(request, timeout=10)
    return float(response.set_time.ToDatetime().timestamp())


async def test_a_halted_engine_signs_nothing_and_goes_on_by_itself(engine: Engine) -> None:
    held = engine.chain.hold("SimulateTransactions")
    order = await engine.submit()
    await held.reached.wait()
    await set_trading(engine, admin.TRADING_STATE_HALTED)
    try:
        held.release()
        with pytest.raises(grpc.aio.AioRpcError, match="for the test"):
            await engine.submit()
        await asyncio.sleep(LONG_ENOUGH_SECONDS)
    finally:
        resumed = await set_trading(engine, admin.TRADING_STATE_ACTIVE)

    await assert_swapped_once(engine, order)
    events = await engine.watch(order)
    [signed] = [e for e in events if e.type == pb.ORDER_EVENT_TYPE_ATTEMPT_SIGNED]
    assert signed.event_time.ToDatetime().timestamp() >= resumed
    # The halt itself costs no try; the call that was held meanwhile may have taken too long.
    assert "TRADING_HALTED" not in {event.error.reason for event in events}
