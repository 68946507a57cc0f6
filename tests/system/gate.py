"""A gRPC door between a service and what it calls, where a test can hold a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc


class Held:
    """One call that is held until the test lets it go, or its caller is gone."""

    def __init__(self, method: str, *, answered: bool) -> None:
        self.method = method
        self.answered = answered
        self.reached = asyncio.Event()
        self._released = asyncio.Event()

    def release(self) -> None:
        """Let the call go on."""
        self._released.set()

    async def wait(self) -> None:
        self.reached.set()
        await self._released.wait()


class Gate(grpc.GenericRpcHandler):
    """Forwards calls as bytes; the next unary one of a method may be held.

    A call held before it is forwarded never happens if its caller dies; one held with its
    answer has happened.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._holds: list[Held] = []
        self.address = ""

    def hold(self, method: str, *, answered: bool = False) -> Held:
        """Hold the next call of `method`: before it is forwarded, or once it is answered."""
        held = Held(method, answered=answered)
        self._holds.append(held)
        return held

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method.rpartition("/")[2].startswith("Watch"):
            return grpc.unary_stream_rpc_method_handler(partial(self._follow, details.method))
        return grpc.unary_unary_rpc_method_handler(partial(self._forward, details.method))

    async def _follow(self, method: str, request: bytes, context: Any) -> AsyncIterator[bytes]:
        call: Any = self._channel.unary_stream(method)
        try:
            async for answer in call(request):
                yield answer
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")

    async def _forward(self, method: str, request: bytes, context: Any) -> bytes:
        name = method.rpartition("/")[2]
        held = next((h for h in self._holds if h.method == name), None)
        if held is not None:
            self._holds.remove(held)
        if held is not None and not held.answered:
            await held.wait()
        try:
            call: Any = self._channel.unary_unary(method)
            answer: bytes = await call(request, timeout=context.time_remaining())
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
        if held is not None and held.answered:
            await held.wait()
        return answer


@asynccontextmanager
async def open_gate(target: str) -> AsyncIterator[Gate]:
    """A gate in front of `target`, which need not be there yet."""
    async with grpc.aio.insecure_channel(
        target, options=[("grpc.max_reconnect_backoff_ms", 200)]
    ) as channel:
        gate = Gate(channel)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((gate,))
        gate.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield gate
        finally:
            await server.stop(None)
