"""The halt of signing, and the swaps that a restored record did not know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg

from engine.adoption import Landing
from engine.order import KEY_HASH_DIGITS
from engine.store import Store

# The locks wait for every statement that might have signed, or added an order, without having
# seen what follows; whoever comes later sees it.
STOP_SIGNING: Final = "LOCK TABLE attempts IN SHARE MODE"
STOP_ADDING: Final = "LOCK TABLE orders IN SHARE MODE"

HALT: Final = "UPDATE signing SET halt_time = coalesce(halt_time, now())"
LIFT: Final = "UPDATE signing SET halt_time = NULL, home = signing_home()"
WHY_HALTED: Final = """
SELECT CASE WHEN signing_allowed() THEN NULL
            WHEN halt_time IS NOT NULL THEN 'a reconciliation has not finished'
            ELSE 'this database was restored from a copy, or taken over by a standby'
       END AS why FROM signing
"""
NOT_ON_RECORD: Final = """
SELECT signature FROM unnest($1::text[]) AS s (signature)
 WHERE NOT EXISTS (SELECT FROM attempts a WHERE a.signature = s.signature)
"""
RECORD: Final = """
INSERT INTO adopted_swaps (signature, order_id, number, key_hash, slot, context_slot, token_in,
                           token_out, amount_in, amount_out, network_fee_lamports)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING
"""
BY_KEY_HASH: Final = f"""
SELECT order_id, key_hash FROM (
    SELECT order_id, left(encode(sha256(convert_to(
               account || ':' || coalesce(client_order_id, order_id::text), 'UTF8')), 'hex'),
               {KEY_HASH_DIGITS}) AS key_hash
      FROM orders) AS o
 WHERE key_hash = ANY($1::text[])
"""


class Signing:
    """Whether transactions may be signed. Every method raises StoreUnavailable as the store's do.

    All of them are safe to repeat.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def why_halted(self) -> str | None:
        """Why nothing may be signed, or None when it may."""
        [row] = await self._store.ask(lambda connection: connection.fetch(WHY_HALTED))
        why: str | None = row["why"]
        return why

    async def halt(self) -> None:
        """From the return on, no signature gets on record: nothing new can be sent."""
        await self._store.ask(lambda connection: _together(connection, STOP_SIGNING, HALT))

    async def lift(self) -> None:
        """Signing goes on, in this database."""
        await self._store.ask(lambda connection: connection.fetch(LIFT))

    async def not_on_record(self, signatures: Sequence[str]) -> set[str]:
        """Those of the signatures that no attempt on record has."""
        found = await self._store.ask(lambda c: c.fetch(NOT_ON_RECORD, signatures))
        return {row["signature"] for row in found}

    async def record(self, landings: Sequence[Landing]) -> None:
        """From the return on, no order is new whose key is that of one of these swaps."""

        async def write(connection: Any) -> list[asyncpg.Record]:
            async with connection.transaction():
                await connection.execute(STOP_ADDING)
                await connection.executemany(RECORD, _rows(landings))
            return []

        await self._store.ask(write)

    async def orders_by_key(self, key_hashes: Sequence[str]) -> dict[str, UUID]:
        """The orders on record with these keys, by the key's hash."""
        found = await self._store.ask(lambda c: c.fetch(BY_KEY_HASH, key_hashes))
        return {row["key_hash"]: row["order_id"] for row in found}


def _rows(landings: Sequence[Landing]) -> list[tuple[object, ...]]:
    return [
        (
            landing.signature,
            landing.order_id,
            landing.number,
            landing.key_hash,
            landing.slot,
            landing.context_slot,
            swapped.token_in,
            swapped.token_out,
            swapped.amount_in,
            swapped.amount_out,
            swapped.network_fee_lamports,
        )
        for landing in landings
        for swapped in landing.swaps
    ]


async def _together(connection: Any, *statements: str) -> list[asyncpg.Record]:
    async with connection.transaction():
        for statement in statements:
            await connection.execute(statement)
    return []
