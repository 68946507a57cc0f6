"""The transaction of one attempt: composed, checked against what was agreed, then signed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

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

# A swap takes 30–80 thousand units; the price is in micro-lamports a unit.
COMPUTE_UNIT_LIMIT: Final = 200_000
COMPUTE_UNIT_PRICE: Final = 10_000

KEY_HASH_DIGITS: Final = 16


def memo_text(order: Order, number: int) -> str:
    """What names the attempt on chain: order, attempt, and a short hash of its key.

    The hash lets an engine whose record was lost recognise a resubmitted order.
    """
    key = f"{order.account}:{order.client_order_id or order.order_id}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:KEY_HASH_DIGITS]
    return f"oee:{order.order_id}:{number}:{digest}"


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
