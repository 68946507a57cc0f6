"""How many orders the engine takes on: beyond that, clients are told to come back."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from engine.errors import Overloaded, StoreUnavailable
from engine.store import Store

LOOK_SECONDS: Final = 0.25


class Admission:
    """Keeps the orders that nothing is signed for yet below a limit.

    They are counted in the database every quarter of a second, and what this gateway accepted
    since then is added, so several gateways together may overshoot a little.
    """

    def __init__(self, store: Store, max_waiting_orders: int) -> None:
        self._store = store
        self._limit = max_waiting_orders
        self._waiting = 0
        self._since = 0

    def require_room(self) -> None:
        """Raise Overloaded when the engine has enough to do."""
        if self._waiting + self._since >= self._limit:
            raise Overloaded(
                f"{self._limit} orders are waiting to be executed; "
                "this one was not accepted: try again later"
            )

    def count(self) -> None:
        """An order was accepted."""
        self._since += 1

    async def follow(self) -> None:
        """Count what waits, until cancelled."""
        while True:
            accepted = self._since
            try:
                self._waiting = await self._store.count_waiting(self._limit)
                # What was accepted meanwhile may be counted twice, for a moment.
                self._since -= accepted
            except StoreUnavailable:
                pass  # nothing is accepted either
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.8, 1.2))
