"""The life of an order: which event may follow which status.

This table is the only description of it. Orders move through `next_status`, so a move that is
not in the table cannot be expressed, let alone stored.
"""

from enum import StrEnum
from typing import Final

from engine.errors import IllegalTransition


class Status(StrEnum):
    """Where an order stands, who moves it on, and what a crash leaves behind."""

    PENDING = "pending"  # durable; a router takes it, after a crash the reconciler offers it again
    ROUTING = "routing"  # quotes are collected, or a retry waits for `not_before`
    BUILDING = "building"  # an executor builds and checks; nothing is signed, anybody may redo it
    SUBMITTED = "submitted"  # a signature is on record: the swap may happen
    CONFIRMED = "confirmed"  # swapped once; its attempt stays live until finalized
    FAILED = "failed"  # no swap happened and none can
    CANCELLED = "cancelled"  # the same, at the client's request
    EXPIRED = "expired"  # the same, because expire_time passed


class EventType(StrEnum):
    """What happened, in the past tense: the same words in table, log, wire and README."""

    ORDER_ACCEPTED = "order_accepted"
    ROUTING_STARTED = "routing_started"
    ROUTE_CHOSEN = "route_chosen"
    RETRY_SCHEDULED = "retry_scheduled"
    BUILD_STARTED = "build_started"
    ATTEMPT_SIGNED = "attempt_signed"
    CANCEL_REQUESTED = "cancel_requested"
    SWAP_CONFIRMED = "swap_confirmed"
    SWAP_FINALIZED = "swap_finalized"
    SWAP_REORGED = "swap_reorged"
    ATTEMPT_RESOLVED = "attempt_resolved"
    ATTEMPT_RESOLVED_FAILED = "attempt_resolved_failed"
    ATTEMPT_RESOLVED_CANCELLED = "attempt_resolved_cancelled"
    ATTEMPT_RESOLVED_EXPIRED = "attempt_resolved_expired"
    ORDER_FAILED = "order_failed"
    ORDER_CANCELLED = "order_cancelled"
    ORDER_EXPIRED = "order_expired"


# Nothing is signed in these: an order may end here without any evidence from the chain.
UNSIGNED: Final = (Status.PENDING, Status.ROUTING, Status.BUILDING)

TRANSITIONS: Final[dict[tuple[Status | None, EventType], Status]] = {
    (None, EventType.ORDER_ACCEPTED): Status.PENDING,
    (Status.PENDING, EventType.ROUTING_STARTED): Status.ROUTING,
    (Status.ROUTING, EventType.ROUTE_CHOSEN): Status.ROUTING,
    (Status.ROUTING, EventType.RETRY_SCHEDULED): Status.ROUTING,
    (Status.ROUTING, EventType.BUILD_STARTED): Status.BUILDING,
    (Status.BUILDING, EventType.RETRY_SCHEDULED): Status.ROUTING,
    (Status.BUILDING, EventType.ATTEMPT_SIGNED): Status.SUBMITTED,
    (Status.SUBMITTED, EventType.CANCEL_REQUESTED): Status.SUBMITTED,
    (Status.SUBMITTED, EventType.SWAP_CONFIRMED): Status.CONFIRMED,
    (Status.SUBMITTED, EventType.ATTEMPT_RESOLVED): Status.ROUTING,
    (Status.SUBMITTED, EventType.ATTEMPT_RESOLVED_FAILED): Status.FAILED,
    (Status.SUBMITTED, EventType.ATTEMPT_RESOLVED_CANCELLED): Status.CANCELLED,
    (Status.SUBMITTED, EventType.ATTEMPT_RESOLVED_EXPIRED): Status.EXPIRED,
    (Status.CONFIRMED, EventType.SWAP_FINALIZED): Status.CONFIRMED,
    (Status.CONFIRMED, EventType.SWAP_REORGED): Status.SUBMITTED,
    **{(status, EventType.ORDER_FAILED): Status.FAILED for status in UNSIGNED},
    **{(status, EventType.ORDER_CANCELLED): Status.CANCELLED for status in UNSIGNED},
    **{(status, EventType.ORDER_EXPIRED): Status.EXPIRED for status in UNSIGNED},
}

# Written out, not derived: CONFIRMED has arcs and is final all the same.
FINAL: Final = frozenset({Status.CONFIRMED, Status.FAILED, Status.CANCELLED, Status.EXPIRED})


def next_status(status: Status | None, event: EventType) -> Status:
    """The status after `event`; raises IllegalTransition when the table has no such move."""
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        raise IllegalTransition(f"{event} cannot follow status {status or 'none'}") from None
