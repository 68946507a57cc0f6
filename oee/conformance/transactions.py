"""Transactions to try a chain with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from engine import programs
from engine.network_cost import COMPUTE_UNIT_PRICE, WEIGHTS, compute_unit_limit

# The most that the executor asks for with one swap.
UNIT_LIMIT: Final = max(compute_unit_limit([kind]) for kind in WEIGHTS)

# Not a transaction by any reading: it announces more signatures than it has bytes for.
GARBAGE: Final = b"\x7fnot a transaction"


def message(
    wallet: Keypair, instructions: Sequence[Instruction], memo: str, blockhash: str
) -> MessageV0:
    """What such a wallet would sign: compute budget, these instructions, the memo."""
    budget = [set_compute_unit_limit(UNIT_LIMIT), set_compute_unit_price(COMPUTE_UNIT_PRICE)]
    return MessageV0.try_compile(
        wallet.pubkey(),
        [*budget, *instructions, programs.memo(memo)],
        [],
        Hash.from_string(blockhash),
    )


def signed(wallet: Keypair, signing: MessageV0) -> tuple[str, bytes]:
    """Its signature, in base58, and its wire format."""
    signature = wallet.sign_message(to_bytes_versioned(signing))
    return str(signature), bytes(VersionedTransaction.populate(signing, [signature]))


def forged(wallet: Keypair, signing: MessageV0) -> tuple[str, bytes]:
    """The same with a signature of something else."""
    signature = wallet.sign_message(b"something else")
    return str(signature), bytes(VersionedTransaction.populate(signing, [signature]))


def unsigned(signing: MessageV0) -> bytes:
    """The same with an empty signature, for simulation."""
    return bytes(VersionedTransaction.populate(signing, [Signature.default()]))
