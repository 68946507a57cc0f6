"""The engine as a client sees it: calls that retry safely, watches that resume by themselves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import islice
from typing import Final, Protocol, TypeVar
from uuid import UUID, uuid4

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from engine.certificates import Files, read
from engine.channel import KEEPALIVE
from engine.errors import EngineError
from engine.tls import channel_credentials
from engine.v1 import orders_pb2 as pb
from engine.v1.orders_pb2_grpc import OrderServiceStub

ORDER_SERVICE: Final = pb.DESCRIPTOR.services_by_name["OrderService"].full_name

# What every client is given. Unary calls are safe to repeat: reads, cancels, and submits because
# they carry a key. A stream knows where to resume, so its own loop does it.
SERVICE_CONFIG: Final = json.loads(files("oee").joinpath("service_config.json").read_text("utf-8"))
_unary, _watch, *_ = SERVICE_CONFIG["methodConfig"]
# In the config these would cap what a caller asks for; so they are given to each call instead.
TIMEOUT_SECONDS: Final = float(_unary.pop("timeout").removesuffix("s"))
# A stream is given up and resumed after this long: a bound on silence without a second thread.
# Heartbeats tell a stream on which nothing happens from one that is dead.
STREAM_SECONDS: Final = float(_watch.pop("timeout").removesuffix("s"))
HEARTBEAT_SECONDS: Final = 5
# Once it has been heard, an engine may be away for a restart before its watcher gives up.
RESTART_SECONDS: Final = 60.0
FIRST_BACKOFF_SECONDS: Final = 0.1
LAST_BACKOFF_SECONDS: Final = 2.0
PAGE_SIZE: Final = 1000

RESUMABLE: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)

ByOrder = TypeVar(
    "ByOrder",
    pb.GetOrderRequest,
    pb.ExplainOrderRequest,
    pb.WatchOrderRequest,
    pb.ListOrderEventsRequest,
    pb.CancelOrderRequest,
)
Request = TypeVar("Request")
Response = TypeVar("Response")


class _PageRequest(Protocol):
    page_token: str


class _PageResponse(Protocol):
    next_page_token: str


PageRequest = TypeVar("PageRequest", bound=_PageRequest)
PageResponse = TypeVar("PageResponse", bound=_PageResponse)


class CallFailed(EngineError):
    """The engine refused a call or could not be asked; `details` has one line for each reason."""

    def __init__(self, code: grpc.StatusCode, message: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.details = details


def connect(address: str, tls: Files | None = None) -> grpc.Channel:
    """A channel to the gateway at `address`; connects when first used, and again when it broke.

    Raises StartupError when the TLS files are no use.
    """
    options = [
        # An engine of one's own is not behind a proxy.
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2000),
        *KEEPALIVE,
    ]
    if not tls:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, channel_credentials(read(tls)), options=options)


def authorization(api_key: str) -> tuple[tuple[str, str], ...]:
    """The metadata that a call with this key has; none without one."""
    return (("authorization", f"Bearer {api_key}"),) if api_key else ()


def new_client_order_id() -> str:
    """A fresh idempotency key; the prefix tells it from an order id."""
    return f"oee-{uuid4()}"


def naming(request: ByOrder, name: str) -> ByOrder:
    """`request`, for the order called `name`: a UUID is an order id, all else the client's key."""
    try:
        request.order_id = str(UUID(name))
    except ValueError:
        request.client_order_id = name
    return request


class Client:
    """Calls on one channel; each raises CallFailed, with the engine's own words.

    `timeout_seconds` is how long a call keeps trying. `api_key` says whose calls they are, where
    the engine asks for that. `interrupted` hears once of every outage
    that a watch is about to bridge.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        api_key: str = "",
        interrupted: Callable[[CallFailed], None] = lambda failure: None,
    ) -> None:
        self._stub = OrderServiceStub(channel)
        self._metadata = authorization(api_key)
        self._timeout_seconds = timeout_seconds
        self._interrupted = interrupted

    def submit(self, request: pb.SubmitOrderRequest) -> pb.SubmitOrderResponse:
        """Submit an order. Safe to repeat: `request` must carry a client_order_id."""
        assert request.client_order_id, "without a key, a retry would make a second order"
        return self._ask(self._stub.SubmitOrder, request)

    def preview(self, request: pb.PreviewOrderRequest) -> pb.PreviewOrderResponse:
        """What such an order would get now."""
        return self._ask(self._stub.PreviewOrder, request)

    def cancel(self, name: str) -> pb.CancelOrderResponse:
        """Stop an order from being signed. Safe to repeat."""
        return self._ask(self._stub.CancelOrder, naming(pb.CancelOrderRequest(), name))

    def order(self, name: str) -> pb.Order:
        """One order as it is now."""
        return self._ask(self._stub.GetOrder, naming(pb.GetOrderRequest(), name)).order

    def explain(self, name: str) -> pb.ExplainOrderResponse:
        """Why an order stands where it stands."""
        return self._ask(self._stub.ExplainOrder, naming(pb.ExplainOrderRequest(), name))

    def orders(self, request: pb.ListOrdersRequest, limit: int) -> Iterator[pb.Order]:
        """The first orders that fit the filter, in the order asked for, at most `limit`."""
        request.page_size = min(limit, PAGE_SIZE)
        pages = self._pages(self._stub.ListOrders, request)
        return islice((order for page in pages for order in page.orders), limit)

    def events(self, name: str) -> Iterator[pb.OrderEvent]:
        """Everything that happened to an order so far, oldest first."""
        request = naming(pb.ListOrderEventsRequest(page_size=PAGE_SIZE), name)
        for page in self._pages(self._stub.ListOrderEvents, request):
            yield from page.events

    def tokens(self) -> Iterator[pb.Token]:
        """The tokens that orders may name."""
        request = pb.ListTokensRequest(page_size=PAGE_SIZE)
        for page in self._pages(self._stub.ListTokens, request):
            yield from page.tokens

    def watch(
        self, name: str, *, after: int = 0, until_settled: bool = False
    ) -> Iterator[pb.OrderEvent]:
        """Every event after sequence `after`, each once and in order, until the order has ended.

        A lost engine is looked for again, with back-off. Raises CallFailed when it stays away or
        refuses.
        """
        give_up_at = time.monotonic() + self._timeout_seconds
        backoff_seconds = FIRST_BACKOFF_SECONDS
        told = False
        while True:
            heard = False
            stream = self._stub.WatchOrder(
                naming(
                    pb.WatchOrderRequest(
                        after_sequence=after,
                        until_settled=until_settled,
                        heartbeat_interval=Duration(seconds=HEARTBEAT_SECONDS),
                    ),
                    name,
                ),
                timeout=STREAM_SECONDS,
                metadata=self._metadata,
            )
            try:
                for response in stream:
                    heard = True
                    if response.HasField("event") and response.event.sequence > after:
                        after = response.event.sequence
                        yield response.event
                return
            except grpc.RpcError as error:
                failure = failure_of(error)
            finally:
                stream.cancel()
            if failure.code not in RESUMABLE:
                raise failure
            if heard:
                give_up_at = time.monotonic() + max(self._timeout_seconds, RESTART_SECONDS)
                backoff_seconds = FIRST_BACKOFF_SECONDS
                told = False
                if failure.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                    continue
            if time.monotonic() + backoff_seconds > give_up_at:
                raise failure
            if not told:
                self._interrupted(failure)
                told = True
            time.sleep(backoff_seconds)
            backoff_seconds = min(2 * backoff_seconds, LAST_BACKOFF_SECONDS)

    def _ask(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request
    ) -> Response:
        try:
            return method(request, timeout=self._timeout_seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise failure_of(error) from None

    def _pages(
        self, method: grpc.UnaryUnaryMultiCallable[PageRequest, PageResponse], request: PageRequest
    ) -> Iterator[PageResponse]:
        while True:
            page = self._ask(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


def failure_of(error: grpc.RpcError) -> CallFailed:
    """What a failed call says of itself, the details in its trailers included."""
    code, message = error.code(), error.details() or error.code().name
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        # Something between the engine and us rewrote the code or the message: believe those.
        status = None
    bad, unmet = error_details_pb2.BadRequest(), error_details_pb2.PreconditionFailure()
    details: list[str] = []
    for detail in status.details if status else ():
        if detail.Unpack(bad):
            details += [f"{item.field}: {item.description}" for item in bad.field_violations]
        elif detail.Unpack(unmet):
            details += [f"{item.subject}: {item.description}" for item in unmet.violations]
    return CallFailed(code, message, tuple(details))
