"""Solana programs by address, the memo, and a message as its programs see it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import msgspec
from solders.hash import Hash
from solders.instruction import AccountMeta, CompiledInstruction, Instruction
from solders.message import MessageHeader, MessageV0
from solders.pubkey import Pubkey
from solders.token.associated import get_associated_token_address

COMPUTE_BUDGET_PROGRAM: Final = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
MEMO_PROGRAM: Final = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
TOKEN_PROGRAM: Final = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
TOKEN_2022_PROGRAM: Final = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")
RAYDIUM_CPMM: Final = Pubkey.from_string("CPMMoo8L3F4NbTegBCKVNunggL7H1ZpdTHKxQB5qKP1C")
RAYDIUM_AMM_V4: Final = Pubkey.from_string("675kPX9MHTjS2zt1qfr1NYHuzeLXfQM9H24wFSUt1Mp8")
RAYDIUM_CLMM: Final = Pubkey.from_string("CAMMCzo5YL8w4VFF8KVHrK22GGUsp5VTaW7grrKgrWqK")
METEORA_DLMM: Final = Pubkey.from_string("LBUZKhRxPF3XUpBCjp4YzTKgLccjZhTSDM9YuVaPwxo")
METEORA_DAMM_V2: Final = Pubkey.from_string("cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG")

U64_MAX: Final = 2**64 - 1


class Call(msgspec.Struct, frozen=True):
    """A program, and the accounts that an instruction hands to it."""

    program: Pubkey
    accounts: tuple[AccountMeta, ...]


class Shape(msgspec.Struct, frozen=True, eq=False):
    """All of a message but its blockhash and what it hands to its programs as data."""

    writable: frozenset[Pubkey]
    calls: tuple[Call, ...]


def memo(text: str) -> Instruction:
    """A memo: on record with the transaction, no effect."""
    return Instruction(MEMO_PROGRAM, text.encode(), [])


@lru_cache(maxsize=4096)
def derived(program: Pubkey, *seeds: bytes) -> Pubkey:
    """The address that a program derives from these seeds."""
    return Pubkey.find_program_address(seeds, program)[0]


@lru_cache(maxsize=4096)
def token_account(owner: Pubkey, mint: Pubkey) -> Pubkey:
    """The associated token account of an owner for a mint."""
    return get_associated_token_address(owner, mint)


def shape_of(message: MessageV0) -> Shape:
    """The message's shape, with a call for each instruction, in their order.

    An account has the privileges it has in the whole message. Raises ValueError when an account
    is not in the message itself (address lookup tables are not read).
    """
    if message.address_table_lookups:
        raise ValueError("address lookup tables are not supported")
    header = message.header
    return _shape(
        header.num_required_signatures,
        header.num_readonly_signed_accounts,
        header.num_readonly_unsigned_accounts,
        tuple(message.account_keys),
        tuple([(each.program_id_index, each.accounts) for each in message.instructions]),
    )


# A wallet's swaps have few shapes, and accounts are dear to compare one by one.
@lru_cache(maxsize=1024)
def _shape(
    signed: int,
    readonly_signed: int,
    readonly_unsigned: int,
    keys: tuple[Pubkey, ...],
    called: tuple[tuple[int, bytes], ...],
) -> Shape:
    message = MessageV0(
        MessageHeader(signed, readonly_signed, readonly_unsigned),
        list(keys),
        Hash.default(),
        [CompiledInstruction(program, b"", accounts) for program, accounts in called],
        [],
    )
    metas = [
        AccountMeta(key, message.is_signer(index), message.is_maybe_writable(index))
        for index, key in enumerate(keys)
    ]
    try:
        calls = [
            Call(metas[program].pubkey, _picked(metas, accounts)) for program, accounts in called
        ]
    except IndexError:
        raise ValueError("an instruction names an account that the message lacks") from None
    return Shape(
        writable=frozenset([meta.pubkey for meta in metas if meta.is_writable]),
        calls=tuple(calls),
    )


def _picked(metas: Sequence[AccountMeta], indexes: bytes) -> tuple[AccountMeta, ...]:
    return tuple([metas[index] for index in indexes])
