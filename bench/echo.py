"""A bare gRPC echo: what the wire costs when nothing is behind it.

`python -m bench.echo PORT` serves until it is killed: a unary call, and a stream of messages in
each direction. Payloads are passed on as they are.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import uvloop

from oee.ports import HOST

UNARY: Final = "/bench.Echo/Unary"
STREAM: Final = "/bench.Echo/Stream"

Context = grpc.aio.ServicerContext[bytes, bytes]


class _Echo(grpc.GenericRpcHandler):
    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if call.method == UNARY:
            return grpc.unary_unary_rpc_method_handler(_unary)
        if call.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(_stream)
        return None


async def _unary(request: bytes, context: Context) -> bytes:
    return request


async def _stream(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def _serve(port: int) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([_Echo()])
    server.add_insecure_port(f"{HOST}:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
