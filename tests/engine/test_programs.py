"""Swap instructions: written, read back, refused when touched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey

from engine import programs
from engine.programs import (
    Call,
    SwapTerms,
    agreed_writable_accounts,
    parties_of,
    shape_of,
    swap_instructions,
)

SOL = Pubkey.from_string("So11111111111111111111111111111111111111112")
USDC = Pubkey.from_string("EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v")
WALLET = Keypair.from_seed(bytes(range(32))).pubkey()
THIEF = Keypair.from_seed(bytes(32)).pubkey()
U64_MAX = 2**64 - 1

venues = st.sampled_from(sorted(programs.PROGRAM_OF_VENUE))


def terms(venue: str, amount_in: int = 5, *, sell: bool = True) -> SwapTerms:
    mint_in, mint_out = (SOL, USDC) if sell else (USDC, SOL)
    pool = Pubkey(bytes([9] * 32))
    return SwapTerms(venue, pool, mint_in, mint_out, WALLET, amount_in, 3)


def swap(venue: str) -> Instruction:
    [instruction] = swap_instructions(terms(venue))
    return instruction


def read_swap(instruction: Instruction) -> SwapTerms | None:
    call = Call(instruction.program_id, instruction.accounts)
    return programs.read_swap(call, instruction.data)


def with_account(instruction: Instruction, position: int, account: AccountMeta) -> Instruction:
    accounts = instruction.accounts
    accounts[position] = account
    return Instruction(instruction.program_id, instruction.data, accounts)


@given(venues, st.booleans(), st.integers(1, U64_MAX), st.integers(0, U64_MAX))
def test_terms_come_back_from_the_instruction_they_make(
    venue: str, sell: bool, amount_in: int, min_amount_out: int
) -> None:
    mint_in, mint_out = (SOL, USDC) if sell else (USDC, SOL)
    agreed = SwapTerms(
        venue, Pubkey(bytes([9] * 32)), mint_in, mint_out, WALLET, amount_in, min_amount_out
    )

    [instruction] = swap_instructions(agreed)

    assert read_swap(instruction) == agreed


@pytest.mark.parametrize("venue", programs.PROGRAM_OF_VENUE)
@pytest.mark.parametrize("sell", [True, False])
def test_terms_come_back_from_a_whole_message_too(venue: str, sell: bool) -> None:
    agreed = terms(venue, sell=sell)
    message = MessageV0.try_compile(
        WALLET, [*swap_instructions(agreed), programs.memo("hello")], [], Hash.default()
    )

    shape = shape_of(message)

    called = zip(shape.calls, message.instructions, strict=True)
    assert [programs.read_swap(call, each.data) for call, each in called] == [agreed, None]
    writable = {key for i, key in enumerate(message.account_keys) if message.is_maybe_writable(i)}
    assert shape.writable == writable == agreed_writable_accounts(parties_of(agreed))


@given(venues, st.data())
def test_no_account_can_be_exchanged(venue: str, data: st.DataObject) -> None:
    # Only these are the terms themselves or, like the fee tier, read by the program alone.
    free = {"raydium": {2}, "meteora": set()}[venue]
    instruction = swap(venue)
    position = data.draw(st.sampled_from(sorted(set(range(len(instruction.accounts))) - free)))
    account = instruction.accounts[position]
    swapped = AccountMeta(THIEF, account.is_signer, account.is_writable)

    with pytest.raises(ValueError, match=r"not the one|different mints"):
        read_swap(with_account(instruction, position, swapped))


@given(venues, st.data(), st.sampled_from([(True, True), (True, False), (False, False)]))
def test_no_account_can_have_other_privileges(
    venue: str, data: st.DataObject, privileges: tuple[bool, bool]
) -> None:
    instruction = swap(venue)
    writable = [i for i, a in enumerate(instruction.accounts) if a.is_writable]
    position = data.draw(st.sampled_from(writable))
    changed = AccountMeta(instruction.accounts[position].pubkey, *privileges)

    with pytest.raises(ValueError, match="not the one"):
        read_swap(with_account(instruction, position, changed))


@pytest.mark.parametrize("venue", programs.PROGRAM_OF_VENUE)
def test_an_account_that_is_only_read_cannot_be_made_writable(venue: str) -> None:
    instruction = swap(venue)
    mint = next(i for i, a in enumerate(instruction.accounts) if a.pubkey == SOL)

    with pytest.raises(ValueError, match="not the one"):
        read_swap(with_account(instruction, mint, AccountMeta(SOL, False, True)))


@pytest.mark.parametrize("venue", programs.PROGRAM_OF_VENUE)
@pytest.mark.parametrize("data", [b"", b"\x01" * 24, b"\x01" * 28])
def test_anything_else_for_a_known_program_is_refused(venue: str, data: bytes) -> None:
    instruction = swap(venue)

    with pytest.raises(ValueError, match="not the program's swap"):
        read_swap(Instruction(instruction.program_id, data, instruction.accounts))


@pytest.mark.parametrize("venue", programs.PROGRAM_OF_VENUE)
def test_missing_and_surplus_accounts_are_refused(venue: str) -> None:
    whole = swap(venue)
    surplus = [*whole.accounts, AccountMeta(THIEF, False, True)]

    for accounts in (whole.accounts[:-1], surplus):
        with pytest.raises(ValueError, match="takes"):
            read_swap(Instruction(whole.program_id, whole.data, accounts))


def test_other_programs_are_none_of_ours() -> None:
    assert read_swap(Instruction(THIEF, b"", [])) is None


@pytest.mark.parametrize("amount_in", [0, -1, U64_MAX + 1])
def test_amounts_outside_u64_are_refused(amount_in: int) -> None:
    with pytest.raises(ValueError, match="amount_in"):
        terms("raydium", amount_in)


def test_derived_addresses_are_those_of_the_main_network() -> None:
    assert str(programs.CPMM_AUTHORITY) == "GpMZbSM2GgvTKHJirzeGfMFoaZ8UR2X7F4v8vHTvxFbL"
    assert str(programs.CPMM_CONFIG) == "D4FPEruKEHrG5TenZ2mpDGEfu1iUvTiqBxvpU8HLBvC2"
    assert str(programs.DLMM_EVENT_AUTHORITY) == "D1ZN9Wj1fRSUQfCjhvnu1hqDMT7hzjzBBpi12nVniYD6"
