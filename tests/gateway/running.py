"""A real gateway in this process, and what a client of it needs to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from nats.errors import NoRespondersError

from engine.bus import EVENTS_SUBJECT, Bus
from engine.rpc import serving
from engine.v1 import orders_pb2 as pb
from engine.v1 import venue_pb2, venue_pb2_grpc
from engine.v1.admin_pb2_grpc import AdminServiceStub
from engine.v1.orders_pb2_grpc import OrderServiceStub
from gateway.__main__ import run
from gateway.settings import Settings
from oee.ports import HOST, free_ports

# Nobody listens on port 1: whoever asks there is refused at once.
UNREACHABLE: Final = f"{HOST}:1"
NO_NATS: Final = f"nats://{UNREACHABLE}"
NOWHERE: Final[Mapping[str, str]] = MappingProxyType(
    {"raydium": UNREACHABLE, "meteora": UNREACHABLE}
)
# The one deadline of everything a test waits for; passing tests are far below it.
PATIENCE_SECONDS: Final = 15.0

# The first try comes before the server listens; the next one soon after.
CHANNEL: Final = (
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 100),
)

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True)
class Gateway:
    """A running gateway: its address, a client's view of it, and its stop event."""

    address: str
    client: Any  # OrderServiceAsyncStub, which takes no keyword in its stub file
    admin: Any  # AdminServiceAsyncStub
    stop: asyncio.Event

    def called_with(self, key: str) -> Gateway:
        """The same gateway, called with this key."""
        return Gateway(self.address, Keyed(self.client, key), Keyed(self.admin, key), self.stop)


@asynccontextmanager
async def running(
    dsn: str,
    nats_url: str,
    *,
    venues: Mapping[str, str] = NOWHERE,
    quote_timeout_seconds: float = 2,
    recheck_seconds: float = 60,
    max_watches: int = 10_000,
    max_waiting_orders: int = 2_000,
    drain_seconds: float = 1,
    orders_per_minute: int = 0,
    max_open_orders: int = 0,
    max_streams: int = 0,
    **limits: Any,
) -> AsyncIterator[Gateway]:
    """The gateway as its process runs it, serving; stopped as SIGTERM would on the way out.

    Watched orders are not read again by the clock unless asked: what arrives came by message.
    """
    [port] = free_ports(1)
    address = f"{HOST}:{port}"
    settings = Settings(
        postgres_dsn=dsn,
        nats_url=nats_url,
        venues=venues,
        listen_address=address,
        quote_timeout_seconds=quote_timeout_seconds,
        recheck_seconds=recheck_seconds,
        max_watches=max_watches,
        max_waiting_orders=max_waiting_orders,
        drain_seconds=drain_seconds,
        orders_per_minute=orders_per_minute,
        max_open_orders=max_open_orders,
        max_streams=max_streams,
        **limits,
    )
    stop = asyncio.Event()
    service = asyncio.create_task(run(settings, stop))
    try:
        async with grpc.aio.insecure_channel(address, options=CHANNEL) as channel:
            await asyncio.wait_for(channel.channel_ready(), PATIENCE_SECONDS)
            yield Gateway(address, OrderServiceStub(channel), AdminServiceStub(channel), stop)
    finally:
        stop.set()
        await asyncio.wait_for(service, PATIENCE_SECONDS)


class Keyed:
    """A stub whose every call carries a key."""

    def __init__(self, stub: Any, key: str) -> None:
        self._stub = stub
        self._metadata = (("authorization", f"Bearer {key}"),)

    def __getattr__(self, method: str) -> Any:
        return partial(getattr(self._stub, method), metadata=self._metadata)


def swap(client_order_id: str = "", **fields: Any) -> pb.SubmitOrderRequest:
    """A request for 1.5 SOL to USDC; `fields` replace its fields."""
    facts = {"token_in": "SOL", "token_out": "USDC", "amount_in": "1.5"} | fields
    return pb.SubmitOrderRequest(client_order_id=client_order_id, **facts)


async def stored(gateway: Gateway) -> list[pb.Order]:
    """The orders there are, newest first."""
    return list((await gateway.client.ListOrders(pb.ListOrdersRequest())).orders)


async def refusal(call: Awaitable[object]) -> status_pb2.Status:
    """The status with which the call was refused; its code and its details' agree."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)
    assert status is not None, caught.value
    return status


def code(status: status_pb2.Status) -> str:
    """The canonical code by name."""
    return str(code_pb2.Code.Name(status.code))


def detail(status: status_pb2.Status, kind: type[M]) -> M:
    """The status's one detail of this kind."""
    found = kind()
    [packed] = [item for item in status.details if item.Is(kind.DESCRIPTOR)]
    packed.Unpack(found)
    return found


def reason(status: status_pb2.Status) -> str:
    """The public word for what went wrong."""
    return str(detail(status, error_details_pb2.ErrorInfo).reason)


def violations(status: status_pb2.Status) -> list[tuple[str, str]]:
    """Which fields were wrong, and how."""
    assert (code(status), reason(status)) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    found = detail(status, error_details_pb2.BadRequest).field_violations
    return [(violation.field, violation.description) for violation in found]


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return once the condition holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - it is another process's condition
            await asyncio.sleep(0.01)


async def followed(bus: Bus) -> bool:
    """Whether any gateway listens for committed events: NATS says at once when none does."""
    assert bus.client is not None
    try:
        await bus.client.request(EVENTS_SUBJECT, b"", timeout=0.05)
    except NoRespondersError:
        return False
    except TimeoutError:  # somebody heard it; nobody answers there
        return True
    raise AssertionError("somebody answered where events are announced")


async def until_followed(bus: Bus) -> None:
    """Return once a gateway listens for committed events."""
    await eventually(lambda: followed(bus))


async def until_forgotten(bus: Bus) -> None:
    """Return once no gateway listens any more: nobody watches anything."""

    async def forgotten() -> bool:
        return not await followed(bus)

    await eventually(forgotten)


async def until_over(stream: AsyncIterator[T]) -> list[T]:
    """Everything a stream has until it ends with OK."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [item async for item in stream]


POOL: Final = "11111111111111111111111111111111"
# How a scripted venue answers one query.
Answer = Callable[[venue_pb2.QuoteQuery], venue_pb2.QuoteResult]


def pays(amount_out: int, fee: int = 3_750_000) -> Answer:
    """A quote of that many base units."""

    def answer(query: venue_pb2.QuoteQuery) -> venue_pb2.QuoteResult:
        quote = venue_pb2.Quote(
            pool=POOL,
            mint_in=query.mint_in,
            mint_out=query.mint_out,
            amount_in=query.amount_in,
            amount_out=amount_out,
            fee=fee,
            price_impact_ppm=120,
            slot=7,
        )
        return venue_pb2.QuoteResult(quote=quote)

    return answer


def refuses(reason: venue_pb2.RefusalReason.ValueType, message: str) -> Answer:
    """A refusal, in the venue's words."""
    refusal = venue_pb2.Refusal(reason=reason, message=message)
    return lambda query: venue_pb2.QuoteResult(refusal=refusal)


class ScriptedVenue(venue_pb2_grpc.VenueServiceServicer):
    """A venue that answers every query by its script; it builds nothing."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def Quote(
        self, request: venue_pb2.QuoteRequest, context: object
    ) -> venue_pb2.QuoteResponse:
        return venue_pb2.QuoteResponse(results=[self._answer(query) for query in request.queries])


@asynccontextmanager
async def venues(**answers: Answer) -> AsyncIterator[dict[str, str]]:
    """The addresses of scripted venues by name, each a server of its own."""
    async with AsyncExitStack() as stack:
        addresses: dict[str, str] = {}
        for name, answer in answers.items():
            venue = ScriptedVenue(answer)  # type: ignore[abstract]
            add = partial(venue_pb2_grpc.add_VenueServiceServicer_to_server, venue)
            server = await stack.enter_async_context(
                serving(f"{HOST}:0", {"engine.v1.VenueService": add}, grace_seconds=0)
            )
            addresses[name] = f"{HOST}:{server.port}"
        yield addresses
