"""A message as its programs see it."""

from __future__ import annotations

import pytest
from solders.hash import Hash
from solders.instruction import CompiledInstruction
from solders.message import MessageV0

from engine import programs
from engine.instructions.swap import accounts_of, swap_instruction
from tests import swaps


def message(kind: str) -> MessageV0:
    instructions = [swap_instruction(swaps.terms(kind)), programs.memo("hello")]
    return MessageV0.try_compile(swaps.WALLET.pubkey(), instructions, [], Hash.default())


@pytest.mark.parametrize("kind", swaps.KINDS)
def test_the_accounts_of_a_swap_come_back_from_a_whole_message(kind: str) -> None:
    shape = programs.shape_of(message(kind))

    swap, memo = shape.calls
    agreed = accounts_of(swaps.parties(kind))
    assert [each.pubkey for each in swap.accounts] == [each.pubkey for each in agreed]
    assert shape.writable == {
        swaps.WALLET.pubkey(),
        *(each.pubkey for each in agreed if each.is_writable),
    }
    assert memo == programs.Call(programs.MEMO_PROGRAM, ())


def test_an_instruction_that_names_an_account_beyond_the_message_is_refused() -> None:
    whole = message("raydium_cpmm")
    beyond = MessageV0(
        whole.header,
        whole.account_keys,
        whole.recent_blockhash,
        [CompiledInstruction(1, b"", bytes([len(whole.account_keys)]))],
        [],
    )

    with pytest.raises(ValueError, match="the message lacks"):
        programs.shape_of(beyond)
