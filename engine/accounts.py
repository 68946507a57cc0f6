"""The limits of accounts, as operators set them."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import asyncpg
import structlog

from engine.allowance import NO_LIMITS, AccountLimits
from engine.errors import StoreUnavailable
from engine.store import Store

logger = structlog.get_logger()

LOOK_SECONDS: Final = 1.0

ALL: Final = "SELECT * FROM account_limits"
ONE: Final = "SELECT * FROM account_limits WHERE account = $1"
SET: Final = """
INSERT INTO account_limits (account, orders_per_minute, max_open_orders, max_streams,
                            allowed_tokens, limited_tokens, max_amounts_in, max_price_impact_bps)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (account) DO UPDATE
   SET orders_per_minute = EXCLUDED.orders_per_minute,
       max_open_orders = EXCLUDED.max_open_orders,
       max_streams = EXCLUDED.max_streams,
       allowed_tokens = EXCLUDED.allowed_tokens,
       limited_tokens = EXCLUDED.limited_tokens,
       max_amounts_in = EXCLUDED.max_amounts_in,
       max_price_impact_bps = EXCLUDED.max_price_impact_bps
"""


class Accounts:
    """What accounts may do; `default` holds where nothing was set. Read again every second."""

    def __init__(self, store: Store, default: AccountLimits = NO_LIMITS) -> None:
        self._store = store
        self._default = default
        self._limits: dict[str, AccountLimits] = {}

    def limits(self, account: str) -> AccountLimits:
        """What the account may do, as last read."""
        return self._limits.get(account, self._default)

    async def look(self) -> None:
        """Read them, before anybody is told what they are; raises StoreUnavailable."""
        found = await self._store.ask(lambda connection: connection.fetch(ALL))
        self._limits = {row["account"]: _limits(row).over(self._default) for row in found}

    async def follow(self) -> None:
        """Read them now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.8, 1.0))
            try:
                await self.look()
            except StoreUnavailable as error:
                logger.debug("limits stay as they are", error=str(error))

    async def stored(self, account: str) -> AccountLimits:
        """What was set for the account; raises StoreUnavailable."""
        found = await self._store.ask(lambda connection: connection.fetch(ONE, account))
        return _limits(found[0]) if found else NO_LIMITS

    async def set(self, account: str, limits: AccountLimits) -> None:
        """Replace what was set for the account; safe to repeat. Raises StoreUnavailable."""
        row = (
            account,
            limits.orders_per_minute,
            limits.max_open_orders,
            limits.max_streams,
            sorted(limits.allowed_tokens),
            list(limits.max_amounts_in),
            list(limits.max_amounts_in.values()),
            limits.max_price_impact_bps,
        )
        await self._store.ask(lambda connection: connection.fetch(SET, *row))
        await self.look()


def _limits(row: asyncpg.Record) -> AccountLimits:
    return AccountLimits(
        row["orders_per_minute"],
        row["max_open_orders"],
        row["max_streams"],
        frozenset(row["allowed_tokens"]),
        dict(zip(row["limited_tokens"], map(int, row["max_amounts_in"]), strict=True)),
        row["max_price_impact_bps"],
    )
