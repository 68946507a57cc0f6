"""The gRPC server every service runs: its edge, health, reflection, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final, Protocol

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_status import rpc_status

from engine import answers, errors
from engine.certificates import Files
from engine.grpc_server.server import GrpcServer
from engine.limits import Limits
from engine.tls import server_contexts

logger = structlog.get_logger()


class Stay:
    """A stream that was let in, until it is told to leave."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._why: errors.RequestError | None = None
        self.sending = False

    def end(self, why: errors.RequestError) -> None:
        """End the stream with this error: at once, or when its reader has taken what is sent."""
        self._why = self._why or why
        if self._task is not None and not self.sending:
            self._task.cancel()

    def check(self) -> None:
        """Raise what it was told to end with."""
        if self._why is not None:
            raise self._why

    @contextmanager
    def leaving(self) -> Iterator[Stay]:
        """Turns the end that it was told to make into its error."""
        try:
            yield self
        except asyncio.CancelledError:
            if self._why is None:
                raise
            assert self._task is not None
            self._task.uncancel()
            raise self._why from None


class Door(Protocol):
    """Decides who is let in; raises RequestErrors to those who are not."""

    async def enter(self, method: str, context: Any) -> None:
        """Let a call in that is answered once."""

    def stay(self, method: str, context: Any) -> AbstractAsyncContextManager[Stay]:
        """Let a stream in, for as long as it lasts or nobody ends it."""


class OpenDoor:
    """Lets everybody in."""

    async def enter(self, method: str, context: Any) -> None:
        pass

    @asynccontextmanager
    async def stay(self, method: str, context: Any) -> AsyncIterator[Stay]:
        yield Stay()


class _Edge:
    """The RPC edge: callers are let in or not, engine errors become statuses, anything else is
    logged and INTERNAL."""

    def __init__(self, door: Door) -> None:
        self.draining = False
        self._door = door

    def around(self, method: str, handler: Any) -> Any:
        """The method's handler behind this edge."""
        # Health and reflection are not ours to translate, and health is asked while draining.
        if method.startswith("/grpc."):
            return handler
        # Bytes are read in here, so that those nobody can read are refused like any wrong field.
        read = partial(_read, handler.request_deserializer)
        if handler.request_streaming:
            read = partial(_read_each, read)
        if handler.response_streaming:
            stream = handler.stream_stream or handler.unary_stream

            async def streaming(sent: Any, context: Any) -> AsyncIterator[Any]:
                try:
                    self._refuse_if_draining()
                    async with self._door.stay(method, context) as stay:
                        async for response in stream(read(sent), context):
                            stay.sending = True
                            yield response
                            stay.sending = False
                            stay.check()
                except Exception as error:  # noqa: BLE001 - the RPC edge
                    await _abort(context, method, error)

            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(streaming, None, handler.response_serializer)
        single = handler.stream_unary or handler.unary_unary

        async def answering(sent: Any, context: Any) -> Any:
            try:
                self._refuse_if_draining()
                await self._door.enter(method, context)
                return await single(read(sent), context)
            except Exception as error:  # noqa: BLE001 - the RPC edge
                await _abort(context, method, error)

        make = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make(answering, None, handler.response_serializer)

    def _refuse_if_draining(self) -> None:
        if self.draining:
            raise errors.ShuttingDown("this process is stopping; ask again, or ask another one")


def _read(deserialize: Callable[[bytes], Any], sent: bytes) -> Any:
    try:
        return deserialize(sent)
    except DecodeError:
        raise errors.InvalidRequest(
            [
                errors.Violation(
                    "request", "its bytes are not the message that this method takes: see the proto"
                )
            ]
        ) from None


async def _read_each(
    read: Callable[[bytes], Any], sent: AsyncIterator[bytes]
) -> AsyncIterator[Any]:
    async for one in sent:
        yield read(one)


async def _abort(context: Any, method: str, error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, errors.RequestError):
        logger.debug("refused", method=method, reason=error.reason, message=str(error))
        status = rpc_status.to_status(answers.to_status(error))
        await context.abort(
            status.code, status.details, (*status.trailing_metadata, *answers.pushback(error))
        )
    logger.error("call failed", method=method, exc_info=error)
    internal = rpc_status.to_status(answers.INTERNAL)
    await context.abort(internal.code, internal.details, internal.trailing_metadata)


class Server:
    """A started server: the port it got, and its health."""

    def __init__(
        self,
        port: int,
        health: health_aio.HealthServicer,
        names: Sequence[str],
        parts: Sequence[str],
    ) -> None:
        self.port = port
        self._health = health
        self._names = names
        self._parts = parts

    async def report(self, serving: bool, part: str | None = None) -> None:
        """Say SERVING or NOT_SERVING for the process and all in it, or because of one part of it.

        A part's own health, asked for by its name, then tells why the process does not serve.
        """
        status = health_pb2.HealthCheckResponse.ServingStatus
        concerned = (*self._names, *self._parts) if part is None else (part,)
        for name in ("", *concerned):
            await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)


OPEN_DOOR: Final = OpenDoor()


@asynccontextmanager
async def serving(
    address: str,
    services: Mapping[str, Callable[[Any], None]],
    *,
    tls: Files | None = None,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    parts: Sequence[str] = (),
    door: Door = OPEN_DOOR,
    grace_seconds: float = 0,
    on_drain: Callable[[], None] = lambda: None,
    share_port: bool = False,
) -> AsyncIterator[Server]:
    """Serve `services` (full name → adder) at `address`, with health and reflection.

    `parts` have a health of their own beside the services. Health and reflection answer
    everybody, all else whom the `door` lets in. With `share_port` other
    processes may serve at the same address, if they ask for that too.

    Entered last, so that SERVING means the rest is open. Leaving calls `on_drain`, says
    NOT_SERVING, refuses new calls, gives running ones the grace, then cancels them; with no
    grace, at once.
    With `tls` files, TLS only, and with a CA among them only for clients it vouches for.
    Raises StartupError when the address cannot be bound or the files are no use.
    """
    edge = _Edge(door)
    server = GrpcServer(limits, edge.around)
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    for add in services.values():
        add(server)
    names = (*services, "grpc.health.v1.Health", reflection.SERVICE_NAME)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
        reflection.aio.ReflectionServicer(names), server
    )
    try:
        port = server.listen(
            address, share_port=share_port, tls=server_contexts(tls) if tls else None
        )
    except OSError:
        raise errors.StartupError(
            f"{address} cannot be bound: it is taken or not ours; choose another address"
        ) from None
    started = Server(port, health, tuple(services), parts)
    await started.report(serving=True)
    logger.info("serving", address=address, port=port, tls=bool(tls))
    try:
        yield started
    finally:
        edge.draining = True
        on_drain()
        await started.report(serving=False)
        await asyncio.sleep(min(answers.REFUSE_SECONDS, grace_seconds))
        await server.stop(grace_seconds)
