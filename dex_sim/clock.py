"""The chain's clock."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from dex_sim.chain import Chain

# Without fixed slots: the pace while there is work, and the pulse while there is none. A blockhash
# lives for 150 blocks, so the pace is also what keeps it alive for most of a second under load;
# and what is never sent must still be seen to expire when nothing else happens.
BUSY_SLOT_SECONDS: Final = 0.005
IDLE_SLOT_SECONDS: Final = 0.4
# How far a block may come before its time because a transaction waits for it.
EARLY_SECONDS: Final = 4 * BUSY_SLOT_SECONDS


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
    now = asyncio.get_running_loop().time
    due = now()
    while True:
        # A transaction does not wait for the pace, unless many before it did not either: what
        # comes meanwhile goes into one block.
        patience = due - now() if chain.busy else IDLE_SLOT_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await chain.wanted.wait()
                await asyncio.sleep(due - EARLY_SECONDS - now())
        chain.wanted.clear()
        chain.advance()
        due = max(due, now()) + BUSY_SLOT_SECONDS
