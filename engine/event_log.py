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
    """What the log of one database holds at one moment.

    Events from `oldest` on are all still there, below `complete` none is still to come. All that
    are there stand below `next`; later ones stand from there on, or where transactions were
    `running`, and none from `end` on yet.
    """

    home: str
    oldest: int
    complete: int
    next: int
    end: int
    running: tuple[int, ...]


class Entry(msgspec.Struct, frozen=True):
    """How far an order has come in a part of the log."""

    order_id: UUID
    sequence: int
    settled: bool


# The position, order and sequence of an event.
Cursor = tuple[int, UUID, int]


class Part(msgspec.Struct, frozen=True):
    """A part of what has appeared in the log: an entry for each order with events there.

    `extent` is the log's as it was read; with a `cursor` it goes on behind that event.
    """

    extent: Extent
    entries: list[Entry]
    cursor: Cursor | None


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
        return _extent(row)

    async def part(self, seen: Extent, cursor: Cursor | None, limit: int) -> Part:
        """What some `limit` events come to that were not there at `seen`, behind the cursor.

        Every event is in a part of some moment, those that commit later than others after it too:
        what appears is above what was there, or of a transaction that was running.
        """
        running = [] if cursor else [place for place in seen.running if place < seen.next]
        place = cursor or (seen.next, FIRST, 0)
        found = await self._store.ask(
            lambda c: c.fetch(statements.LOG_ENTRIES, running, *place, limit)
        )
        first = found[0]
        more = first["events"] == limit
        return Part(
            _extent(first),
            [
                Entry(row["order_id"], row["sequence"], row["settled"])
                for row in found
                if row["order_id"] is not None
            ],
            (first["last_position"], first["last_order_id"], first["last_sequence"])
            if more
            else None,
        )

    async def page(
        self, account: str, after: Logged | None, position: int, end: int, limit: int
    ) -> tuple[int, list[Logged]]:
        """An account's events from a position on, or after one of them, up to `end`; and from
        where on none was deleted."""
        place = (
            (after.position, after.event.order_id, after.event.sequence)
            if after
            else (position, FIRST, 0)
        )
        found = await self._store.ask(
            lambda c: c.fetch(statements.LOG_PAGE, account, *place, end, limit)
        )
        return found[0]["oldest"], [_logged(row) for row in found if row["order_id"] is not None]

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


def _extent(row: asyncpg.Record) -> Extent:
    return Extent(
        row["home"],
        row["oldest"],
        row["complete"],
        row["next"],
        row["end"],
        tuple(row["running"]),
    )


def _logged(row: asyncpg.Record) -> Logged:
    event = rows.event(row)
    request = OrderRequest(row["token_in"], row["token_out"], int(row["amount_in"]))
    order = Order(event.order_id, row["account"], row["client_order_id"], request)
    return Logged(row["position"], order, event)
