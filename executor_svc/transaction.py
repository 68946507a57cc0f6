"""The transaction of one attempt: composed, checked against what was agreed, then signed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
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

_BUDGET: Final = (
    set_compute_unit_limit(COMPUTE_UNIT_LIMIT),
    set_compute_unit_price(COMPUTE_UNIT_PRICE),
)


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
            terms.wallet, [*_BUDGET, *swap, programs.memo(memo)], [], Hash.from_string(blockhash)
        )
    except ValueError as error:
        raise _unagreed(str(error)) from None
    check(message, terms, memo)
    return message


def check(message: MessageV0, terms: SwapTerms, memo: str) -> None:
    """Refuse a message that does anything but this one swap with this memo.

    Raises Refused for a program, signer, writable account, amount, floor, compute budget or memo
    that was not agreed. Nothing in it is taken on the venue's word.
    """
    if message.header.num_required_signatures != 1 or message.account_keys[0] != terms.wallet:
        raise _unagreed("it asks for signers other than the wallet")
    try:
        shape = programs.shape_of(message)
        called = [
            (call, instruction.data)
            for call, instruction in zip(shape.calls, message.instructions, strict=True)
        ]
        swaps = [swap for each in called if (swap := programs.read_swap(*each)) is not None]
    except ValueError as error:
        raise _unagreed(str(error)) from None
    if swaps != [terms]:
        raise _unagreed("it holds another swap than the one agreed, or none, or several")
    if [data for call, data in called if call.program == programs.MEMO_PROGRAM] != [memo.encode()]:
        raise _unagreed("its memo is not the attempt's")
    known = {
        programs.COMPUTE_BUDGET_PROGRAM,
        programs.MEMO_PROGRAM,
        programs.PROGRAM_OF_VENUE[terms.venue],
    }
    foreign = {str(call.program) for call, _ in called if call.program not in known}
    if foreign:
        raise _unagreed(f"it calls programs that were not agreed: {', '.join(sorted(foreign))}")
    unagreed = shape.writable - programs.agreed_writable_accounts(programs.parties_of(terms))
    if unagreed:
        names = ", ".join(sorted(map(str, unagreed)))
        raise _unagreed(f"it may write accounts that were not agreed: {names}")
    # The wallet pays what the budget says, whatever the swap.
    budget = [data for call, data in called if call.program == programs.COMPUTE_BUDGET_PROGRAM]
    if budget != [instruction.data for instruction in _BUDGET]:
        raise _unagreed("its compute budget is not the one agreed")


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
    return Refused("INSTRUCTIONS_REFUSED", f"the venue's transaction was not signed: {what}")
