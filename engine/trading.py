"""The trading state: whether orders are accepted and signed, as operators set it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final

import asyncpg
import structlog

from engine.errors import StoreUnavailable, TradingHalted
from engine.store import Store

logger = structlog.get_logger()

LOOK_SECONDS: Final = 0.25

READ: Final = "SELECT state, why, set_time, key_id FROM trading"
SET: Final = """
UPDATE trading SET state = $1, why = $2, key_id = $3,
       set_time = CASE WHEN state = $1 AND why = $2 THEN set_time ELSE now() END
"""
# Each waits for the statements that began before they could see what was set.
BARRIERS: Final = (
    "LOCK TABLE orders IN SHARE MODE",
    "LOCK TABLE attempts IN SHARE MODE",
)


class TradingState(StrEnum):
    """Whether orders are accepted and signed; the statements of the store decide by it."""

    ACTIVE = "active"
    CANCEL_ONLY = "cancel_only"
    HALTED = "halted"


@dataclass(frozen=True, slots=True)
class Setting:
    """The state, why it was set, since when, and with which key ("": without one)."""

    state: TradingState
    why: str
    set_time: datetime
    key_id: str


class TradingSwitch:
    """Reads and sets the trading state. Methods raise StoreUnavailable as the store's do.

    What was last seen saves work that the database would refuse; it decides nothing.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: Setting | None = None

    @property
    def halted(self) -> bool:
        """Whether nothing is signed, as last seen."""
        return self._seen is not None and self._seen.state is TradingState.HALTED

    def require_active(self) -> None:
        """Raise TradingHalted when no orders are accepted, as last seen."""
        if self._seen is not None and self._seen.state is not TradingState.ACTIVE:
            raise TradingHalted(self._seen.state.value, self._seen.why)

    async def read(self) -> Setting:
        """What is set now."""
        [row] = await self._store.ask(lambda connection: connection.fetch(READ))
        self._seen = Setting(TradingState(row["state"]), row["why"], row["set_time"], row["key_id"])
        return self._seen

    async def set(self, state: TradingState, why: str, key_id: str) -> Setting:
        """From the return on it holds everywhere, for whatever is under way too. Safe to repeat."""
        await self._store.ask(lambda c: c.fetch(SET, state.value, why, key_id))
        for barrier in BARRIERS:
            await self._store.ask(partial(_wait, barrier))
        logger.warning("trading state set", state=state.value, why=why, key_id=key_id)
        return await self.read()

    async def follow(self) -> None:
        """Notice what is set elsewhere, until cancelled."""
        while True:
            try:
                await self.read()
            except StoreUnavailable as error:
                logger.debug("the trading state stays as it was seen", error=str(error))
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.8, 1.2))


async def _wait(barrier: str, connection: Any) -> list[asyncpg.Record]:
    async with connection.transaction():
        await connection.execute(barrier)
    return []
