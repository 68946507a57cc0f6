"""A node: the chain as seen up to its own head."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import msgspec

from dex_sim import market
from dex_sim.chain import RECENT_SLOTS, Chain
from dex_sim.execution import LAMPORTS, undone
from dex_sim.history import Block, Landed
from dex_sim.transaction import Reason, Refused, Transaction


class Commitment(IntEnum):
    """How settled a block is; the numbers are those of the wire."""

    PROCESSED = 1
    CONFIRMED = 2
    FINALIZED = 3


class Node(msgspec.Struct, frozen=True):
    """One node at one moment. Its answers derive only from blocks up to its head."""

    name: str
    head: Block
    chain: Chain

    def block(self, commitment: Commitment) -> Block:
        """The newest block with at least that commitment."""
        rules = self.chain.rules
        depth = {
            Commitment.PROCESSED: 0,
            Commitment.CONFIRMED: rules.confirmed_after_slots,
            Commitment.FINALIZED: rules.finalized_after_slots,
        }[commitment]
        return self.chain.history.block_at(self.head.slot - depth)

    def commitment(self, slot: int) -> Commitment:
        """How settled a slot is."""
        depth = self.head.slot - slot
        if depth >= self.chain.rules.finalized_after_slots:
            return Commitment.FINALIZED
        if depth >= self.chain.rules.confirmed_after_slots:
            return Commitment.CONFIRMED
        return Commitment.PROCESSED

    def send(self, transaction: Transaction) -> None:
        """Take a transaction for the next block; safe to repeat. Raises Refused."""
        chain = self.chain
        sighting = chain.history.sighting(transaction.signature)
        if sighting is not None and sighting.slot <= self.head.slot:
            raise Refused(Reason.ALREADY_PROCESSED, "this signature landed before")
        signed_with = chain.history.block_of(transaction.message.blockhash)
        if (
            signed_with is None
            or signed_with.slot > self.head.slot
            or self.head.height >= signed_with.last_valid_height
        ):
            raise Refused(Reason.BLOCKHASH_NOT_FOUND, "the blockhash is unknown or expired")
        # What the chain has is taken already, even where this node does not know it yet.
        if sighting is None and not chain.is_pending(transaction.signature):
            transaction.verify()
            chain.accept(transaction)

    def look_up(self, signatures: Sequence[str], *, search_history: bool) -> list[Landed | None]:
        """What landed of these: in recent slots, or ever."""
        found = [self.chain.history.sighting(signature) for signature in signatures]
        if search_history and None in found:
            forgotten = [s for s, landed in zip(signatures, found, strict=True) if landed is None]
            ever = self.chain.ledger.landed(forgotten)
            found = [landed or ever.get(s) for s, landed in zip(signatures, found, strict=True)]
        newest = self.head.slot
        oldest = 0 if search_history else newest - RECENT_SLOTS + 1
        return [landed if landed and oldest <= landed.slot <= newest else None for landed in found]

    def balances(self, wallet: str) -> dict[str, int]:
        """What a wallet holds by mint, LAMPORTS included."""
        back = undone(self.chain.landed_after(self.head.slot), wallet)
        return {
            mint: self.chain.accounts.balance(wallet, mint) + back.get(mint, 0)
            for mint in (LAMPORTS, *market.TOKENS)
        }

    def landed(self, wallet: str, *, min_slot: int, before: str, limit: int) -> list[Landed]:
        """A wallet's transactions, newest first, older than `before` unless that is empty."""
        return self.chain.ledger.landed_of_wallet(
            wallet, min_slot=min_slot, max_slot=self.head.slot, before=before, limit=limit
        )
