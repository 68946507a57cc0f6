"""The chain's clock."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from dex_sim.chain import Chain

# Without fixed slots: the pace while there is work, and the pulse while there is none. Even then
# a blockhash lives for 150 blocks, and what is never sent must still be seen to expire.
BUSY_SLOT_SECONDS: Final = 0.005
IDLE_SLOT_SECONDS: Final = 0.4


async def keep_time(chain: Chain, slot_milliseconds: int) -> None:
    """Advance the chain for ever: every slot, or (0) as soon as there is something to do."""
    if slot_milliseconds:
        await _tick(chain, slot_milliseconds / 1000)
    else:
        await _follow_work(chain)


async def _tick(chain: Chain, slot_seconds: float) -> None:
    now = asyncio.get_running_loop().time
    due = now()
    while True:
        # A process that was paused does not catch up: those slots never were.
        due = max(due + slot_seconds, now())
        await asyncio.sleep(due - now())
        chain.advance()


async def _follow_work(chain: Chain) -> None:
    while True:
        if not chain.busy:
            chain.wanted.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(chain.wanted.wait(), IDLE_SLOT_SECONDS)
        chain.advance()
        await asyncio.sleep(BUSY_SLOT_SECONDS)
