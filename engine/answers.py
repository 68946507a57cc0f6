"""How errors are told to clients: a code, a reason, details, and when to come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import grpc
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from engine import errors
from engine.v1 import orders_pb2

logger = structlog.get_logger()

ERROR_DOMAIN: Final = "engine"
INTERNAL_MESSAGE: Final = "internal error; it is in the server's log"
# A stopping server first refuses new calls in words for a while, so that clients learn of it; who
# was refused comes back later than that, see ShuttingDown.
REFUSE_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True)
class Answer:
    """How one kind of error is told: a canonical code, and when to come back."""

    code: grpc.StatusCode
    retry_seconds: float | None = None


# The one place where an error gets its code; README's table is written from it.
ANSWERS: Final[Mapping[type[errors.RequestError], Answer]] = {
    errors.InvalidRequest: Answer(grpc.StatusCode.INVALID_ARGUMENT),
    errors.ClientOrderIdReused: Answer(grpc.StatusCode.ALREADY_EXISTS),
    errors.OrderNotFound: Answer(grpc.StatusCode.NOT_FOUND),
    errors.Unauthenticated: Answer(grpc.StatusCode.UNAUTHENTICATED),
    errors.RoleRequired: Answer(grpc.StatusCode.PERMISSION_DENIED),
    errors.KeyNotFound: Answer(grpc.StatusCode.NOT_FOUND),
    errors.NoOperatorLeft: Answer(grpc.StatusCode.FAILED_PRECONDITION),
    errors.NoRoute: Answer(grpc.StatusCode.FAILED_PRECONDITION),
    errors.RiskLimit: Answer(grpc.StatusCode.FAILED_PRECONDITION),
    errors.TradingHalted: Answer(grpc.StatusCode.FAILED_PRECONDITION),
    errors.RateLimited: Answer(grpc.StatusCode.RESOURCE_EXHAUSTED),
    errors.QuotaExceeded: Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_seconds=1),
    errors.FutureSequence: Answer(grpc.StatusCode.OUT_OF_RANGE),
    errors.ResumeTokenTooOld: Answer(grpc.StatusCode.OUT_OF_RANGE),
    errors.SlowConsumer: Answer(grpc.StatusCode.RESOURCE_EXHAUSTED),
    errors.Overloaded: Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_seconds=1),
    errors.StoreUnavailable: Answer(grpc.StatusCode.UNAVAILABLE, retry_seconds=1),
    errors.ShuttingDown: Answer(grpc.StatusCode.UNAVAILABLE, retry_seconds=2 * REFUSE_SECONDS),
}


def to_status(error: errors.RequestError) -> status_pb2.Status:
    """The google.rpc.Status of an error: ErrorInfo always, the other details where they fit."""
    answer = ANSWERS[type(error)]
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason, domain=ERROR_DOMAIN, metadata=dict(error.metadata)
        )
    ]
    if isinstance(error, errors.InvalidRequest):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field, description=violation.description
                    )
                    for violation in error.violations
                ]
            )
        )
    if isinstance(error, errors.OrderNotFound | errors.ClientOrderIdReused):
        details.append(
            error_details_pb2.ResourceInfo(
                resource_type="engine.v1.Order",
                resource_name=error.metadata.get("order_id")
                or error.metadata.get("client_order_id", ""),
                description=str(error),
            )
        )
    if isinstance(error, errors.NoOperatorLeft):
        details.append(_unmet(error.reason, {"key": str(error)}))
    if isinstance(error, errors.NoRoute):
        details.append(_unmet(error.reason, error.metadata))
    if isinstance(error, errors.RiskLimit):
        details.append(_unmet(error.reason, {v.field: v.description for v in error.violations}))
    if isinstance(error, errors.TradingHalted):
        details.append(_unmet(error.reason, {"trading": str(error)}))
    if isinstance(error, errors.RateLimited | errors.QuotaExceeded):
        details.append(
            error_details_pb2.QuotaFailure(
                violations=[
                    error_details_pb2.QuotaFailure.Violation(
                        subject=f"account:{error.metadata['account']}", description=str(error)
                    )
                ]
            )
        )
    retry_seconds = _retry_seconds(error)
    if retry_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(retry_seconds * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        item = any_pb2.Any()
        item.Pack(detail)
        packed.append(item)
    code = code_pb2.Code.Value(answer.code.name)
    return status_pb2.Status(code=code, message=str(error), details=packed)


def to_refused(error: errors.RequestError) -> orders_pb2.Refused:
    """The same as data: one order of many was refused."""
    answer = ANSWERS[type(error)]
    refused = orders_pb2.Refused(
        code=answer.code.value[0],
        reason=error.reason,
        message=str(error),
        metadata=dict(error.metadata),
    )
    if isinstance(error, errors.InvalidRequest | errors.RiskLimit):
        for violation in error.violations:
            refused.field_violations.add(field=violation.field, description=violation.description)
    retry_seconds = _retry_seconds(error)
    if retry_seconds is not None:
        refused.retry_delay.FromMilliseconds(int(retry_seconds * 1000))
    return refused


def to_internal(error: Exception) -> orders_pb2.Refused:
    """What is told of an error that is the engine's own; logs it."""
    logger.error("an order could not be dealt with", exc_info=error)
    return orders_pb2.Refused(
        code=code_pb2.INTERNAL, reason=errors.Reason.INTERNAL, message=INTERNAL_MESSAGE
    )


def pushback(error: errors.RequestError) -> tuple[tuple[str, str], ...]:
    """RetryInfo once more, as gRPC's own retry policy understands it."""
    seconds = _retry_seconds(error)
    return () if seconds is None else (("grpc-retry-pushback-ms", f"{seconds * 1000:.0f}"),)


def _internal() -> status_pb2.Status:
    status = status_pb2.Status(code=code_pb2.INTERNAL, message=INTERNAL_MESSAGE)
    info = error_details_pb2.ErrorInfo(reason=errors.Reason.INTERNAL, domain=ERROR_DOMAIN)
    status.details.add().Pack(info)
    return status


# What is told of an error that is the engine's own, whatever it is.
INTERNAL: Final = _internal()


def _retry_seconds(error: errors.RequestError) -> float | None:
    """When to come back; None when that would not help."""
    known = error.retry_seconds
    return ANSWERS[type(error)].retry_seconds if known is None else known


def _unmet(reason: str, why: Mapping[str, str]) -> error_details_pb2.PreconditionFailure:
    return error_details_pb2.PreconditionFailure(
        violations=[
            error_details_pb2.PreconditionFailure.Violation(
                type=reason, subject=subject, description=description
            )
            for subject, description in why.items()
        ]
    )
