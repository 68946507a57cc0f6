"""How many routes accounts may have chosen for them without an order."""

from __future__ import annotations

import asyncio
from typing import Final

from engine.errors import RateLimited

# What may be saved up and then be asked for at once.
BURST_SECONDS: Final = 1.0


class RoutePace:
    """So many routes a second for each account, at this gateway; zero: any number."""

    def __init__(self, routes_per_second: float) -> None:
        self._routes_per_second = routes_per_second
        # When what was asked for will have been paid off. Accounts are those of keys: few.
        self._paid_off: dict[str, float] = {}

    def take(self, account: str, routes: int) -> None:
        """Count these routes; raises RateLimited, and then has counted none."""
        if not self._routes_per_second:
            return
        now = asyncio.get_running_loop().time()
        cost = routes / self._routes_per_second
        owed = max(0.0, self._paid_off.get(account, now) - now)
        # Whoever owes nothing may ask for any number at once.
        wait = owed + cost - max(BURST_SECONDS, cost)
        if wait > 0:
            raise RateLimited(
                f"account {account} may have {self._routes_per_second:g} routes a second chosen "
                f"here, and this takes {routes}: wait {wait:.3f} s",
                account,
                wait,
            )
        self._paid_off[account] = now + owed + cost
