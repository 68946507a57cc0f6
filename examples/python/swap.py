"""One swap, submitted once and followed to its end, whatever becomes of the connection.

    swap.py HOST:PORT TOKEN_IN TOKEN_OUT AMOUNT

Prints a line for each event. Exits 0 when the order is CONFIRMED, 1 when it ended otherwise, 2 when
it was refused, 3 when nobody answered. Optional, from the environment: CLIENT_ORDER_ID, to follow
the same order again; API_KEY; CA_FILE, the PEM file of an authority, for TLS.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import grpc
from google.protobuf.json_format import MessageToDict

from engine.v1 import orders_pb2 as pb
from engine.v1.orders_pb2_grpc import OrderServiceStub

# How gRPC itself tries again.
SERVICE_CONFIG = Path(__file__).parents[2] / "oee" / "service_config.json"
# What passes by itself, if the same is asked again.
TRANSIENT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
# As the file has them too; but gRPC's Python does not tell the server of those.
CALL_SECONDS = 10.0
STREAM_SECONDS = 30.0
PATIENCE_SECONDS = 60.0
FIRST_BACKOFF_SECONDS = 0.1
LAST_BACKOFF_SECONDS = 2.0


class Patience:
    """Bridges outages; begins anew whenever the engine was heard."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self._ends = time.monotonic() + PATIENCE_SECONDS
        self._backoff_seconds = FIRST_BACKOFF_SECONDS

    def wait(self, error: grpc.RpcError) -> None:
        """Return when it is time to ask again; raise the error when that would not help."""
        if error.code() not in TRANSIENT or time.monotonic() > self._ends:
            raise error
        # The engine may know better than we do when to come back.
        told = {item.key: item.value for item in error.trailing_metadata() or ()}
        pushback = told.get("grpc-retry-pushback-ms")
        seconds = int(pushback) / 1000 if pushback else self._backoff_seconds
        self._backoff_seconds = min(2 * self._backoff_seconds, LAST_BACKOFF_SECONDS)
        print(f"{error.code().name}: {error.details()}; again in {seconds:g} s", file=sys.stderr)
        time.sleep(seconds)


class Client:
    """Asks the engine until it answers; raises grpc.RpcError when it refuses or stays away."""

    def __init__(self, channel: grpc.Channel, api_key: str | None) -> None:
        self._stub = OrderServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()

    def submit(self, request: pb.SubmitOrderRequest) -> pb.Order:
        """Safe to repeat: the same client_order_id is the same order."""
        patience = Patience()
        while True:
            try:
                response = self._stub.SubmitOrder(
                    request, metadata=self._metadata, timeout=CALL_SECONDS
                )
                return response.order
            except grpc.RpcError as error:
                patience.wait(error)

    def watch(self, client_order_id: str) -> Iterator[pb.OrderEvent]:
        """Every event, each once and in sequence, until the order has ended."""
        patience = Patience()
        seen = 0
        while True:
            request = pb.WatchOrderRequest(client_order_id=client_order_id, after_sequence=seen)
            try:
                stream = self._stub.WatchOrder(
                    request, metadata=self._metadata, timeout=STREAM_SECONDS
                )
                for response in stream:
                    patience.renew()
                    if response.HasField("event"):
                        seen = response.event.sequence
                        yield response.event
                return
            except grpc.RpcError as error:
                patience.wait(error)


def show(event: pb.OrderEvent) -> None:
    # As JSON does it: a value that is newer than this client is shown as its number.
    fields = MessageToDict(event)
    print(fields["sequence"], fields["type"], fields["status"], flush=True)


def connect(address: str, ca_file: str | None) -> grpc.Channel:
    options = [
        ("grpc.service_config", SERVICE_CONFIG.read_text()),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        # The same for the pings that gRPC sends of its own: else it waits a minute for those.
        ("grpc.http2.ping_timeout_ms", 5_000),
    ]
    if ca_file is None:
        return grpc.insecure_channel(address, options)
    credentials = grpc.ssl_channel_credentials(Path(ca_file).read_bytes())
    return grpc.secure_channel(address, credentials, options)


def main() -> int:
    try:
        address, token_in, token_out, amount_in = sys.argv[1:]
    except ValueError:
        print(__doc__, file=sys.stderr)
        return 2
    # One for each intent. A bot writes it down before it is first sent, and so survives a crash.
    client_order_id = os.environ.get("CLIENT_ORDER_ID") or f"example-{uuid4()}"
    status = pb.ORDER_STATUS_UNSPECIFIED
    with connect(address, os.environ.get("CA_FILE")) as channel:
        client = Client(channel, os.environ.get("API_KEY"))
        try:
            order = client.submit(
                pb.SubmitOrderRequest(
                    client_order_id=client_order_id,
                    token_in=token_in,
                    token_out=token_out,
                    amount_in=amount_in,
                )
            )
            print(f"{client_order_id} is order {order.order_id}", file=sys.stderr)
            for event in client.watch(client_order_id):
                show(event)
                status = event.status
        except grpc.RpcError as error:
            print(f"{client_order_id}: {error.code().name}: {error.details()}", file=sys.stderr)
            return 3 if error.code() in TRANSIENT else 2
    return 0 if status == pb.ORDER_STATUS_CONFIRMED else 1


if __name__ == "__main__":
    sys.exit(main())
