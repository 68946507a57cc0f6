"""How long the engine takes to be itself again after a kill -9, measured while all else is calm.

Orders are sent for a second; then every copy of the victim is killed at the same moment, and
another order is sent at once. Two times are taken from the kill:

- next_order_seconds: until that order, whose client retries, is CONFIRMED to its client;
- in_hand_seconds: until each order that was under way is CONFIRMED to its client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from tests.chaos.clients import Crowd
from tests.chaos.disturbances import Disturbances
from tests.chaos.intents import plain_intent

ORDERS_IN_HAND: Final = 20
BETWEEN_SECONDS: Final = 0.05
# Nobody is worth waiting for longer: the report says null, and the checker what is wrong.
GIVE_UP_SECONDS: Final = 60.0

Recovery = Mapping[str, float | None]


async def measure(crowd: Crowd, disturbances: Disturbances) -> dict[str, Recovery]:
    """The recovery from each kind of kill, one after the other."""
    kills: Mapping[str, Callable[[], Coroutine[Any, Any, None]]] = {
        "gateway": lambda: disturbances.kill("gateway", "gateway-2"),
        "router": lambda: disturbances.kill("router", "router-2"),
        "executor": lambda: disturbances.kill("executor", "executor-2"),
        "dex_sim": lambda: disturbances.kill("dex_sim"),
        "nats_wipe": lambda: disturbances.restart_nats(0, wipe=True),
        "postgres": disturbances.restart_postgres,
    }
    return {victim: await _recovery(crowd, kill) for victim, kill in kills.items()}


async def _recovery(crowd: Crowd, kill: Callable[[], Coroutine[Any, Any, None]]) -> Recovery:
    under_way = []
    for _ in range(ORDERS_IN_HAND):
        under_way.append(crowd.send(plain_intent))
        await asyncio.sleep(BETWEEN_SECONDS)
    in_hand = [trader for trader in under_way if not trader.confirmed.is_set()]
    killed = time.monotonic()

    async def seconds_until(*confirmed: asyncio.Event) -> float | None:
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                await asyncio.gather(*(event.wait() for event in confirmed))
        except TimeoutError:
            return None
        return round(time.monotonic() - killed, 2)

    async with asyncio.TaskGroup() as group:
        group.create_task(kill())
        following = crowd.send(plain_intent)
        next_order = group.create_task(seconds_until(following.confirmed))
        orders_in_hand = group.create_task(seconds_until(*(t.confirmed for t in in_hand)))
    return {"next_order_seconds": next_order.result(), "in_hand_seconds": orders_in_hand.result()}
