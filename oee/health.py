"""Whether something serves at an address of this machine."""

from __future__ import annotations

import asyncio
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine.certificates import Files, read
from engine.tls import channel_credentials

RETRY_SECONDS: Final = 0.05
# No proxy for our own machine, and a server that has just come up is found at once.
OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)


def channel(address: str, tls: Files | None = None) -> grpc.aio.Channel:
    """A channel to a service of this machine; raises StartupError when TLS files are no use."""
    if not tls:
        return grpc.aio.insecure_channel(address, options=OPTIONS)
    return grpc.aio.secure_channel(address, channel_credentials(read(tls)), options=OPTIONS)


async def until_serving(address: str) -> None:
    """Return once the address says SERVING; it is the caller who sets the deadline."""
    async with channel(address) as open_channel:
        health = health_pb2_grpc.HealthStub(open_channel)
        while True:
            try:
                async for answer in health.Watch(
                    health_pb2.HealthCheckRequest(), wait_for_ready=True
                ):
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.aio.AioRpcError:
                # It went away again, as a process that crashes at its start does.
                await asyncio.sleep(RETRY_SECONDS)
