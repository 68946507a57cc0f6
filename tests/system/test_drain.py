"""Services are stopped politely under load: nothing is lost, and clients hardly notice."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from engine.v1 import orders_pb2 as pb
from tests.system.conftest import Engine, assert_swapped_once

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVICES = ["gateway", "router", "executor"]


class Load:
    """Orders that keep coming until told to stop, each watched to its end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stop = asyncio.Event()
        self._orders: list[asyncio.Task[pb.Order]] = []
        self._first = asyncio.Event()

    async def _one(self) -> pb.Order:
        order = await self._engine.submit()
        await self._engine.watch(order)
        self._first.set()
        return order

    async def run(self) -> list[pb.Order]:
        """Five traders, each with the next order as soon as the last has ended."""

        async def trader() -> list[pb.Order]:
            orders = []
            while not self._stop.is_set():
                orders.append(await self._one())
            return orders

        traded = await asyncio.gather(*(trader() for _ in range(5)))
        return [order for orders in traded for order in orders]

    async def flowing(self) -> None:
        """Return once another order has gone all the way."""
        self._first.clear()
        await self._first.wait()

    def stop(self) -> None:
        self._stop.set()


async def test_a_deploy_of_every_service_under_load_is_invisible_to_clients(
    engine: Engine,
) -> None:
    load = Load(engine)
    trading = asyncio.create_task(load.run())
    await load.flowing()
    codes = {}
    for name in SERVICES:
        codes[name] = await engine.stack.services[name].drain()
        await engine.stack.start(name)
        await load.flowing()
    load.stop()
    orders = await trading

    assert codes == dict.fromkeys(SERVICES, 0)
    assert len(orders) >= 10
    for order in orders:
        await assert_swapped_once(engine, order)


async def test_a_draining_gateway_ends_watches_so_that_they_can_be_resumed(
    engine: Engine,
) -> None:
    held = engine.chain.hold("SendTransactions")
    order = await engine.submit()
    await held.reached.wait()
    async with engine.client() as client:
        request = pb.WatchOrderRequest(order_id=order.order_id, after_sequence=0)
        stream = aiter(client.WatchOrder(request))
        seen = [(await anext(stream)).event for _ in range(5)]
        stopping = asyncio.create_task(engine.stack.stop("gateway"))
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await anext(stream)
        await stopping
    status = rpc_status.from_call(ended.value)

    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert status is not None
    details = {detail.TypeName() for detail in status.details}
    assert error_details_pb2.RetryInfo.DESCRIPTOR.full_name in details
    await engine.stack.start("gateway")
    held.release()
    rest = await engine.watch(order, after=seen[-1].sequence)
    assert [event.sequence for event in [*seen, *rest]] == [1, 2, 3, 4, 5, 6, 7]


async def test_a_draining_executor_finishes_what_it_has_in_hand(engine: Engine) -> None:
    held = engine.chain.hold("SimulateTransactions")
    order = await engine.submit()
    await held.reached.wait()

    stopping = asyncio.create_task(engine.stack.services["executor"].drain())
    async with engine.client() as client:
        request = pb.WatchOrderRequest(order_id=order.order_id, after_sequence=3)
        stream = aiter(client.WatchOrder(request))
        held.release()
        built, signed = [(await anext(stream)).event for _ in range(2)]

    assert await stopping == 0
    assert built.type == pb.ORDER_EVENT_TYPE_BUILD_STARTED
    assert signed.type == pb.ORDER_EVENT_TYPE_ATTEMPT_SIGNED
    await engine.stack.start("executor")
    await assert_swapped_once(engine, order)
