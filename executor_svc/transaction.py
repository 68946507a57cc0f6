"""The transaction of one attempt: composed, checked against what was agreed, then signed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from engine import programs
from engine.errors import Refused
from engine.order import Order
from engine.programs import SwapTerms

# What the attempts table can hold.
MAX_NUMBER: Final = 2**15 - 1
# A swap takes 30–80 thousand units; the price is in micro-lamports a unit.
COMPUTE_UNIT_LIMIT: Final = 200_000
COMPUTE_UNIT_PRICE: Final = 10_000


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


def compose(terms: SwapTerms, swap: Sequence[Instruction], memo: str, blockhash: str) -> MessageV0:
    """The message to sign: compute budget, the venue's instructions, the memo.

    Raises Refused when it holds anything that was not agreed.
    """
    try:
        message = MessageV0.try_compile(
            terms.wallet,
            [
                set_compute_unit_limit(COMPUTE_UNIT_LIMIT),
                set_compute_unit_price(COMPUTE_UNIT_PRICE),
                *swap,
                programs.memo(memo),
            ],
            [],
            Hash.from_string(blockhash),
        )
    except ValueError as error:
        raise _unagreed(str(error)) from None
    check(message, terms, memo)
    return message


def check(message: MessageV0, terms: SwapTerms, memo: str) -> None:
    """Refuse a message that does anything but this one swap with this memo.

    Raises Refused for a program, signer, writable account, amount, floor or memo that was not
    agreed. Nothing in it is taken on the venue's word.
    """
    if message.header.num_required_signatures != 1 or message.account_keys[0] != terms.wallet:
        raise _unagreed("it asks for signers other than the wallet")
    try:
        instructions = programs.instructions_of(message)
        swaps = [swap for i in instructions if (swap := programs.read_swap(i)) is not None]
    except ValueError as error:
        raise _unagreed(str(error)) from None
    if swaps != [terms]:
        raise _unagreed("it holds another swap than the one agreed, or none, or several")
    memos = [i.data for i in instructions if i.program_id == programs.MEMO_PROGRAM]
    if memos != [memo.encode()]:
        raise _unagreed("its memo is not the attempt's")
    known = {
        programs.COMPUTE_BUDGET_PROGRAM,
        programs.MEMO_PROGRAM,
        programs.PROGRAM_OF_VENUE[terms.venue],
    }
    foreign = {str(i.program_id) for i in instructions if i.program_id not in known}
    if foreign:
        raise _unagreed(f"it calls programs that were not agreed: {', '.join(sorted(foreign))}")
    agreed = programs.agreed_writable_accounts(terms)
    unagreed = [
        str(key)
        for index, key in enumerate(message.account_keys)
        if message.is_maybe_writable(index) and key not in agreed
    ]
    if unagreed:
        raise _unagreed(f"it may write accounts that were not agreed: {', '.join(unagreed)}")


def unsigned(message: MessageV0) -> bytes:
    """The transaction with an empty signature, for simulation."""
    return bytes(VersionedTransaction.populate(message, [Signature.default()]))


def sign(message: MessageV0, wallet: Keypair) -> tuple[str, bytes]:
    """Signature (base58) and bytes: the same for the same message, so known before sending."""
    transaction = VersionedTransaction(message, [wallet])
    return str(transaction.signatures[0]), bytes(transaction)


def _unagreed(what: str) -> Refused:
    return Refused("INSTRUCTIONS_REFUSED", f"the venue's transaction was not signed: {what}")
