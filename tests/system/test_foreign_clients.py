"""A client that shares no code with us submits, reads and watches; reflection tells it how."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any, Final, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from engine.bus import Bus
from engine.lifecycle import Status
from engine.relay import Relay
from engine.store import Store
from engine.v1 import orders_pb2 as pb
from oee.nats import Nats
from tests import builders
from tests.gateway.running import PATIENCE_SECONDS, Gateway, running

SERVICE: Final = "engine.v1.OrderService"
WANTED: Final = {"client_order_id": "key-1", "token_in": "SOL", "token_out": "USDC"}

M = TypeVar("M", bound=Message)


class Client:
    """`buf curl` at the gateway, with a home of its own: no configuration takes part."""

    def __init__(self, gateway: Gateway, home: Path) -> None:
        self._address = gateway.address
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(home)}

    async def call(self, method: str, response: type[M], **request: object) -> list[M]:
        """The responses that it printed as JSON, one after the other."""
        process = await asyncio.create_subprocess_exec(
            *("buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge"),
            *("-d", json.dumps(request), f"http://{self._address}/{SERVICE}/{method}"),
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            output, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")
        responses = []
        decoder, rest = json.JSONDecoder(), output.decode().strip()
        while rest:
            printed, end = decoder.raw_decode(rest)
            responses.append(json_format.ParseDict(printed, response()))
            rest = rest[end:].lstrip()
        return responses


async def test_a_foreign_client_submits_reads_and_watches_an_order(
    dsn: str, nats: Nats, store: Store, bus: Bus, tmp_path: Path
) -> None:
    relay = Relay(store, bus)
    key: dict[str, Any] = {"client_order_id": "key-1"}
    async with running(dsn, nats.url) as gateway:
        client = Client(gateway, tmp_path)
        submitted = await client.call(
            "SubmitOrder", pb.SubmitOrderResponse, amount_in="1.5", **WANTED
        )
        repeated = await client.call(
            "SubmitOrder", pb.SubmitOrderResponse, amount_in="1.50", **WANTED
        )
        watching = asyncio.create_task(
            client.call("WatchOrder", pb.WatchOrderResponse, after_sequence=0, **key)
        )
        order = await store.get_by_client_order_id("default", "key-1")
        assert order is not None
        for transition in builders.steps(order, Status.CONFIRMED):
            order = await relay.commit(transition)
        watched = await watching
        read = await client.call("GetOrder", pb.GetOrderResponse, **key)
        found = await gateway.client.GetOrder(pb.GetOrderRequest(**key))
        stored = await gateway.client.ListOrderEvents(pb.ListOrderEventsRequest(**key))

    [accepted] = submitted
    assert (accepted.order.amount_in, accepted.duplicate) == ("1.5", False)
    assert repeated == [pb.SubmitOrderResponse(order=accepted.order, duplicate=True)]
    assert [response.event for response in watched] == list(stored.events)
    assert read == [found]
    assert found.order.status == pb.ORDER_STATUS_CONFIRMED
