"""What a batch writes: rows of the database's composite types, one value a row.

The fields of each are the attributes of its type, in their order, and the columns that they go to.
Amounts are sent as digits: asyncpg takes ten times as long over a numeric.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from engine.attempt import Attempt
from engine.lifecycle import FINAL, EventType, Status
from engine.order import Order, OrderEvent, Transition
from engine.rows import encode, encode_detail

# How soon an order in this status is looked at again if nothing happens; repeated looks
# back off. Long enough for the work itself, short enough to outlive a crash
# unnoticed.
CHECK_AFTER: Final = {
    Status.PENDING: timedelta(seconds=2),
    Status.ROUTING: timedelta(seconds=3),
    Status.BUILDING: timedelta(seconds=3),
    Status.SUBMITTED: timedelta(milliseconds=200),
    Status.CONFIRMED: timedelta(milliseconds=400),
}


class NewOrder(NamedTuple):
    """An order that is accepted; `key_hash` None: it is added whatever is known of its key."""

    order_id: UUID
    account: str
    client_order_id: str | None
    order_type: str
    token_in: str
    token_out: str
    amount_in: str
    slippage_bps: int | None
    requested_min_amount_out: str | None
    venues: Sequence[str]
    expire_time: datetime | None
    key_hash: str | None


class MovedOrder(NamedTuple):
    """The version of an order that takes the place of the one with sequence `replaces`."""

    order_id: UUID
    replaces: int
    sequence: int
    signs: bool
    backoff: timedelta | None
    check_after: timedelta | None
    status: str
    settled: bool
    min_amount_out: str | None
    venue: str | None
    quoted_amount_out: str | None
    retries: int
    cancel_requested: bool
    error_reason: str | None
    error_message: str | None
    filled_amount_in: str | None
    amount_out: str | None
    fill_slot: int | None
    fill_signature: str | None
    network_fee_lamports: int | None
    legs: str | None


class OrderStep(NamedTuple):
    """An event."""

    order_id: UUID
    sequence: int
    type: str
    previous_status: str | None
    status: str
    settled: bool
    venue: str | None
    detail: str


class NewAttempt(NamedTuple):
    """An attempt as it comes on record."""

    order_id: UUID
    number: int
    venue: str
    signature: str
    blockhash: str
    last_valid_block_height: int
    min_amount_out: str
    transaction: bytes
    resolution: str | None
    evidence: str | None
    legs: str


class EndedAttempt(NamedTuple):
    """How an attempt on record ended."""

    order_id: UUID
    number: int
    resolution: str
    evidence: str


# Events that end an attempt that is on record; an attempt with any other event comes on record.
_RESOLVING: Final = {
    EventType.SWAP_FINALIZED,
    EventType.ATTEMPT_RESOLVED,
    EventType.ATTEMPT_RESOLVED_FAILED,
    EventType.ATTEMPT_RESOLVED_CANCELLED,
    EventType.ATTEMPT_RESOLVED_EXPIRED,
}
_FINAL: Final = list(FINAL)
# What is written into columns of the same names.
FACTS: Final = MovedOrder._fields[MovedOrder._fields.index("status") :]
REQUEST: Final = NewOrder._fields[:-1]
# What is not sent as what its column holds.
CASTS: Final = {
    "amount_in": "numeric",
    "requested_min_amount_out": "numeric",
    "min_amount_out": "numeric",
    "quoted_amount_out": "numeric",
    "filled_amount_in": "numeric",
    "amount_out": "numeric",
    "detail": "json",
    "legs": "json",
    "evidence": "json",
}


def columns(row: str, names: Sequence[str]) -> str:
    """These fields of a row, each as what its column holds."""
    return ", ".join(column(row, name) for name in names)


def column(row: str, name: str) -> str:
    """A field of a row, as what its column holds."""
    return f"{row}.{name}::{CASTS[name]}" if name in CASTS else f"{row}.{name}"


def new_order(order: Order, key_hash: str | None) -> NewOrder:
    request = order.request
    floor = request.min_amount_out
    return NewOrder(
        order.order_id,
        order.account,
        order.client_order_id,
        request.order_type,
        request.token_in,
        request.token_out,
        str(request.amount_in),
        request.slippage_bps,
        None if floor is None else str(floor),
        request.venues,
        request.expire_time,
        key_hash,
    )


def moved_order(transition: Transition) -> MovedOrder:
    order = transition.order
    route, failure, fill, floor = order.route, order.failure, order.fill, order.min_amount_out
    return MovedOrder(
        order_id=order.order_id,
        replaces=transition.replaces,
        sequence=order.sequence,
        signs=any([event.type is EventType.ATTEMPT_SIGNED for event in transition.events]),
        backoff=order.backoff,
        check_after=CHECK_AFTER.get(order.status),
        status=order.status,
        settled=order.settled,
        min_amount_out=None if floor is None else str(floor),
        venue=route.venue if route else None,
        quoted_amount_out=str(route.quoted_amount_out) if route else None,
        retries=order.retries,
        cancel_requested=order.cancel_requested,
        error_reason=failure.reason if failure else None,
        error_message=failure.message if failure else None,
        filled_amount_in=str(fill.amount_in) if fill else None,
        amount_out=str(fill.amount_out) if fill else None,
        fill_slot=fill.slot if fill else None,
        fill_signature=fill.signature if fill else None,
        network_fee_lamports=fill.network_fee_lamports if fill else None,
        legs=encode(route.legs) if route else None,
    )


def order_step(event: OrderEvent) -> OrderStep:
    return OrderStep(
        event.order_id,
        event.sequence,
        event.type,
        event.previous_status,
        event.status,
        event.settled,
        event.venue,
        encode_detail(event.detail),
    )


def new_attempt(order_id: UUID, attempt: Attempt) -> NewAttempt:
    return NewAttempt(
        order_id,
        attempt.number,
        attempt.venue,
        attempt.signature,
        attempt.blockhash,
        attempt.last_valid_block_height,
        str(attempt.min_amount_out),
        attempt.transaction,
        attempt.resolution,
        encode(attempt.evidence) if attempt.evidence else None,
        encode(attempt.legs),
    )


def ended_attempt(order_id: UUID, attempt: Attempt) -> EndedAttempt:
    assert attempt.resolution is not None
    return EndedAttempt(order_id, attempt.number, attempt.resolution, encode(attempt.evidence))


def written(batch: Sequence[Transition]) -> list[object]:
    """What these transitions write: the arguments of SAVE and ADOPT."""
    events = [event for transition in batch for event in transition.events]
    new: list[NewAttempt] = []
    ended: list[EndedAttempt] = []
    for event in events:
        attempt = event.detail.attempt
        if attempt is None:
            continue
        if event.type in _RESOLVING:
            ended.append(ended_attempt(event.order_id, attempt))
        else:
            new.append(new_attempt(event.order_id, attempt))
    return [
        [moved_order(transition) for transition in batch],
        new,
        ended,
        [order_step(event) for event in events],
        _FINAL,
    ]
