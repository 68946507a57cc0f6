"""How many orders the engine takes on: beyond that, clients are told to come back."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Final

from engine.errors import Overloaded, StoreUnavailable
from engine.store import Store

LOOK_SECONDS: Final = 0.25
# Groups go by the most that waited in the last of these, about a second.
LOOKS: Final = 4
SMALLEST_GROUP: Final = 32


def group_size(waiting: int) -> int:
    """How many new orders go on together while so many wait to be signed.

    Orders that are stored together stay together, one process after the other works on them. The
    more they are, the less each costs; but there have to be several groups for several processes
    to work at once. A power of two, so that a group that comes back is not cut unevenly.
    """
    return max(SMALLEST_GROUP, 1 << (waiting // 2).bit_length() >> 1)


class Admission:
    """Keeps the orders that nothing is signed for yet below a limit.

    They are counted in the database every quarter of a second. What this gateway stores meanwhile,
    and has stored since, is added; so several gateways overshoot at most by what each takes within
    that time. The count also tells how many new orders go on together.
    """

    def __init__(self, store: Store, max_waiting_orders: int) -> None:
        self._store = store
        self._limit = max_waiting_orders
        self._waiting = 0
        self._since = 0
        self._entering = 0
        self._lately: deque[int] = deque(maxlen=LOOKS)

    def enter(self) -> None:
        """Take a place for an order, to be stored next; raises Overloaded when there is none."""
        if self._waiting + self._since + self._entering >= self._limit:
            raise Overloaded(
                f"{self._limit} orders wait to be executed already, and no more may; "
                "this one was not accepted: try again later"
            )
        self._entering += 1

    def leave(self, *, accepted: bool) -> None:
        """It is stored and waits, or it does not."""
        self._entering -= 1
        self._since += accepted

    async def follow(self) -> None:
        """Count what waits, until cancelled."""
        while True:
            accepted = self._since
            try:
                self._waiting = await self._store.count_waiting(self._limit)
                # What was accepted meanwhile may be counted twice, for a moment.
                self._since -= accepted
                self._lately.append(self._waiting)
                self._store.keep_together(group_size(max(self._lately)))
            except StoreUnavailable:
                pass  # nothing is accepted either
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.8, 1.2))
