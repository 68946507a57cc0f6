"""Retrying and resuming, against a gRPC server that goes away."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from importlib.resources import files
from typing import Any

import grpc
import pytest

from engine.v1 import orders_pb2 as pb
from oee.client import ORDER_SERVICE, CallFailed, Client, connect

ORDER_ID = "0199c0de-0000-7000-8000-000000000001"
LIFE = [
    pb.WatchOrderResponse(event=pb.OrderEvent(order_id=ORDER_ID, sequence=sequence))
    for sequence in range(1, 6)
]

Submit = Callable[[pb.SubmitOrderRequest, Any], pb.SubmitOrderResponse]
Watch = Callable[[pb.WatchOrderRequest, Any], Iterator[pb.WatchOrderResponse]]


@contextmanager
def serving(
    port: int = 0, *, submit: Submit | None = None, watch: Watch | None = None
) -> Iterator[int]:
    """A gateway that serves these two; yields its port."""
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    if submit is not None:
        handlers["SubmitOrder"] = grpc.unary_unary_rpc_method_handler(
            submit,
            request_deserializer=pb.SubmitOrderRequest.FromString,
            response_serializer=pb.SubmitOrderResponse.SerializeToString,
        )
    if watch is not None:
        handlers["WatchOrder"] = grpc.unary_stream_rpc_method_handler(
            watch,
            request_deserializer=pb.WatchOrderRequest.FromString,
            response_serializer=pb.WatchOrderResponse.SerializeToString,
        )
    server.add_registered_method_handlers(ORDER_SERVICE, handlers)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield bound
    finally:
        server.stop(grace=None).wait()


class Draining:
    """A watch that ends with UNAVAILABLE after each two events, as a draining gateway does."""

    def __init__(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        self.asked_after: list[int] = []
        self._code = code

    def watch(self, request: pb.WatchOrderRequest, context: Any) -> Iterator[pb.WatchOrderResponse]:
        self.asked_after.append(request.after_sequence)
        rest = LIFE[request.after_sequence :]
        yield from rest[:2]
        if rest[2:]:
            context.abort(self._code, "draining")


def sequences(events: Iterator[pb.OrderEvent]) -> list[int]:
    return [event.sequence for event in events]


def test_a_watch_goes_on_after_the_last_event_it_had() -> None:
    gateway = Draining()
    with serving(watch=gateway.watch) as port, closing(connect(f"127.0.0.1:{port}")) as channel:
        seen = sequences(Client(channel).watch(ORDER_ID))

    assert seen == [1, 2, 3, 4, 5]
    assert gateway.asked_after == [0, 2, 4]


def test_a_watch_survives_the_loss_of_the_server_itself() -> None:
    told: list[CallFailed] = []

    def hangs_after_two(request: Any, context: Any) -> Iterator[pb.WatchOrderResponse]:
        yield from LIFE[:2]
        while context.is_active():
            yield pb.WatchOrderResponse(heartbeat=pb.Heartbeat())

    with serving(watch=hangs_after_two) as port:
        channel = connect(f"127.0.0.1:{port}")
        events = Client(channel, interrupted=told.append).watch(ORDER_ID)
        first = [next(events), next(events)]
    successor = Draining()
    with serving(port, watch=successor.watch), closing(channel):
        rest = sequences(events)

    assert sequences(iter(first)) + rest == [1, 2, 3, 4, 5]
    assert successor.asked_after == [2, 4]
    assert told


def test_a_refused_watch_is_not_tried_again() -> None:
    gateway = Draining(grpc.StatusCode.NOT_FOUND)
    with (
        serving(watch=gateway.watch) as port,
        closing(connect(f"127.0.0.1:{port}")) as channel,
        pytest.raises(CallFailed, match="draining"),
    ):
        sequences(Client(channel).watch(ORDER_ID))

    assert gateway.asked_after == [0]


def test_a_watch_gives_up_when_it_never_hears_anything() -> None:
    def away(request: Any, context: Any) -> Iterator[pb.WatchOrderResponse]:
        context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        yield pb.WatchOrderResponse()

    with (
        serving(watch=away) as port,
        closing(connect(f"127.0.0.1:{port}")) as channel,
        pytest.raises(CallFailed, match="away"),
    ):
        sequences(Client(channel, timeout_seconds=0.5).watch(ORDER_ID))


def test_heartbeats_are_no_events() -> None:
    def quiet(request: Any, context: Any) -> Iterator[pb.WatchOrderResponse]:
        yield pb.WatchOrderResponse(heartbeat=pb.Heartbeat(sequence=0))
        yield LIFE[0]

    with serving(watch=quiet) as port, closing(connect(f"127.0.0.1:{port}")) as channel:
        assert sequences(Client(channel).watch(ORDER_ID)) == [1]


def test_a_submit_whose_answer_is_lost_is_sent_again_with_the_same_key() -> None:
    keys: list[str] = []

    def loses_the_first_two_answers(
        request: pb.SubmitOrderRequest, context: Any
    ) -> pb.SubmitOrderResponse:
        keys.append(request.client_order_id)
        if len(keys) <= 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "lost")
        return pb.SubmitOrderResponse(duplicate=True)

    with (
        serving(submit=loses_the_first_two_answers) as port,
        closing(connect(f"127.0.0.1:{port}")) as channel,
    ):
        answer = Client(channel).submit(pb.SubmitOrderRequest(client_order_id="desk:7"))

    assert keys == ["desk:7"] * 3
    assert answer.duplicate


def test_a_call_waits_for_an_engine_that_is_about_to_come() -> None:
    def accept(request: pb.SubmitOrderRequest, context: Any) -> pb.SubmitOrderResponse:
        return pb.SubmitOrderResponse(order=pb.Order(order_id=ORDER_ID))

    with serving() as port:
        pass
    with closing(connect(f"127.0.0.1:{port}")) as channel, ThreadPoolExecutor(1) as caller:
        request = pb.SubmitOrderRequest(client_order_id="desk:7")
        answer = caller.submit(Client(channel).submit, request)
        with serving(port, submit=accept):
            assert answer.result().order.order_id == ORDER_ID


def test_without_a_key_nothing_is_submitted() -> None:
    with closing(connect("127.0.0.1:1")) as channel, pytest.raises(AssertionError, match="second"):
        Client(channel).submit(pb.SubmitOrderRequest())


def test_every_call_has_a_deadline_and_every_stream_rules_of_its_own() -> None:
    shipped = json.loads(files("oee").joinpath("service_config.json").read_text())
    methods = pb.DESCRIPTOR.services_by_name["OrderService"].methods
    streams = {m.name for m in methods if m.client_streaming or m.server_streaming}
    [everything, *special] = shipped["methodConfig"]

    assert everything["name"] == [{"service": ORDER_SERVICE}]
    assert everything["timeout"] == "10s"
    named = {name["method"] for method in special for name in method["name"]}
    assert streams <= named
    assert not any("retryPolicy" in method for method in special)
