"""The gRPC server over real sockets: errors, health, reflection, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from engine import answers, errors, probe
from engine.channel import open_channel
from engine.errors import StartupError, Violation
from engine.rpc import Server, serving
from engine.v1 import venue_pb2 as pb
from engine.v1 import venue_pb2_grpc
from oee.ports import free_ports

PATIENCE_SECONDS = 15
VENUE_SERVICE = "engine.v1.VenueService"

Context = grpc.aio.ServicerContext[Any, Any]
Status = health_pb2.HealthCheckResponse.ServingStatus


class Failing(venue_pb2_grpc.VenueServiceServicer):
    """A service whose calls fail as told: Quote alone, WatchPools after one answer."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.entered = asyncio.Event()
        self.finish = asyncio.Event()

    async def Quote(self, request: pb.QuoteRequest, context: Context) -> pb.QuoteResponse:
        if self.error is not None:
            raise self.error
        return pb.QuoteResponse()

    async def WatchPools(
        self, request: pb.WatchPoolsRequest, context: Context
    ) -> AsyncIterator[pb.WatchPoolsResponse]:
        yield pb.WatchPoolsResponse()
        if self.error is not None:
            raise self.error

    async def ListPools(
        self, request: pb.ListPoolsRequest, context: Context
    ) -> pb.ListPoolsResponse:
        """Takes as long as the test wants."""
        self.entered.set()
        await self.finish.wait()
        return pb.ListPoolsResponse()

    async def BuildSwap(
        self, request: pb.BuildSwapRequest, context: Context
    ) -> pb.BuildSwapResponse:
        await context.abort(grpc.StatusCode.DATA_LOSS, "as the method said")
        raise AssertionError("abort raises")


class Client:
    """A channel to the server, and the stubs on it."""

    def __init__(self, server: Server, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.venue: venue_pb2_grpc.VenueServiceAsyncStub = venue_pb2_grpc.VenueServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)
        self.reflection = reflection_pb2_grpc.ServerReflectionStub(channel)


@asynccontextmanager
async def client(service: Failing, **options: Any) -> AsyncIterator[Client]:
    add = partial(venue_pb2_grpc.add_VenueServiceServicer_to_server, service)
    async with (
        serving("127.0.0.1:0", {VENUE_SERVICE: add}, **options) as server,
        open_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield Client(server, channel)


async def quote(c: Client) -> None:
    await c.venue.Quote(pb.QuoteRequest())


async def watch(c: Client) -> None:
    async for _ in c.venue.WatchPools(pb.WatchPoolsRequest()):
        pass


async def told(call: Callable[[Client], Awaitable[None]], error: Exception) -> grpc.aio.AioRpcError:
    """What a client is told when the method raises this."""
    async with client(Failing(error)) as c:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(c)
    return raised.value


def unpacked(error: grpc.aio.AioRpcError) -> list[Message]:
    """The google.rpc details in the trailers."""
    status = rpc_status.from_call(error)
    assert status is not None
    assert status.code == error.code().value[0]
    kinds = {kind.DESCRIPTOR.full_name: kind for kind in KINDS}
    found = []
    for item in status.details:
        message = kinds[item.TypeName()]()
        assert item.Unpack(message)
        found.append(message)
    return found


def metadata(error: grpc.aio.AioRpcError) -> list[tuple[str, str | bytes]]:
    return [(key, value) for key, value in error.trailing_metadata() or ()]


KINDS: list[type[Message]] = [
    details.ErrorInfo,
    details.BadRequest,
    details.ResourceInfo,
    details.PreconditionFailure,
    details.QuotaFailure,
    details.RetryInfo,
]


def retry(milliseconds: int) -> details.RetryInfo:
    info = details.RetryInfo()
    info.retry_delay.FromMilliseconds(milliseconds)
    return info


def quota(subject: str, description: str) -> details.QuotaFailure:
    violation = details.QuotaFailure.Violation(subject=subject, description=description)
    return details.QuotaFailure(violations=[violation])


def info(reason: str, **metadata: str) -> details.ErrorInfo:
    return details.ErrorInfo(reason=reason, domain="engine", metadata=metadata)


# Every error a client may be told, its code, and everything in the trailers.
TOLD: list[tuple[errors.RequestError, grpc.StatusCode, list[Message]]] = [
    (
        errors.InvalidRequest(
            [Violation("amount_in", "is zero"), Violation("token_in", "is gone")]
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        [
            info("FIELD_INVALID"),
            details.BadRequest(
                field_violations=[
                    details.BadRequest.FieldViolation(field="amount_in", description="is zero"),
                    details.BadRequest.FieldViolation(field="token_in", description="is gone"),
                ]
            ),
        ],
    ),
    (
        errors.ClientOrderIdReused("the key is used", order_id="7", field="amount_in"),
        grpc.StatusCode.ALREADY_EXISTS,
        [
            info("CLIENT_ORDER_ID_REUSED", order_id="7", field="amount_in"),
            details.ResourceInfo(
                resource_type="engine.v1.Order", resource_name="7", description="the key is used"
            ),
        ],
    ),
    (
        errors.OrderNotFound("there is no order 7", order_id="7"),
        grpc.StatusCode.NOT_FOUND,
        [
            info("ORDER_NOT_FOUND", order_id="7"),
            details.ResourceInfo(
                resource_type="engine.v1.Order",
                resource_name="7",
                description="there is no order 7",
            ),
        ],
    ),
    (
        errors.Unauthenticated("no key"),
        grpc.StatusCode.UNAUTHENTICATED,
        [info("UNAUTHENTICATED")],
    ),
    (
        errors.RoleRequired("a viewer", role="TRADER"),
        grpc.StatusCode.PERMISSION_DENIED,
        [info("ROLE_REQUIRED", role="TRADER")],
    ),
    (
        errors.KeyNotFound("no such key"),
        grpc.StatusCode.NOT_FOUND,
        [info("KEY_NOT_FOUND")],
    ),
    (
        errors.NoOperatorLeft("make one first"),
        grpc.StatusCode.FAILED_PRECONDITION,
        [
            info("NO_OPERATOR_LEFT"),
            details.PreconditionFailure(
                violations=[
                    details.PreconditionFailure.Violation(
                        type="NO_OPERATOR_LEFT", subject="key", description="make one first"
                    )
                ]
            ),
        ],
    ),
    (
        errors.NoRoute("nobody has a pool", raydium="no pool"),
        grpc.StatusCode.FAILED_PRECONDITION,
        [
            info("NO_ROUTE", raydium="no pool"),
            details.PreconditionFailure(
                violations=[
                    details.PreconditionFailure.Violation(
                        type="NO_ROUTE", subject="raydium", description="no pool"
                    )
                ]
            ),
        ],
    ),
    (
        errors.RiskLimit([Violation("amount_in", "is above the limit")]),
        grpc.StatusCode.FAILED_PRECONDITION,
        [
            info("RISK_LIMIT", field="amount_in"),
            details.PreconditionFailure(
                violations=[
                    details.PreconditionFailure.Violation(
                        type="RISK_LIMIT", subject="amount_in", description="is above the limit"
                    )
                ]
            ),
        ],
    ),
    (
        errors.TradingHalted("halted", "the venue is upside down"),
        grpc.StatusCode.FAILED_PRECONDITION,
        [
            info("TRADING_HALTED", state="HALTED", why="the venue is upside down"),
            details.PreconditionFailure(
                violations=[
                    details.PreconditionFailure.Violation(
                        type="TRADING_HALTED",
                        subject="trading",
                        description="no new orders are accepted now: the venue is upside down",
                    )
                ]
            ),
        ],
    ),
    (
        errors.RateLimited("too fast", "desk", 7.5),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        [info("RATE_LIMITED", account="desk"), quota("account:desk", "too fast"), retry(7500)],
    ),
    (
        errors.QuotaExceeded("too many", "desk"),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        [info("QUOTA_EXCEEDED", account="desk"), quota("account:desk", "too many"), retry(1000)],
    ),
    (
        errors.FutureSequence("5 is not yet", last_sequence="3"),
        grpc.StatusCode.OUT_OF_RANGE,
        [info("FUTURE_SEQUENCE", last_sequence="3")],
    ),
    (
        errors.ResumeTokenTooOld("it is"),
        grpc.StatusCode.OUT_OF_RANGE,
        [info("RESUME_TOKEN_TOO_OLD")],
    ),
    (
        errors.SlowConsumer("too slow", last_sequence="3"),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        [info("SLOW_CONSUMER", last_sequence="3")],
    ),
    (
        errors.Overloaded("too much"),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        [info("OVERLOADED"), retry(1000)],
    ),
    (
        errors.StoreUnavailable("away"),
        grpc.StatusCode.UNAVAILABLE,
        [info("STORE_UNAVAILABLE"), retry(1000)],
    ),
    (
        errors.ShuttingDown("draining"),
        grpc.StatusCode.UNAVAILABLE,
        [info("SHUTTING_DOWN"), retry(600)],
    ),
]

in_both_kinds_of_call = pytest.mark.parametrize("call", [quote, watch])


# ── errors ────────────────────────────────────────────────────────────────────────────────────


@in_both_kinds_of_call
@pytest.mark.parametrize(("error", "code", "trailers"), TOLD, ids=lambda v: type(v).__name__)
async def test_an_error_is_told_by_its_code_its_reason_and_what_fits(
    call: Callable[[Client], Awaitable[None]],
    error: errors.RequestError,
    code: grpc.StatusCode,
    trailers: list[Message],
) -> None:
    answer = await told(call, error)

    assert answer.code() is code
    assert answer.details() == str(error)
    assert unpacked(answer) == trailers
    # Repeated for the retry policy of gRPC itself, which does not read details.
    pushback = [value for key, value in metadata(answer) if key == "grpc-retry-pushback-ms"]
    delays = [item.retry_delay for item in trailers if isinstance(item, details.RetryInfo)]
    assert pushback == [str(delay.ToMilliseconds()) for delay in delays]


def test_every_error_for_clients_has_a_code_and_is_told_here() -> None:
    kinds = set(errors.RequestError.__subclasses__())

    assert kinds == set(answers.ANSWERS) == {type(error) for error, _, _ in TOLD}
    assert [kind.__subclasses__() for kind in kinds] == [[]] * len(kinds)


@in_both_kinds_of_call
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("password=hunter2"),
        KeyError("hunter2"),
        errors.StaleOrder("hunter2"),
        errors.IllegalTransition("hunter2"),
        TimeoutError("hunter2"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_fault_of_ours_tells_nothing_of_the_inside(
    call: Callable[[Client], Awaitable[None]], error: Exception
) -> None:
    answer = await told(call, error)

    assert answer.code() is grpc.StatusCode.INTERNAL
    assert answer.details() == "internal error; it is in the server's log"
    assert unpacked(answer) == [info("INTERNAL")]
    told_otherwise = f"{answer.trailing_metadata()}{answer.debug_error_string()}"
    assert "hunter2" not in told_otherwise
    assert type(error).__name__ not in told_otherwise


async def test_what_a_method_says_itself_is_left_alone_and_is_no_fault_of_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with client(Failing()) as c:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await c.venue.BuildSwap(pb.BuildSwapRequest())

    assert raised.value.code() is grpc.StatusCode.DATA_LOSS
    assert raised.value.details() == "as the method said"
    assert "call failed" not in "".join(capsys.readouterr())


async def test_calls_that_do_not_fail_are_answered() -> None:
    async with client(Failing()) as c:
        assert await c.venue.Quote(pb.QuoteRequest()) == pb.QuoteResponse()
        assert [a async for a in c.venue.WatchPools(pb.WatchPoolsRequest())] == [
            pb.WatchPoolsResponse()
        ]


async def test_a_burst_of_calls_is_answered_to_the_last() -> None:
    async with client(Failing()) as c, asyncio.timeout(PATIENCE_SECONDS):
        # On one loop with so many calls, a server could not say hello in time.
        await quote(c)
        await asyncio.gather(*(quote(c) for _ in range(3000)))


async def test_an_unknown_method_is_unimplemented() -> None:
    async with client(Failing()) as c, open_channel(f"127.0.0.1:{c.server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary("/engine.v1.VenueService/Nothing", bytes, bytes)(b"")

    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


# ── health and reflection ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["", VENUE_SERVICE])
async def test_the_process_and_each_service_report_their_health(name: str) -> None:
    async with client(Failing()) as c:
        request = health_pb2.HealthCheckRequest(service=name)

        assert (await c.health.Check(request)).status == Status.SERVING
        await c.server.report(serving=False)
        assert (await c.health.Check(request)).status == Status.NOT_SERVING
        await c.server.report(serving=True)
        assert (await c.health.Check(request)).status == Status.SERVING


async def test_a_service_that_is_not_served_here_has_no_health() -> None:
    async with client(Failing()) as c:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await c.health.Check(health_pb2.HealthCheckRequest(service="engine.v1.Other"))

    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services_and_describes_them() -> None:
    Request = reflection_pb2.ServerReflectionRequest
    async with client(Failing()) as c:
        asked = [Request(list_services=""), Request(file_containing_symbol=VENUE_SERVICE)]
        listed, described = [a async for a in c.reflection.ServerReflectionInfo(iter(asked))]

    assert {service.name for service in listed.list_services_response.service} == {
        VENUE_SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert b"VenueService" in described.file_descriptor_response.file_descriptor_proto[0]


async def test_the_probe_says_whether_a_process_serves() -> None:
    [nobody] = free_ports(1)
    async with client(Failing()) as c:
        address = f"127.0.0.1:{c.server.port}"
        assert await asyncio.to_thread(probe.serving, address)
        await c.server.report(serving=False)
        assert not await asyncio.to_thread(probe.serving, address)
    assert not await asyncio.to_thread(probe.serving, f"127.0.0.1:{nobody}", 0.2)


# ── start and end ─────────────────────────────────────────────────────────────────────────────


async def test_an_address_that_is_taken_stops_the_start() -> None:
    async with client(Failing()) as c:
        address = f"127.0.0.1:{c.server.port}"
        with pytest.raises(StartupError, match=f"{address} cannot be bound: it is taken"):
            async with serving(address, {}):
                pass

        assert await c.venue.Quote(pb.QuoteRequest()) == pb.QuoteResponse()


async def test_an_address_is_free_again_after_the_end() -> None:
    async with client(Failing(), grace_seconds=0) as c:
        port = c.server.port

    async with serving(f"127.0.0.1:{port}", {}) as server:
        assert server.port == port


async def test_draining_says_so_refuses_in_words_and_lets_running_calls_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "REFUSE_SECONDS", 1)
    service = Failing()
    drained = asyncio.Event()
    leave = asyncio.Event()

    async def serve(started: asyncio.Future[int]) -> None:
        add = partial(venue_pb2_grpc.add_VenueServiceServicer_to_server, service)
        async with serving(
            "127.0.0.1:0",
            {VENUE_SERVICE: add},
            grace_seconds=PATIENCE_SECONDS,
            on_drain=drained.set,
        ) as server:
            started.set_result(server.port)
            await leave.wait()

    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving_it = asyncio.create_task(serve(started))
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        open_channel(f"127.0.0.1:{await started}") as channel,
        open_channel(f"localhost:{await started}") as late,
    ):
        venue: venue_pb2_grpc.VenueServiceAsyncStub = venue_pb2_grpc.VenueServiceStub(channel)
        latecomer: venue_pb2_grpc.VenueServiceAsyncStub = venue_pb2_grpc.VenueServiceStub(late)
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=VENUE_SERVICE)
        )
        assert (await anext(aiter(watch))).status == Status.SERVING
        running = asyncio.ensure_future(venue.ListPools(pb.ListPoolsRequest()))
        await service.entered.wait()
        assert not drained.is_set()

        leave.set()

        # Only a server that has not yet refused can still say this.
        assert (await anext(aiter(watch))).status == Status.NOT_SERVING
        assert drained.is_set()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await latecomer.Quote(pb.QuoteRequest())
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert unpacked(refused.value) == [info("SHUTTING_DOWN"), retry(600)]
        health = health_pb2_grpc.HealthStub(late).Check(health_pb2.HealthCheckRequest())
        assert (await health).status == Status.NOT_SERVING
        await door_is_shut(await started)
        assert not serving_it.done()
        service.finish.set()
        assert await running == pb.ListPoolsResponse()
        watch.cancel()
        await serving_it


async def door_is_shut(port: int) -> None:
    """Until nobody listens at this port any more."""
    with suppress(ConnectionError):
        while True:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await asyncio.sleep(0.02)


async def test_a_call_that_outlasts_the_grace_is_cancelled() -> None:
    service = Failing()
    add = partial(venue_pb2_grpc.add_VenueServiceServicer_to_server, service)
    [port] = free_ports(1)
    async with asyncio.timeout(PATIENCE_SECONDS), open_channel(f"127.0.0.1:{port}") as channel:
        venue: venue_pb2_grpc.VenueServiceAsyncStub = venue_pb2_grpc.VenueServiceStub(channel)
        async with serving(f"127.0.0.1:{port}", {VENUE_SERVICE: add}, grace_seconds=0.05):
            running = asyncio.ensure_future(venue.ListPools(pb.ListPoolsRequest()))
            await service.entered.wait()

        with pytest.raises(grpc.aio.AioRpcError):
            await running
