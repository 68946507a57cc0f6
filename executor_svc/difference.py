"""What in a message was not agreed, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from solders.message import MessageV0
from solders.pubkey import Pubkey

from engine import programs
from engine.instructions.swap import KIND_OF_PROGRAM, PROGRAM_OF_KIND, read_amounts
from engine.instructions.terms import SwapTerms
from engine.programs import Call

Called = list[tuple[Call, bytes]]

_KNOWN: Final = {
    programs.COMPUTE_BUDGET_PROGRAM,
    programs.MEMO_PROGRAM,
    *PROGRAM_OF_KIND.values(),
}


def difference_between(message: MessageV0, ours: MessageV0, terms: Sequence[SwapTerms]) -> str:
    """How a message differs from ours, which was composed from the terms.

    ValueError when it names an account that it lacks, or has address lookup tables.
    """
    if message.header.num_required_signatures != 1 or (
        message.account_keys[0] != ours.account_keys[0]
    ):
        return "it asks for signers other than the wallet"
    shape, agreed_shape = programs.shape_of(message), programs.shape_of(ours)
    called, agreed = _called(shape, message), _called(agreed_shape, ours)
    foreign = {str(call.program) for call, _ in called if call.program not in _KNOWN}
    if foreign:
        return f"it calls programs that were not agreed: {', '.join(sorted(foreign))}"
    if another := _another_swap(_swaps(called), _swaps(agreed), terms):
        return another
    if _data_for(programs.MEMO_PROGRAM, called) != _data_for(programs.MEMO_PROGRAM, agreed):
        return "its memo is not the attempt's"
    writable = shape.writable ^ agreed_shape.writable
    if writable:
        names = ", ".join(sorted(map(str, writable)))
        return f"it may write accounts that were not agreed: {names}"
    budget = programs.COMPUTE_BUDGET_PROGRAM
    if _data_for(budget, called) != _data_for(budget, agreed):
        return "its compute budget is not the one agreed"
    return "it is put together in another way than agreed"


def _called(shape: programs.Shape, message: MessageV0) -> Called:
    return [
        (call, instruction.data)
        for call, instruction in zip(shape.calls, message.instructions, strict=True)
    ]


def _swaps(called: Called) -> Called:
    return [each for each in called if each[0].program in KIND_OF_PROGRAM]


def _data_for(program: Pubkey, called: Called) -> list[bytes]:
    return [data for call, data in called if call.program == program]


def _another_swap(found: Called, agreed: Called, terms: Sequence[SwapTerms]) -> str:
    """Which leg is another swap than agreed; empty when none is."""
    if [call.program for call, _ in found] != [call.program for call, _ in agreed]:
        return "it holds another swap than the one agreed, or none, or several"
    for number, (each, leg, wanted) in enumerate(zip(found, agreed, terms, strict=True), 1):
        if why := _another_leg(*each, leg[0], wanted):
            return f"leg {number} is another swap than agreed: {why}"
    return ""


def _another_leg(call: Call, data: bytes, agreed: Call, terms: SwapTerms) -> str:
    try:
        amount_in, min_amount_out = read_amounts(terms.parties.kind, data)
    except ValueError as error:
        return str(error)
    if amount_in != terms.amount_in:
        return f"it pays {amount_in}, not {terms.amount_in}"
    if min_amount_out != terms.min_amount_out:
        return f"its floor is {min_amount_out}, not {terms.min_amount_out}"
    if len(call.accounts) != len(agreed.accounts):
        return f"it names {len(call.accounts)} accounts, not {len(agreed.accounts)}"
    for place, (account, wanted) in enumerate(zip(call.accounts, agreed.accounts, strict=True)):
        if account.pubkey != wanted.pubkey:
            return f"account {place} is {account.pubkey}, not {wanted.pubkey}"
    return ""
