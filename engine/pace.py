"""A pace: so many turns a second and no more, evenly spread."""

from __future__ import annotations

import asyncio
import math


class Pace:
    """Turns at a fixed distance: no burst, so the limit holds over every second."""

    def __init__(self, turns_per_second: float) -> None:
        self._distance_seconds = 1 / turns_per_second
        self._next = 0.0
        # How many may wait for their turn without any of them waiting longer than a second.
        self.calls_ahead = max(1, math.floor(turns_per_second))

    async def turn(self) -> None:
        """Return when it is the caller's turn; turns come in the order of asking."""
        now = asyncio.get_running_loop().time()
        turn = max(now, self._next)
        self._next = turn + self._distance_seconds
        if turn > now:
            await asyncio.sleep(turn - now)
