"""Writing what the chain has done already, whole or not at all, whatever may be signed now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
from msgspec.structs import replace

from engine import adoption, rows, statements, written_rows
from engine.adoption import Landing
from engine.errors import ClientOrderIdReused, StaleOrder
from engine.order import Order, Transition


async def take(transitions: Sequence[Transition], connection: Any) -> list[asyncpg.Record]:
    """Put these steps of one order on record; raises StaleOrder and then has written none."""
    async with connection.transaction():
        for transition in transitions:
            if not await connection.fetch(statements.ADOPT, *written_rows.written([transition])):
                raise stale(transition)
    return []


async def recover(order: Order, connection: Any) -> list[asyncpg.Record]:
    """The row of the order whose adopted swap has `order`'s key, added if it is not there.

    Nothing when no such swap was adopted. Raises ClientOrderIdReused when the swap is not what
    `order` asks for.
    """
    async with connection.transaction():
        key = order.key_hash, order.request.token_out
        found = await connection.fetchrow(statements.ADOPTED, *key)
        if found is None:
            return []
        landing = rows.landing(found)
        lost = replace(order, order_id=landing.order_id)
        _require_swap_of(lost, landing)
        if await connection.fetch(statements.ADD, *statements.new([lost], known=True)):
            await take(adoption.adopt(lost, landing), connection)
    recovered: list[asyncpg.Record] = await connection.fetch(
        statements.GET_BY_CLIENT_ORDER_ID, order.account, order.client_order_id
    )
    return recovered


def stale(transition: Transition) -> StaleOrder:
    order = transition.order
    return StaleOrder(f"order {order.order_id} is no longer at {transition.replaces}")


def _require_swap_of(order: Order, landing: Landing) -> None:
    swapped = landing.swapped_for(order.request)
    assert swapped is not None
    difference = adoption.first_difference(order.request, swapped)
    if difference is not None:
        raise ClientOrderIdReused(
            f"client_order_id {order.client_order_id} belongs to order {order.order_id}, which "
            f"has swapped already and whose {difference} differs; use a new key for a new order",
            order_id=str(order.order_id),
            first_difference=difference,
        )
