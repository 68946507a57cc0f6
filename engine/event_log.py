"""The log of all orders' events, in the order of the transactions that wrote them.

Transactions commit out of order, so an event may appear behind others that were written later. A
position says how far the log is complete: nothing below it is still to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from engine import rows, statements
from engine.order import Order, OrderEvent, OrderRequest
from engine.store import Store

FIRST: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Place:
    """A position in the log of one database; `home` is a short name of that database."""

    home: str
    position: int


@dataclass(frozen=True, slots=True)
class Extent:
    """What the log of one database holds: events from `oldest` on are all still there, below
    `complete` none is still to come, and there is none from `end` on."""

    home: str
    oldest: int
    complete: int
    end: int


class Entry(msgspec.Struct, frozen=True):
    """How far an order has come in a part of the log, and where its last event there stands."""

    order_id: UUID
    sequence: int
    settled: bool
    position: int


class Part(msgspec.Struct, frozen=True):
    """A part of the log: an entry for each order with events there; the log goes on unless `last`.

    With these and what comes before them it is complete below `complete`.
    """

    complete: int
    entries: list[Entry]
    last: bool


class Logged(msgspec.Struct, frozen=True):
    """An event, where it stands, and its order's request; the rest of `order` is not filled in."""

    position: int
    order: Order
    event: OrderEvent


class EventLog:
    """Reads the log. Every method raises StoreUnavailable as the store's do."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def extent(self) -> Extent:
        """What the log holds now."""
        [row] = await self._store.ask(lambda connection: connection.fetch(statements.LOG_EXTENT))
        return Extent(row["home"], row["oldest"], row["complete"], row["end"])

    async def part(self, position: int, limit: int) -> Part:
        """What the first `limit` events from a position on come to."""
        found = await self._store.ask(lambda c: c.fetch(statements.LOG_ENTRIES, position, limit))
        complete: int = found[0]["complete"]
        if found[0]["order_id"] is None:
            return Part(complete, [], last=True)
        entries = [
            Entry(row["order_id"], row["sequence"], row["settled"], row["position"])
            for row in found
        ]
        if sum(row["events"] for row in found) < limit:
            return Part(complete, entries, last=True)
        # Of the last transaction not all may be here.
        return Part(min(complete, max(e.position for e in entries)), entries, last=False)

    async def page(
        self, account: str, after: Logged | None, position: int, end: int, limit: int
    ) -> list[Logged]:
        """An account's events from a position on, or after one of them, up to `end`."""
        place = (
            (after.position, after.event.order_id, after.event.sequence)
            if after
            else (position, FIRST, 0)
        )
        found = await self._store.ask(
            lambda c: c.fetch(statements.LOG_PAGE, account, *place, end, limit)
        )
        return [_logged(row) for row in found]

    async def after(self, sequences: Sequence[tuple[UUID, int]], limit: int) -> list[Logged]:
        """Events of several orders, each after its own sequence, by order and sequence."""
        ids, last = [i for i, _ in sequences], [s for _, s in sequences]
        found = await self._store.ask(lambda c: c.fetch(statements.LOG_AFTER, ids, last, limit))
        return [_logged(row) for row in found]

    async def open_orders(self, account: str, after: UUID, limit: int) -> list[Order]:
        """The account's orders that are not settled, by id, after one."""
        found = await self._store.ask(lambda c: c.fetch(statements.OPEN, account, after, limit))
        return [rows.order(row) for row in found]

    async def open_sequences(self, after: UUID, limit: int) -> list[tuple[UUID, int]]:
        """Where every order that is not settled stands, by id, after one."""
        found = await self._store.ask(lambda c: c.fetch(statements.OPEN_SEQUENCES, after, limit))
        return [(row["order_id"], row["sequence"]) for row in found]


def _logged(row: asyncpg.Record) -> Logged:
    event = rows.event(row)
    request = OrderRequest(row["token_in"], row["token_out"], int(row["amount_in"]))
    order = Order(event.order_id, row["account"], row["client_order_id"], request)
    return Logged(row["position"], order, event)
