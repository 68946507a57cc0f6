"""Calls that suffer: late, failed before or after they acted, with answers that do not fit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from dex_sim.effects import Site
from dex_sim.faults import Faults, Occasion
from engine.v1 import sim_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]
Response = TypeVar("Response", bound=Message)

ITEMS: Final = ("results", "statuses", "transactions")


async def suffer(
    faults: Faults, occasion: Occasion, context: Context, act: Callable[[], Response]
) -> Response:
    """What `act` answers, unless something goes wrong before or after it; asked once a call."""
    hits = faults.hitting(Site.CALL, occasion)
    for fault in hits:
        if not _comes_after(fault):
            await _strike(fault, context)
    response = act()
    for fault in hits:
        if fault.HasField("miscount"):
            _miscount(response, fault.miscount.by)
        elif _comes_after(fault):
            await _strike(fault, context)
    return response


def _comes_after(fault: pb.Fault) -> bool:
    return fault.HasField("miscount") or fault.fail.after_acting or fault.slow.after_acting


async def _strike(fault: pb.Fault, context: Context) -> None:
    if fault.HasField("slow"):
        await asyncio.sleep(fault.slow.delay.ToNanoseconds() / 10**9)
        return
    details = []
    if fault.fail.HasField("retry_delay"):
        told = AnyMessage()
        told.Pack(error_details_pb2.RetryInfo(retry_delay=fault.fail.retry_delay))
        details.append(told)
    status = rpc_status.to_status(
        status_pb2.Status(
            code=code_pb2.Code.Value(fault.fail.code), message="injected", details=details
        )
    )
    await context.abort(status.code, status.details, status.trailing_metadata)


def _miscount(response: Message, by: int) -> None:
    items = next(getattr(response, name) for name in ITEMS if hasattr(response, name))
    if by < 0:
        del items[by:]
    elif items:
        items.extend([items[-1]] * by)
