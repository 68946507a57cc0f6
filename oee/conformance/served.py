"""Which services an address serves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from engine.errors import StartupError
from engine.v1 import chain_pb2, venue_pb2
from engine.v1.chain_pb2_grpc import ChainServiceStub
from engine.v1.venue_pb2_grpc import VenueServiceStub

VENUE: Final = venue_pb2.DESCRIPTOR.services_by_name["VenueService"].full_name
CHAIN: Final = chain_pb2.DESCRIPTOR.services_by_name["ChainService"].full_name

# A call of each that needs nothing, for a server without reflection.
PROBES: Final[dict[str, tuple[Any, str, Any]]] = {
    VENUE: (VenueServiceStub, "ListPools", venue_pb2.ListPoolsRequest()),
    CHAIN: (ChainServiceStub, "GetBlockHeight", chain_pb2.GetBlockHeightRequest()),
}
# What tells that there is nobody to ask, rather than what they answer.
AWAY: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def served(channel: grpc.aio.Channel, address: str, timeout_seconds: float) -> list[str]:
    """The names of the services to check, the venue's first, by reflection or else by asking.

    Raises StartupError when nobody is there, or serves neither.
    """
    try:
        names = await _reflected(channel, timeout_seconds)
        if names is None:
            names = {name for name in PROBES if await _answers(channel, name, timeout_seconds)}
    except grpc.aio.AioRpcError as error:
        raise StartupError(
            f"no answer from {address}: {error.code().name}: {error.details()}"
        ) from None
    found = [name for name in PROBES if name in names]
    if not found:
        raise StartupError(f"{address} serves neither {VENUE} nor {CHAIN}; serve one of them there")
    return found


async def _reflected(channel: grpc.aio.Channel, timeout_seconds: float) -> set[str] | None:
    """The names that reflection lists; None without reflection."""

    async def asking() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = reflection.ServerReflectionInfo(asking(), timeout=timeout_seconds)
    try:
        async for response in call:
            return {service.name for service in response.list_services_response.service}
    except grpc.aio.AioRpcError as error:
        if error.code() in AWAY:
            raise
    finally:
        call.cancel()
    return None


async def _answers(channel: grpc.aio.Channel, name: str, timeout_seconds: float) -> bool:
    """Whether the service is there: any answer counts but UNIMPLEMENTED."""
    stub, method, request = PROBES[name]
    try:
        await getattr(stub(channel), method)(request, timeout=timeout_seconds)
    except grpc.aio.AioRpcError as error:
        if error.code() in AWAY:
            raise
        return error.code() is not grpc.StatusCode.UNIMPLEMENTED
    return True
