"""A blockhash that is recent enough to sign with, read once for many transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from engine.batch import Batcher
from engine.chain import Blockhash, Chain

# A blockhash lives for a minute or more; the age is taken off that.
RECENT_SECONDS: Final = 0.5


class RecentBlockhash:
    """Shares one reading of the chain's latest blockhash among all who ask within half a second."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._read: Blockhash | None = None
        self._read_time = 0.0
        self._readers: Batcher[None, Blockhash] = Batcher(self._refresh, limit=10_000, in_flight=1)

    async def get(self) -> Blockhash:
        """A recent blockhash; raises Unanswered when the chain does not give one."""
        if self._read is not None and self._age() < RECENT_SECONDS:
            return self._read
        return await self._readers.submit(None)

    def forget(self) -> None:
        """Read anew next time: the chain does not know this one."""
        self._read = None

    def _age(self) -> float:
        return asyncio.get_running_loop().time() - self._read_time

    async def _refresh(self, askers: Sequence[None]) -> list[Blockhash]:
        asked = asyncio.get_running_loop().time()
        self._read, self._read_time = await self._chain.latest_blockhash(), asked
        return [self._read] * len(askers)
