"""The chain as the executor sees it: readings carry the slot of the node that gave them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Mapping, Sequence
from enum import IntEnum
from typing import Final, Protocol

import msgspec

from engine.errors import Refused, Unanswered
from engine.v1 import chain_pb2 as pb

# Transactions or signatures in one call.
BATCH_LIMIT: Final = 200


class Commitment(IntEnum):
    """How settled a block is; ordered."""

    PROCESSED = pb.COMMITMENT_PROCESSED
    CONFIRMED = pb.COMMITMENT_CONFIRMED
    FINALIZED = pb.COMMITMENT_FINALIZED


class Blockhash(msgspec.Struct, frozen=True):
    """A blockhash to sign with, and the last block height it lives to."""

    blockhash: str
    last_valid_block_height: int


class HeightReading(msgspec.Struct, frozen=True):
    """A finalized block height, and the slot of the node that said so."""

    block_height: int
    context_slot: int


class StatusReading(msgspec.Struct, frozen=True):
    """What one node knows of one signature. `commitment` None: it has no record of it."""

    context_slot: int
    node: str
    commitment: Commitment | None = None
    slot: int = 0
    error: str = ""


class TransactionReading(msgspec.Struct, frozen=True):
    """What a landed transaction did: each wallet's change by mint, in base units."""

    slot: int
    error: str
    changes: dict[tuple[str, str], int]
    fee_lamports: int
    # How settled its slot is, in the view of the node that answered, and how far that node is.
    commitment: Commitment = Commitment.PROCESSED
    context_slot: int = 0
    node: str = ""
    # Empty: the chain did not tell.
    signers: tuple[str, ...] = ()

    @property
    def status(self) -> StatusReading:
        """The same node's word on the signature's status."""
        return StatusReading(self.context_slot, self.node, self.commitment, self.slot, self.error)


class SignatureReading(msgspec.Struct, frozen=True):
    """A signature of a wallet that landed, with the text of its memo ("": none)."""

    signature: str
    slot: int
    error: str
    memo: str


class HistoryPage(msgspec.Struct, frozen=True):
    """Some of a wallet's landed signatures, newest first; none: there are no older ones.

    `context_slot` is of the node that gave them.
    """

    context_slot: int
    signatures: tuple[SignatureReading, ...]


# Why a transaction is not taken, or that nobody said so.
No = Refused | Unanswered


class Chain(Protocol):
    """The chain. Calls raise Unanswered when no node answered in time."""

    async def latest_blockhash(self) -> Blockhash:
        """A recent blockhash."""

    async def finalized_height(self) -> HeightReading:
        """The finalized block height."""

    async def simulate(self, transactions: Sequence[bytes]) -> list[No | None]:
        """Try transactions, signed or not, without effect: why each would fail, None if not.

        Where no node answered in time, that stands in place of an answer.
        """

    async def send(self, transactions: Sequence[bytes]) -> list[No | None]:
        """Send signed bytes; safe to repeat. As `simulate`, but nothing that it says is proof."""

    async def statuses(self, signatures: Sequence[str]) -> list[StatusReading]:
        """What one node knows of these signatures, its whole history searched."""

    async def transactions(self, signatures: Sequence[str]) -> list[TransactionReading | None]:
        """What these did; None where the answering node has no record."""

    def changes(
        self, wallet: str, wanted: Container[str]
    ) -> AsyncIterator[Mapping[str, TransactionReading | None]]:
        """Those signatures of a wallet that are wanted then, as their status changes, for as long
        as the connection lasts; each with what a node shows of it, None: that has to be read.

        Hints only: some may be missing.
        """

    async def history(self, wallet: str, before: str) -> HistoryPage:
        """What of this wallet landed before the signature `before` ("": from the newest on)."""
