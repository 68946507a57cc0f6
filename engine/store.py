"""Orders, their attempts and their events in PostgreSQL: the truth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
import structlog
from msgspec.structs import replace

from engine import recovery, rows, statements, written_rows
from engine.allowance import UNLIMITED, Allowance
from engine.batch import Batcher
from engine.connections import STATEMENT_SECONDS, Connections, Query, open_connections
from engine.errors import (
    ClientOrderIdReused,
    QuotaExceeded,
    RateLimited,
    StoreUnavailable,
    TradingHalted,
)
from engine.lifecycle import Status
from engine.order import Order, OrderEvent, Transition
from engine.token import Token, Tokens

logger = structlog.get_logger()

WRITERS: Final = 3
READERS: Final = 3
# Batches grow while a statement runs; one that waits for a lock holds up the others no longer.
PATIENCE_SECONDS: Final = 0.02
BATCH_LIMIT: Final = 250

# How far the looks at an order that stands still back off.
OFFER_AT_LEAST_EVERY: Final = timedelta(seconds=5)
SETTLE_AT_LEAST_EVERY: Final = timedelta(seconds=2)


class Added(msgspec.Struct, frozen=True):
    """The stored order; `event` is None when it had been accepted before."""

    order: Order
    event: OrderEvent | None


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
        self._gets: Batcher[UUID, Order | None] = Batcher(
            self._get_rows,
            limit=BATCH_LIMIT,
            in_flight=READERS,
            patience_seconds=PATIENCE_SECONDS,
        )
        self._earlier: Batcher[Order, Order | None] = Batcher(
            self._earlier_rows,
            limit=BATCH_LIMIT,
            in_flight=READERS,
            patience_seconds=PATIENCE_SECONDS,
        )
        # Accounts whose rate is there to be locked.
        self._rated: set[str] = set()
        self._adds: Batcher[tuple[Order, Allowance], Added] = Batcher(
            self._add_batch,
            limit=BATCH_LIMIT,
            in_flight=WRITERS,
            patience_seconds=PATIENCE_SECONDS,
        )
        self._saves: Batcher[Transition, Transition] = Batcher(
            self._save_batch,
            limit=BATCH_LIMIT,
            in_flight=WRITERS,
            patience_seconds=PATIENCE_SECONDS,
            key=lambda transition: transition.order.order_id,
        )

    def on_commit(self, listener: Listener) -> None:
        """Call `listener` with what each batch committed, before those who wait for it go on."""
        self._listeners.append(listener)

    def keep_together(self, orders: int) -> None:
        """From now on about so many new orders are stored together when many more have come."""
        self._adds.undivided = orders

    async def add(self, order: Order, allowance: Allowance = UNLIMITED) -> Added:
        """Make a new order durable, or return the one that its client_order_id has already.

        Raises ClientOrderIdReused when that key's swap was found on the chain and was another one,
        RateLimited and QuotaExceeded when a new order would go beyond the allowance, which is its
        account's, and TradingHalted.
        """
        return await self._adds.submit((order, allowance))

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

    async def recover(self, order: Order) -> Order | None:
        """Put a lost order on record again, settled, if the swap of its key was adopted.

        It is the lost order with its id, and `order`'s request. None when no such swap is known.
        Raises ClientOrderIdReused when the swap was not what `order` asks for.
        """
        found = await self.ask(partial(recovery.recover, order))
        return rows.order(found[0]) if found else None

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
        return await self._earlier.submit(order)

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
        await self._earlier.close()
        await self._adds.close()
        await self._saves.close()

    async def _claim(self, statement: str, limit: int, longest: timedelta) -> list[Order]:
        found = await self._connections.fetch(
            statement, limit, statements.CHECK_AFTER_JSON, longest
        )
        return [rows.order(row) for row in found]

    # ── batches ───────────────────────────────────────────────────────────────────────────

    async def _get_rows(self, order_ids: Sequence[UUID]) -> list[Order | None]:
        found = await self._connections.fetch(statements.GET_MANY, order_ids)
        orders = {order.order_id: order for order in map(rows.order, found)}
        return [orders.get(order_id) for order_id in order_ids]

    async def _add_batch(
        self, items: Sequence[tuple[Order, Allowance]]
    ) -> list[Added | BaseException]:
        return await self._row_by_row_on_bad_data(self._add_rows, items)

    async def _save_batch(self, batch: Sequence[Transition]) -> list[Transition | BaseException]:
        return await self._row_by_row_on_bad_data(self._save_rows, batch)

    async def _row_by_row_on_bad_data(
        self, write: Callable[[Sequence[Any]], Any], items: Sequence[Any]
    ) -> list[Any]:
        """A row that the database refuses fails alone, not with its whole batch."""
        try:
            results: list[Any] = await write(items)
        except asyncpg.PostgresError as error:
            if len(items) == 1:
                logger.error("the database refused a row", error=str(error))
                return [error]
            return [r for item in items for r in await self._row_by_row_on_bad_data(write, [item])]
        return results

    async def _add_rows(
        self, items: Sequence[tuple[Order, Allowance]]
    ) -> list[Added | BaseException]:
        orders = [order for order, _ in items]
        if all(allowance is UNLIMITED for _, allowance in items):
            decided = await self._connections.fetch(statements.ADD, *statements.new(orders))
            refused: dict[tuple[str, str], BaseException] = {}
        else:
            allowances = {order.account: allowance for order, allowance in items}
            decided = await self._add_limited(orders, allowances)
            refused = _refused(orders, decided, allowances)
        added = {row["order_id"]: time for row in decided if (time := row["create_time"])}
        earlier = await self._by_key([order for order in orders if order.order_id not in added])
        results: list[Added | BaseException] = []
        committed = []
        for order in orders:
            time = added.get(order.order_id)
            if time is not None:
                stored = replace(order, create_time=time, update_time=time, read_time=time)
                event = replace(stored.accept().event, time=time)
                results.append(Added(stored, event))
                committed.append(Transition(stored, (event,)))
            elif (key := (order.account, order.client_order_id)) in earlier:
                results.append(Added(earlier[key], None))
            else:
                results.append(refused.get(_intent(order)) or await self._recovered(order))
        self._tell(committed)
        return results

    async def _add_limited(
        self, orders: Sequence[Order], allowances: dict[str, Allowance]
    ) -> list[asyncpg.Record]:
        unrated = allowances.keys() - self._rated
        if unrated:
            await self._connections.fetch(statements.BEGIN_RATES, sorted(unrated))
            self._rated |= unrated
        return await self._connections.fetch(
            statements.ADD_LIMITED, *statements.new(orders), *statements.limited(allowances)
        )

    async def _by_key(self, orders: Sequence[Order]) -> dict[tuple[str, str | None], Order]:
        if not orders:
            return {}
        found = await self._connections.fetch(
            statements.GET_MANY_BY_CLIENT_ORDER_ID,
            [order.account for order in orders],
            [order.client_order_id for order in orders],
        )
        return {(row["account"], row["client_order_id"]): rows.order(row) for row in found}

    async def _earlier_rows(self, orders: Sequence[Order]) -> list[Order | BaseException | None]:
        earlier = await self._by_key(orders)
        hashes = [order.key_hash for order in orders]
        adopted = {
            row["key_hash"] for row in await self._connections.fetch(statements.ADOPTED_OF, hashes)
        }
        results: list[Order | BaseException | None] = []
        for order in orders:
            found = earlier.get((order.account, order.client_order_id))
            if found is None and order.key_hash in adopted:
                recovered = await self._recovered(order)
                results.append(recovered.order if isinstance(recovered, Added) else recovered)
            else:
                results.append(found)
        return results

    async def _recovered(self, order: Order) -> Added | BaseException:
        try:
            recovered = await self.recover(order)
        except ClientOrderIdReused as error:
            return error
        if recovered is not None:
            return Added(recovered, None)
        [trading] = await self._connections.fetch(statements.TRADING)
        if trading["state"] != "active":
            return TradingHalted(trading["state"], trading["why"])
        # Resumed this moment, or the rate is not where it was: the next try decides anew.
        self._rated.discard(order.account)
        return StoreUnavailable("the order could not be stored just now; repeat the call")

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


def _intent(order: Order) -> tuple[str, str]:
    """What two orders of a batch share when they are one and the same."""
    return order.account, order.client_order_id or str(order.order_id)


def _refused(
    orders: Sequence[Order],
    decided: Sequence[asyncpg.Record],
    allowances: Mapping[str, Allowance],
) -> dict[tuple[str, str], BaseException]:
    by_id = {order.order_id: order for order in orders}
    refused: dict[tuple[str, str], BaseException] = {}
    for row in decided:
        if row["create_time"] is not None:
            continue
        order = by_id[row["order_id"]]
        allowance, wait = allowances[order.account], row["wait"]
        refused[_intent(order)] = (
            QuotaExceeded(
                f"account {order.account} may have {allowance.max_open_orders} orders that are "
                "not settled, and has them; try again when some are",
                order.account,
            )
            if wait is None or wait <= timedelta()
            else RateLimited(
                f"account {order.account} may place {allowance.orders_per_minute} orders a "
                f"minute; try again in {wait.total_seconds():.3f} s",
                order.account,
                wait.total_seconds(),
            )
        )
    return refused


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
