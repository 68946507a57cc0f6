"""The load client's flows, against a gateway that notes what it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from bench import load
from bench.job import Flow, Job
from engine.rpc import serving
from engine.v1 import orders_pb2 as pb
from engine.v1 import orders_pb2_grpc
from oee.health import channel

if TYPE_CHECKING:
    from engine.v1.orders_pb2_grpc import OrderServiceAsyncStub

Context = Any
LIMIT_SECONDS = 10


class Gateway(orders_pb2_grpc.OrderServiceServicer):
    """Accepts orders but for those it is told to refuse, and confirms them one after the other."""

    def __init__(self, refused: Iterable[int]) -> None:
        self.refused = set(refused)
        self.most_open = 0
        self.keys: list[str] = []
        self._open: asyncio.Queue[str] = asyncio.Queue()

    async def SubmitOrders(
        self, request_iterator: AsyncIterator[pb.SubmitOrdersRequest], context: Context
    ) -> AsyncIterator[pb.SubmitOrdersResponse]:
        index = 0
        async for request in request_iterator:
            response = pb.SubmitOrdersResponse()
            for order in request.orders:
                if index in self.refused:
                    response.results.add(index=index, refused=pb.Refused(reason="OVERLOADED"))
                else:
                    response.results.add(index=index, accepted=pb.SubmitOrderResponse())
                    self.keys.append(order.client_order_id)
                    self._open.put_nowait(order.client_order_id)
                index += 1
            self.most_open = max(self.most_open, self._open.qsize())
            yield response

    async def WatchOrders(
        self, request: pb.WatchOrdersRequest, context: Context
    ) -> AsyncIterator[pb.WatchOrdersResponse]:
        yield pb.WatchOrdersResponse(resume_token="0")
        while True:
            key = await self._open.get()
            response = pb.WatchOrdersResponse(resume_token="1")
            for status in (pb.ORDER_STATUS_PENDING, pb.ORDER_STATUS_CONFIRMED):
                event = response.events.events.add(client_order_id=key, status=status)
                event.event_time.GetCurrentTime()
            yield response


def gateway_refusing(refused: Iterable[int] = ()) -> Gateway:
    return Gateway(refused)  # type: ignore[abstract] # only what is asked here


@asynccontextmanager
async def stub_of(gateway: Gateway) -> AsyncIterator[OrderServiceAsyncStub]:
    add = partial(orders_pb2_grpc.add_OrderServiceServicer_to_server, gateway)
    async with (
        serving("127.0.0.1:0", {"engine.v1.OrderService": add}) as server,
        channel(f"127.0.0.1:{server.port}") as opened,
    ):
        yield orders_pb2_grpc.OrderServiceStub(opened)


def job(flow: Flow, **options: Any) -> Job:
    return Job(flow=flow, key="k", limit_seconds=LIMIT_SECONDS, **options)


async def test_never_more_orders_are_in_flight_than_asked_for() -> None:
    gateway = gateway_refusing()
    async with stub_of(gateway) as stub:
        outcome = await load.do(stub, job(Flow.STREAM, orders=100, in_flight=7))
    assert outcome.problem is None
    assert gateway.keys == [f"k-{n}" for n in range(100)]
    assert gateway.most_open <= 7
    assert (outcome.sent, outcome.accepted, outcome.orders) == (100, 100, 100)
    assert outcome.statuses == {"CONFIRMED": 100}
    assert outcome.events == 200
    assert outcome.order is not None
    assert outcome.order.count == 100


async def test_what_is_refused_is_counted_and_makes_room() -> None:
    gateway = gateway_refusing(range(0, 50, 2))
    async with stub_of(gateway) as stub:
        outcome = await load.do(stub, job(Flow.STREAM, orders=50, in_flight=4))
    assert outcome.problem is None
    assert outcome.refused == {"OVERLOADED": 25}
    assert (outcome.accepted, outcome.orders, outcome.unfinished) == (25, 25, 0)


async def test_orders_are_offered_whatever_the_answers() -> None:
    gateway = gateway_refusing(range(100, 300))
    async with stub_of(gateway) as stub:
        outcome = await load.do(stub, job(Flow.OFFER, orders=300, orders_per_second=3000))
    assert outcome.problem is None
    assert (outcome.sent, outcome.accepted, outcome.orders) == (300, 100, 100)
    assert outcome.refused == {"OVERLOADED": 200}


async def test_submitting_only_waits_for_every_answer() -> None:
    gateway = gateway_refusing()
    async with stub_of(gateway) as stub:
        outcome = await load.do(stub, job(Flow.ACCEPT, orders=1200, in_flight=1000))
    assert outcome.problem is None
    assert (outcome.sent, outcome.accepted) == (1200, 1200)


@pytest.mark.parametrize("flow", [Flow.UNARY, Flow.ACCEPT_UNARY])
async def test_what_the_gateway_does_not_serve_is_told(flow: Flow) -> None:
    async with stub_of(gateway_refusing()) as stub:
        outcome = await load.do(stub, job(flow, orders=1))
    assert outcome.problem is not None
    assert outcome.orders == 0
