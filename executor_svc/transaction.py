"""The transaction of one attempt: composed, checked against what was agreed, then signed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple
from uuid import UUID

from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import CompileError, MessageV0, to_bytes_versioned
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from engine import programs
from engine.errors import Refused
from engine.instructions.swap import swap_instruction
from engine.instructions.terms import SwapTerms
from engine.network_cost import COMPUTE_UNIT_PRICE, MAX_WIRE_BYTES, compute_unit_limit
from engine.order import Order
from executor_svc.difference import difference_between

# What the attempts table can hold.
MAX_NUMBER: Final = 2**15 - 1
# How many there are, and the wallet's.
SIGNATURE_BYTES: Final = 1 + Signature.LENGTH


class Memo(NamedTuple):
    """What names an attempt on chain."""

    order_id: UUID
    number: int
    key_hash: str


def memo_text(order: Order, number: int) -> str:
    """The memo of an order's attempt: order, attempt, and a short hash of the order's key."""
    return f"oee:{order.order_id}:{number}:{order.key_hash}"


def read_memo(text: str) -> Memo | None:
    """The attempt that a memo names, or None when it is not one of ours."""
    match text.split(":"):
        case ["oee", order_id, number, key_hash]:
            try:
                memo = Memo(UUID(order_id), int(number), key_hash)
            except ValueError:
                return None
            return memo if 0 < memo.number <= MAX_NUMBER else None
        case _:
            return None


def compose(
    terms: Sequence[SwapTerms],
    built: Sequence[Sequence[Instruction] | None],
    memo: str,
    blockhash: str,
) -> MessageV0:
    """The message to sign: compute budget, the legs' swaps in their order, the memo.

    It is made from the terms alone; `built` is what each leg's venue built, None where it was not
    asked. Raises Refused when a venue built anything else, when the terms make no swap, or when it
    does not fit into a transaction.
    """
    try:
        agreed = [swap_instruction(each) for each in terms]
        message = _message(terms, agreed, memo, Hash.from_string(blockhash))
        theirs: list[Instruction] = []
        for swap, answer in zip(agreed, built, strict=True):
            theirs += [swap] if answer is None else answer
        # Equal instructions make equal messages; others may, and are told apart in words.
        if theirs != agreed:
            check(_message(terms, theirs, memo, message.recent_blockhash), terms, memo)
    except (ValueError, CompileError) as error:
        raise _unagreed(str(error)) from None
    size = SIGNATURE_BYTES + len(to_bytes_versioned(message))
    if size > MAX_WIRE_BYTES:
        raise Refused(
            "TRANSACTION_TOO_LARGE",
            f"the swaps take {size} bytes together, a transaction at most {MAX_WIRE_BYTES}",
        )
    return message


def check(message: MessageV0, terms: Sequence[SwapTerms], memo: str) -> None:
    """Refuse a message that is not, byte for byte, the one composed from these terms.

    Raises Refused, and says which program, signer, writable account, amount, floor, compute
    budget or memo was not agreed.
    """
    try:
        agreed = [swap_instruction(each) for each in terms]
        ours = _message(terms, agreed, memo, message.recent_blockhash)
        if to_bytes_versioned(message) == to_bytes_versioned(ours):
            return
        difference = difference_between(message, ours, terms)
    except ValueError as error:
        difference = str(error)
    raise _unagreed(difference)


def _message(
    terms: Sequence[SwapTerms], swaps: Sequence[Instruction], memo: str, blockhash: Hash
) -> MessageV0:
    kinds = tuple([each.parties.kind for each in terms])
    wallet = terms[0].parties.wallet
    return MessageV0.try_compile(
        wallet, [*_budget(kinds), *swaps, programs.memo(memo)], [], blockhash
    )


@lru_cache(maxsize=256)
def _budget(kinds: tuple[str, ...]) -> tuple[Instruction, Instruction]:
    return (
        set_compute_unit_limit(compute_unit_limit(kinds)),
        set_compute_unit_price(COMPUTE_UNIT_PRICE),
    )


def unsigned(message: MessageV0) -> bytes:
    """The transaction with an empty signature, for simulation."""
    return bytes(VersionedTransaction.populate(message, [Signature.default()]))


def sign(message: MessageV0, wallet: Keypair) -> tuple[str, bytes]:
    """Signature (base58) and bytes: the same for the same message, so known before sending.

    The wallet must be the message's only signer, as `check` makes sure.
    """
    signature = wallet.sign_message(to_bytes_versioned(message))
    return str(signature), bytes(VersionedTransaction.populate(message, [signature]))


def _unagreed(what: str) -> Refused:
    return Refused("INSTRUCTIONS_REFUSED", f"the transaction was not signed: {what}")
