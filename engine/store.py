"""Orders, their attempts and their events in PostgreSQL: the truth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

import asyncpg
from msgspec.structs import replace

from engine import recovery, rows, statements, written_rows
from engine.allowance import UNLIMITED, Allowance
from engine.batch import Batcher
from engine.connections import STATEMENT_SECONDS, Connections, Query, open_connections
from engine.lifecycle import Status
from engine.new_orders import Added, NewOrders
from engine.order import Order, OrderEvent, Transition
from engine.row_batches import reading, writing
from engine.token import Token, Tokens

# How far the looks at an order that stands still back off.
OFFER_AT_LEAST_EVERY: Final = timedelta(seconds=5)
SETTLE_AT_LEAST_EVERY: Final = timedelta(seconds=2)

Listener = Callable[[Sequence[Transition]], None]


class Store:
    """Orders and their events. Every method raises StoreUnavailable when the database is away.

    After a StoreUnavailable from a write it is unknown whether it was committed; all writes
    are safe to repeat.
    """

    def __init__(self, connections: Connections, tokens: Tokens) -> None:
        self._connections = connections
        self.tokens = tokens
        self._listeners: list[Listener] = []
        self._new = NewOrders(connections, self._tell)
        self._gets: Batcher[UUID, Order | None] = reading(self._get_rows)
        self._saves: Batcher[Transition, Transition] = writing(
            self._save_rows, key=lambda transition: transition.order.order_id
        )

    def on_commit(self, listener: Listener) -> None:
        """Call `listener` with what each batch committed, before those who wait for it go on."""
        self._listeners.append(listener)

    def keep_together(self, orders: int) -> None:
        """From now on about so many new orders are stored together when many more have come."""
        self._new.keep_together(orders)

    async def add(self, order: Order, allowance: Allowance = UNLIMITED) -> Added:
        """Make a new order durable, or return the one that its client_order_id has already.

        Raises ClientOrderIdReused when that key's swap was found on the chain and was another one,
        RateLimited and QuotaExceeded when a new order would go beyond the allowance, which is its
        account's, and TradingHalted.
        """
        return await self._new.add(order, allowance)

    async def save(self, transition: Transition) -> Transition:
        """Put this version where its predecessor stood, with its event; times filled in.

        Raises StaleOrder if another version stands there, or while signing is halted and this
        would sign or end the order without a swap: read again.
        """
        return await self._saves.submit(transition)

    def begin_saves(self, transitions: Sequence[Transition]) -> list[asyncio.Future[Transition]]:
        """As `save` of each, for those who wait for many; raises Overloaded at once."""
        return self._saves.begin(transitions)

    async def adopt(self, transitions: Sequence[Transition]) -> None:
        """Put an order's steps on record, all or none, that the chain has taken already.

        Neither a halt nor expire_time stops them. Raises StaleOrder as `save` does.
        """
        await self.ask(partial(recovery.take, transitions))

    async def get(self, order_id: UUID) -> Order | None:
        """The order, or None."""
        return await self._gets.submit(order_id)

    async def get_each(self, order_ids: Sequence[UUID]) -> list[Order]:
        """Those of these orders that there are, in their order."""
        found = await asyncio.gather(*self._gets.begin(order_ids))
        return [order for order in found if order is not None]

    async def get_by_client_order_id(self, account: str, client_order_id: str) -> Order | None:
        """The order that this account gave this key, or None."""
        found = await self._connections.fetch(
            statements.GET_BY_CLIENT_ORDER_ID, account, client_order_id
        )
        return rows.order(found[0]) if found else None

    async def earlier(self, order: Order) -> Order | None:
        """What adding this order would return instead of a new one, or None; adds nothing new.

        Raises ClientOrderIdReused as `add` does.
        """
        return await self._new.earlier(order)

    async def list_orders(
        self,
        account: str,
        *,
        after: UUID | None = None,
        oldest_first: bool = False,
        statuses: Sequence[Status] = (),
        token: str | None = None,
        venue: str | None = None,
        create_time_from: datetime | None = None,
        create_time_before: datetime | None = None,
        limit: int,
    ) -> list[Order]:
        """The account's orders in the order of their ids, after the one with id `after`."""
        found = await self._connections.fetch(
            statements.OLDEST_FIRST if oldest_first else statements.NEWEST_FIRST,
            account,
            after,
            [status.value for status in statuses] or None,
            token,
            venue,
            create_time_from,
            create_time_before,
            limit,
        )
        return [rows.order(row) for row in found]

    async def events(self, after: Sequence[tuple[UUID, int]], limit: int) -> list[OrderEvent]:
        """Events of several orders, each after its own sequence, by order and sequence."""
        ids, sequences = [i for i, _ in after], [s for _, s in after]
        return [
            rows.event(row)
            for row in await self._connections.fetch(statements.EVENTS, ids, sequences, limit)
        ]

    async def anything_to_offer(self) -> bool:
        """Whether `claim_to_offer` would find an order now; changes nothing."""
        return bool(await self._connections.fetch(statements.DUE_TO_OFFER))

    async def claim_to_offer(self, limit: int) -> list[Order]:
        """Due orders that nothing is signed for; nobody else gets them for a while."""
        return await self._claim(statements.CLAIM_TO_OFFER, limit, OFFER_AT_LEAST_EVERY)

    async def claim_to_settle(self, limit: int) -> list[Order]:
        """Due orders with an attempt to follow; nobody else gets them for a while."""
        return await self._claim(statements.CLAIM_TO_SETTLE, limit, SETTLE_AT_LEAST_EVERY)

    async def count_waiting(self, limit: int) -> int:
        """How many orders nothing is signed for yet; counted no further than `limit`."""
        [row] = await self._connections.fetch(statements.COUNT_WAITING, limit)
        waiting: int = row["waiting"]
        return waiting

    async def ask(self, query: Query) -> list[asyncpg.Record]:
        """What `query` finds with a connection, for what else is on record."""
        return await self._connections.ask(query)

    async def close(self) -> None:
        """Answer what was submitted; the connections are their opener's to close."""
        await self._gets.close()
        await self._new.close()
        await self._saves.close()

    async def _claim(self, statement: str, limit: int, longest: timedelta) -> list[Order]:
        found = await self._connections.fetch(
            statement, limit, statements.CHECK_AFTER_JSON, longest
        )
        return [rows.order(row) for row in found]

    async def _get_rows(self, order_ids: Sequence[UUID]) -> list[Order | None]:
        found = await self._connections.fetch(statements.GET_MANY, order_ids)
        orders = {order.order_id: order for order in map(rows.order, found)}
        return [orders.get(order_id) for order_id in order_ids]

    async def _save_rows(self, batch: Sequence[Transition]) -> list[Transition | BaseException]:
        updated = await self._connections.fetch(statements.SAVE, *written_rows.written(batch))
        moved = {row["order_id"]: row for row in updated}
        results = [_committed(transition, moved) for transition in batch]
        self._tell([result for result in results if isinstance(result, Transition)])
        return results

    def _tell(self, committed: Sequence[Transition]) -> None:
        if committed:
            for listener in self._listeners:
                listener(committed)


def _committed(
    transition: Transition, moved: dict[UUID, asyncpg.Record]
) -> Transition | BaseException:
    row = moved.get(transition.order.order_id)
    if row is None:
        return recovery.stale(transition)
    time = row["update_time"]
    order = replace(
        transition.order,
        not_before=row["not_before"],
        update_time=time,
        complete_time=row["complete_time"],
        read_time=time,
    )
    return Transition(order, tuple([replace(event, time=time) for event in transition.events]))


@asynccontextmanager
async def open_store(dsn: str) -> AsyncIterator[Store]:
    """The store at `dsn`, waiting for a server that is still coming up.

    Raises StartupError as `open_connections` does, and when the database has not been migrated.
    """
    async with open_connections(dsn, _begin) as (connections, tokens):
        store = Store(connections, tokens)
        try:
            yield store
        finally:
            await asyncio.wait_for(store.close(), STATEMENT_SECONDS * 2)


async def _begin(connection: Any) -> Tokens:
    await connection.execute(statements.GO_ON_IN_A_COPY)
    found = await connection.fetch(statements.TOKENS)
    return Tokens(Token(row["symbol"], row["mint"], row["decimals"]) for row in found)
