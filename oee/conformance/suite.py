"""Every check there is for what some addresses serve."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from solders.keypair import Keypair

from engine.certificates import Files
from engine.channel import open_channel
from engine.errors import StartupError
from oee.conformance import arithmetic, builds, heights, pools, quotes, records, sending, swap
from oee.conformance.chain import ChainAt
from oee.conformance.check import CALL_SECONDS, Check, Finding, examine
from oee.conformance.served import CHAIN, VENUE, served
from oee.conformance.venue import Venue

VENUE_CHECKS: Final = (*pools.CHECKS, *quotes.CHECKS, *arithmetic.CHECKS, *builds.CHECKS)
CHAIN_CHECKS: Final = (*heights.CHECKS, *sending.CHECKS, *records.CHECKS)
SWAP_CHECKS: Final = swap.CHECKS


@dataclass(frozen=True, slots=True)
class Group:
    """Some checks of one subject, under a title."""

    title: str
    checks: Sequence[Check[Any]]
    subject: Any

    async def findings(self) -> AsyncIterator[Finding]:
        """What comes of each, in order."""
        async for finding in examine(self.subject, self.checks):
            yield finding


async def groups(
    opened: AsyncExitStack,
    addresses: Sequence[str],
    *,
    tls: Files | None = None,
    wallet: str = "",
    key: Keypair | None = None,
) -> list[Group]:
    """The checks of what each address serves; with a key, also of swaps through them.

    `wallet` is one whose history may be read. Channels are closed with `opened`. Raises
    StartupError for an address that serves neither service, and for a key without both.
    """
    venues: dict[str, Venue] = {}
    chains: dict[str, ChainAt] = {}
    # Swaps are built for somebody, who needs to hold nothing.
    payer = str(key.pubkey()) if key else wallet or str(Keypair().pubkey())
    for address in addresses:
        channel = await opened.enter_async_context(open_channel(address, tls))
        for name in await served(channel, address, CALL_SECONDS):
            if name == VENUE:
                venues[address] = Venue(channel, payer)
            else:
                chains[address] = ChainAt(channel, str(key.pubkey()) if key else wallet)
    found = [Group(f"{VENUE} at {at}", VENUE_CHECKS, venue) for at, venue in venues.items()]
    trading = []
    if key:
        if not venues or not chains:
            raise StartupError("a swap needs a venue and a chain; give the address of each")
        at, chain = next(iter(chains.items()))
        trading = [
            Group(
                f"a swap at {venue_at} over the chain at {at}",
                SWAP_CHECKS,
                swap.Desk(venue, chain, key),
            )
            for venue_at, venue in venues.items()
        ]
    # Last, so that the wallet's history has something in it.
    reading = [Group(f"{CHAIN} at {at}", CHAIN_CHECKS, chain) for at, chain in chains.items()]
    return [*found, *trading, *reading]
