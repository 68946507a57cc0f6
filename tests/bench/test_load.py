"""The load client's flows, against a gateway that notes what it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import pytest

from bench import load
from bench.job import Flow, Job
from engine.rpc import serving
from engine.v1 import orders_pb2 as pb
from engine.v1 import orders_pb2_grpc
from oee.ports import free_ports

Context = Any
LIMIT_SECONDS = 10


class Gateway(orders_pb2_grpc.OrderServiceServicer):
    """Accepts orders but for those it is told to refuse, and confirms them one after the other."""

    def __init__(self, refused: Iterable[int]) -> None:
        self.refused = set(refused)
        self.most_open = 0
        self.keys: list[str] = []
        self.open_calls: set[str] = set()
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

    async def SubmitOrder(
        self, request: pb.SubmitOrderRequest, context: Context
    ) -> pb.SubmitOrderResponse:
        number = len(self.keys)
        self.keys.append(request.client_order_id)
        if number in self.refused:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")
        self.open_calls.add(request.client_order_id)
        self.most_open = max(self.most_open, len(self.open_calls))
        return pb.SubmitOrderResponse(order=pb.Order(order_id=request.client_order_id))

    async def WatchOrder(
        self, request: pb.WatchOrderRequest, context: Context
    ) -> AsyncIterator[pb.WatchOrderResponse]:
        for status in (pb.ORDER_STATUS_PENDING, pb.ORDER_STATUS_CONFIRMED):
            # More than a message may have to wait for, or a frame hold.
            padding = "x" * 40_000
            event = pb.OrderEvent(client_order_id=request.order_id, status=status, venue=padding)
            event.event_time.GetCurrentTime()
            if status == pb.ORDER_STATUS_CONFIRMED:
                self.open_calls.discard(request.order_id)
            yield pb.WatchOrderResponse(event=event)

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
async def served(gateway: Gateway) -> AsyncIterator[str]:
    add = partial(orders_pb2_grpc.add_OrderServiceServicer_to_server, gateway)
    async with serving("127.0.0.1:0", {"engine.v1.OrderService": add}) as server:
        yield f"127.0.0.1:{server.port}"


def job(flow: Flow, **options: Any) -> Job:
    return Job(flow=flow, key="k", limit_seconds=LIMIT_SECONDS, **options)


async def test_never_more_orders_are_in_flight_than_asked_for() -> None:
    gateway = gateway_refusing()
    async with served(gateway) as address:
        outcome = await load.do(address, job(Flow.STREAM, orders=100, in_flight=7))
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
    async with served(gateway) as address:
        outcome = await load.do(address, job(Flow.STREAM, orders=50, in_flight=4))
    assert outcome.problem is None
    assert outcome.refused == {"OVERLOADED": 25}
    assert (outcome.accepted, outcome.orders, outcome.unfinished) == (25, 25, 0)


async def test_orders_are_offered_whatever_the_answers() -> None:
    gateway = gateway_refusing(range(100, 300))
    async with served(gateway) as address:
        outcome = await load.do(address, job(Flow.OFFER, orders=300, orders_per_second=3000))
    assert outcome.problem is None
    assert (outcome.sent, outcome.accepted, outcome.orders) == (300, 100, 100)
    assert outcome.refused == {"OVERLOADED": 200}


async def test_submitting_only_waits_for_every_answer() -> None:
    gateway = gateway_refusing()
    async with served(gateway) as address:
        outcome = await load.do(address, job(Flow.ACCEPT, orders=1200, in_flight=1000))
    assert outcome.problem is None
    assert (outcome.sent, outcome.accepted) == (1200, 1200)


async def test_single_calls_are_followed_to_the_end_of_each_order() -> None:
    gateway = gateway_refusing([3, 5])
    async with served(gateway) as address:
        outcome = await load.do(address, job(Flow.UNARY, orders=200, in_flight=7))
    assert outcome.problem is None
    assert sorted(gateway.keys) == sorted(f"k-{n}" for n in range(200))
    assert gateway.most_open <= 7
    assert (outcome.sent, outcome.accepted, outcome.orders) == (200, 198, 198)
    assert outcome.refused == {"RESOURCE_EXHAUSTED": 2}
    assert outcome.statuses == {"CONFIRMED": 198}
    assert outcome.events == 2 * 198


async def test_a_gateway_that_is_not_there_is_told() -> None:
    [port] = free_ports(1)
    outcome = await load.do(f"127.0.0.1:{port}", job(Flow.UNARY, orders=1))
    assert outcome.problem is not None
    assert str(port) in outcome.problem


class Closed(Gateway):
    """Refuses whatever it is asked."""

    async def SubmitOrder(self, request: pb.SubmitOrderRequest, context: Context) -> Any:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "closed for today")

    async def SubmitOrders(self, request_iterator: Any, context: Context) -> Any:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "closed for today")
        yield

    async def WatchOrders(self, request: pb.WatchOrdersRequest, context: Context) -> Any:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "closed for today")
        yield


@pytest.mark.parametrize("flow", [Flow.UNARY, Flow.ACCEPT_UNARY, Flow.STREAM])
async def test_what_a_call_fails_with_is_told(flow: Flow) -> None:
    async with served(Closed(())) as address:  # type: ignore[abstract]
        outcome = await load.do(address, job(flow, orders=9, in_flight=3))
    assert outcome.problem == "UNAVAILABLE: closed for today"
    assert outcome.orders == 0
