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

# What the log holds for whoever reads it now. Transactions' numbers are not durable: after a crash
# those that left nothing behind are given out again. What an event proves is.
EXTENT: Final = """
SELECT log.*, least(event_position(pg_snapshot_xmin(pg_current_snapshot())), next) AS complete,
       event_position(pg_snapshot_xmax(pg_current_snapshot())) AS "end",
       ARRAY(SELECT event_position(id) FROM pg_snapshot_xip(pg_current_snapshot()) AS id) AS running
  FROM (SELECT md5(home) AS home, oldest,
               greatest(oldest, (SELECT max(position) + 1 FROM order_events)) AS next
          FROM event_log) AS log
"""
# What has appeared since an extent: from its `next` on in order, and what was running then. One row
# an order; what the log holds is asked once, not for every row.
ENTRIES: Final = f"""
WITH log AS MATERIALIZED ({EXTENT}),
page AS MATERIALIZED (
    SELECT position, order_id, sequence, settled FROM order_events
     WHERE position >= $2 AND (position, order_id, sequence) > ($2, $3, $4)
     ORDER BY position, order_id, sequence LIMIT $5
), late AS (
    SELECT position, order_id, sequence, settled
      FROM order_events WHERE position = ANY($1::bigint[])
), last AS (
    SELECT position AS last_position, order_id AS last_order_id, sequence AS last_sequence
      FROM page ORDER BY position DESC, order_id DESC, sequence DESC LIMIT 1
)
SELECT log.*, last.*, e.*, (SELECT count(*) FROM page) AS events
  FROM log LEFT JOIN last ON true LEFT JOIN (
       SELECT order_id, max(sequence) AS sequence, bool_or(settled) AS settled
         FROM (TABLE page UNION ALL TABLE late) AS seen GROUP BY order_id) AS e
    ON true
"""
_LOGGED: Final = """
SELECT e.*, o.account, o.client_order_id, o.token_in, o.token_out, o.amount_in
  FROM order_events e JOIN orders o ON o.order_id = e.order_id
"""
# Whether all of it is still there is asked in the same moment.
PAGE: Final = f"""
SELECT log.oldest, e.*
  FROM (SELECT oldest FROM event_log) AS log LEFT JOIN (
       {_LOGGED} WHERE e.position >= $2 AND (e.position, e.order_id, e.sequence) > ($2, $3, $4)
          AND o.account = $1 AND e.position < $5
        ORDER BY e.position, e.order_id, e.sequence LIMIT $6) AS e
    ON true
 ORDER BY e.position, e.order_id, e.sequence
"""
AFTER: Final = (
    _LOGGED
    + """JOIN unnest($1::uuid[], $2::integer[]) AS w (order_id, after)
         ON e.order_id = w.order_id AND e.sequence > w.after
 ORDER BY e.order_id, e.sequence LIMIT $3"""
)
OPEN: Final = (
    statements.READ
    + "WHERE NOT o.settled AND o.account = $1 AND o.order_id > $2 ORDER BY o.order_id LIMIT $3"
)
OPEN_SEQUENCES: Final = """
SELECT order_id, sequence FROM orders
 WHERE NOT settled AND order_id > $1 ORDER BY order_id LIMIT $2
"""


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
        [row] = await self._store.ask(lambda connection: connection.fetch(EXTENT))
        return _extent(row)

    async def part(self, seen: Extent, cursor: Cursor | None, limit: int) -> Part:
        """What some `limit` events come to that were not there at `seen`, behind the cursor.

        Every event is in a part of some moment, those that commit later than others after it too:
        what appears is above what was there, or of a transaction that was running.
        """
        running = [] if cursor else [place for place in seen.running if place < seen.next]
        place = cursor or (seen.next, FIRST, 0)
        found = await self._store.ask(lambda c: c.fetch(ENTRIES, running, *place, limit))
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
        found = await self._store.ask(lambda c: c.fetch(PAGE, account, *place, end, limit))
        return found[0]["oldest"], [_logged(row) for row in found if row["order_id"] is not None]

    async def after(self, sequences: Sequence[tuple[UUID, int]], limit: int) -> list[Logged]:
        """Events of several orders, each after its own sequence, by order and sequence."""
        ids, last = [i for i, _ in sequences], [s for _, s in sequences]
        found = await self._store.ask(lambda c: c.fetch(AFTER, ids, last, limit))
        return [_logged(row) for row in found]

    async def open_orders(self, account: str, after: UUID, limit: int) -> list[Order]:
        """The account's orders that are not settled, by id, after one."""
        found = await self._store.ask(lambda c: c.fetch(OPEN, account, after, limit))
        return [rows.order(row) for row in found]

    async def open_sequences(self, after: UUID, limit: int) -> list[tuple[UUID, int]]:
        """Where every order that is not settled stands, by id, after one."""
        found = await self._store.ask(lambda c: c.fetch(OPEN_SEQUENCES, after, limit))
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
