"""Blocks, and what landed in them."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from dex_sim.execution import Change, Fill, Outcome
from dex_sim.transaction import Failure

BLOCKHASH_LIFE_BLOCKS: Final = 150


class Block(msgspec.Struct, frozen=True):
    """One block; `slot` counts skipped slots too, `height` only blocks."""

    height: int
    slot: int
    blockhash: str

    @property
    def last_valid_height(self) -> int:
        """The height of the last block that may hold a transaction signed with this blockhash."""
        return self.height + BLOCKHASH_LIFE_BLOCKS


class Landed(NamedTuple):
    """A transaction as history has it."""

    slot: int
    signature: str
    wallet: str
    failure: Failure | None
    fee_lamports: int
    memo: str
    changes: tuple[Change, ...]


def landed_in(slot: int, outcome: Outcome) -> Landed:
    """An outcome, as history will have it."""
    return Landed(
        slot=slot,
        signature=outcome.signature,
        wallet=outcome.wallet,
        failure=outcome.failure,
        fee_lamports=outcome.fee_lamports,
        memo=outcome.memo,
        changes=outcome.changes,
    )


class LandedFill(msgspec.Struct, frozen=True):
    """A swap that happened, with its place in the ledger."""

    number: int
    signature: str
    slot: int
    memo: str
    fill: Fill


class History:
    """The last blocks, and what landed in them: what nodes may still speak of from memory."""

    def __init__(self, keep_blocks: int) -> None:
        self.keep_blocks = keep_blocks
        self._blocks: list[Block] = []
        self._block_of: dict[str, Block] = {}
        self._sightings: dict[str, Landed] = {}
        # Signatures by block, to forget the sightings in the end.
        self._landed: deque[tuple[Block, list[str]]] = deque()

    @property
    def head(self) -> Block:
        """The newest block."""
        return self._blocks[-1]

    def block_at(self, slot: int) -> Block:
        """The newest block not after a slot; the oldest one kept if all are."""
        return self._blocks[max(0, bisect_right(self._blocks, slot, key=_slot) - 1)]

    def block_of(self, blockhash: str) -> Block | None:
        """The block of a recent blockhash."""
        return self._block_of.get(blockhash)

    def sighting(self, signature: str) -> Landed | None:
        """What landed, unless that is so long ago that it could not land again."""
        return self._sightings.get(signature)

    def add(self, block: Block, landed: Sequence[Landed], oldest_slot: int) -> None:
        """Go on with a block; where nodes are behind, at least back to `oldest_slot`."""
        self._blocks.append(block)
        self._block_of[block.blockhash] = block
        self._sightings.update((each.signature, each) for each in landed)
        self._landed.append((block, [each.signature for each in landed]))
        while len(self._landed) > self.keep_blocks:
            forgotten, past = self._landed.popleft()
            del self._block_of[forgotten.blockhash]
            for signature in past:
                del self._sightings[signature]
        # Cut now and then rather than shift the list every time.
        if len(self._blocks) >= 2 * self.keep_blocks:
            needed = bisect_right(self._blocks, oldest_slot, key=_slot) - 1
            del self._blocks[: max(0, min(needed, len(self._blocks) - self.keep_blocks))]

    def rewrite(self, landed: Landed) -> None:
        """Put another outcome in the place of one that landed."""
        self._sightings[landed.signature] = landed

    def forget(self, block: Block, signature: str) -> None:
        """What landed in this block never did."""
        del self._sightings[signature]
        next(names for of, names in self._landed if of is block).remove(signature)


def _slot(block: Block) -> int:
    return block.slot
