"""The facts that a storm is judged by, as plain records. Amounts are base units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Order:
    """A row of the table orders."""

    order_id: str
    client_order_id: str | None
    status: str
    settled: bool
    sequence: int
    token_in: str
    token_out: str
    amount_in: int
    venues: tuple[str, ...] = ()
    requested_min_amount_out: int | None = None
    expire_time: datetime | None = None
    min_amount_out: int | None = None
    filled_amount_in: int | None = None
    amount_out: int | None = None
    fill_signature: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class Leg:
    """One swap of a transaction, as it was signed."""

    venue: str
    pool: str
    mint_in: str
    mint_out: str
    amount_in: int
    min_amount_out: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of the table attempts; of the evidence, zero and "" where it has none."""

    order_id: str
    number: int
    legs: tuple[Leg, ...]
    signature: str
    last_valid_block_height: int
    min_amount_out: int
    sign_time: datetime
    resolution: str | None = None
    slot: int = 0
    error: str = ""
    finalized_block_height: int = 0
    height_context_slot: int = 0
    status_context_slot: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """One event, as the database or a stream has it; `text` is all of it, as a client gets it."""

    sequence: int
    type: str
    previous_status: str | None
    status: str
    settled: bool
    signature: str = ""
    amount_in: int | None = None
    amount_out: int | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Swap:
    """A leg that really happened, from the chain's own ledger."""

    number: int
    signature: str
    slot: int
    leg: Leg
    amount_out: int
    memo: str


@dataclass(frozen=True, slots=True)
class Stream:
    """What one client saw of one order, over all its reconnects: the events after `after`."""

    after: int
    until_settled: bool
    events: Sequence[Event]
    ended: bool


@dataclass(frozen=True, slots=True)
class CancelAnswer:
    """What a cancel was answered, and the order's sequence in that answer."""

    outcome: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Told:
    """All that one client was told of its one order. Without order_ids it was never accepted."""

    client_order_id: str
    order_ids: frozenset[str]
    streams: Sequence[Stream] = ()
    cancels: Sequence[CancelAnswer] = ()
    # Answers that a client of this order must never get, e.g. "WatchOrder: NOT_FOUND".
    wrong_answers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """All there is to check, read after everything has come to rest."""

    orders: Sequence[Order]
    attempts: Sequence[Attempt]
    events: Mapping[str, Sequence[Event]]
    swaps: Sequence[Swap]
    told: Sequence[Told]
