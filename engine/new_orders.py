"""New orders made durable, each once: a client_order_id that came before has its order already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial

import asyncpg
import msgspec
from msgspec.structs import replace

from engine import recovery, rows, statements
from engine.allowance import UNLIMITED, Allowance
from engine.batch import Batcher
from engine.connections import Connections
from engine.errors import (
    ClientOrderIdReused,
    QuotaExceeded,
    RateLimited,
    StoreUnavailable,
    TradingHalted,
)
from engine.order import Order, OrderEvent, Transition
from engine.row_batches import reading, writing


class Added(msgspec.Struct, frozen=True):
    """The stored order; `event` is None when it had been accepted before."""

    order: Order
    event: OrderEvent | None


class NewOrders:
    """The store's way in. Every method raises StoreUnavailable when the database is away."""

    def __init__(
        self, connections: Connections, tell: Callable[[Sequence[Transition]], None]
    ) -> None:
        self._connections = connections
        self._tell = tell
        # Accounts whose rate is there to be locked.
        self._rated: set[str] = set()
        self._earlier: Batcher[Order, Order | None] = reading(self._earlier_rows)
        self._adds: Batcher[tuple[Order, Allowance], Added] = writing(self._add_rows)

    def keep_together(self, orders: int) -> None:
        """As `Store.keep_together`."""
        self._adds.undivided = orders

    async def add(self, order: Order, allowance: Allowance) -> Added:
        """As `Store.add`."""
        return await self._adds.submit((order, allowance))

    async def earlier(self, order: Order) -> Order | None:
        """As `Store.earlier`."""
        return await self._earlier.submit(order)

    async def close(self) -> None:
        """Answer what was submitted."""
        await self._earlier.close()
        await self._adds.close()

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
            recovered = await self._recover(order)
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

    async def _recover(self, order: Order) -> Order | None:
        """Put a lost order on record again, settled, if the swap of its key was adopted.

        It is the lost order with its id, and `order`'s request. None when no such swap is known.
        Raises ClientOrderIdReused when the swap was not what `order` asks for.
        """
        found = await self._connections.ask(partial(recovery.recover, order))
        return rows.order(found[0]) if found else None


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
