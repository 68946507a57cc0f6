"""Solana program layouts: how a venue's swap is written as an instruction, and read back.

Everything that a swap may write follows from its terms by address derivation, so whoever signs
can check an instruction without trusting who built it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, NamedTuple

from solders.hash import Hash
from solders.instruction import AccountMeta, CompiledInstruction, Instruction
from solders.message import MessageHeader, MessageV0
from solders.pubkey import Pubkey
from solders.token.associated import get_associated_token_address

COMPUTE_BUDGET_PROGRAM: Final = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
MEMO_PROGRAM: Final = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
TOKEN_PROGRAM: Final = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
RAYDIUM_CPMM: Final = Pubkey.from_string("CPMMoo8L3F4NbTegBCKVNunggL7H1ZpdTHKxQB5qKP1C")
METEORA_DLMM: Final = Pubkey.from_string("LBUZKhRxPF3XUpBCjp4YzTKgLccjZhTSDM9YuVaPwxo")

PROGRAM_OF_VENUE: Final[Mapping[str, Pubkey]] = {"raydium": RAYDIUM_CPMM, "meteora": METEORA_DLMM}

U64_MAX: Final = 2**64 - 1

# Both swaps' data: a tag, amount in and minimum out as u64, a tail.
_AMOUNTS: Final = struct.Struct("<QQ")
# Raydium cp-swap program, swap_base_input.
_CPMM_TAG: Final = bytes.fromhex("8fbe5adac41e33de")
# Meteora DLMM program, swap2; the tail is an empty vector of remaining-account slices.
_DLMM_TAG: Final = bytes.fromhex("414b3f4ceb5b5b88")
_DLMM_TAIL: Final = bytes(4)
# The bin arrays on either side of bin 0, around which the pools' prices stay.
_DLMM_BIN_ARRAYS: Final = (0, -1)


def _derived(program: Pubkey, *seeds: bytes) -> Pubkey:
    return Pubkey.find_program_address(seeds, program)[0]


CPMM_AUTHORITY: Final = _derived(RAYDIUM_CPMM, b"vault_and_lp_mint_auth_seed")
# The 0.25 % fee tier.
CPMM_CONFIG: Final = _derived(RAYDIUM_CPMM, b"amm_config", (0).to_bytes(2, "big"))
DLMM_EVENT_AUTHORITY: Final = _derived(METEORA_DLMM, b"__event_authority")


@dataclass(frozen=True, slots=True)
class SwapTerms:
    """What one swap instruction agrees to; amounts in base units.

    Raises ValueError for an unknown venue, equal mints, or amounts outside u64.
    """

    venue: str
    pool: Pubkey
    mint_in: Pubkey
    mint_out: Pubkey
    wallet: Pubkey
    amount_in: int
    min_amount_out: int

    def __post_init__(self) -> None:
        if self.venue not in PROGRAM_OF_VENUE:
            raise ValueError(f"no program is known for venue {self.venue!r}")
        if self.mint_in == self.mint_out:
            raise ValueError("a swap needs two different mints")
        if not 0 < self.amount_in <= U64_MAX:
            raise ValueError("amount_in must be 1 to 2^64-1")
        if not 0 <= self.min_amount_out <= U64_MAX:
            raise ValueError("min_amount_out must be 0 to 2^64-1")


class Parties(NamedTuple):
    """Between whom a swap goes, and through what: its terms without the amounts."""

    venue: str
    pool: Pubkey
    mint_in: Pubkey
    mint_out: Pubkey
    wallet: Pubkey


class Call:
    """A program, and the accounts that an instruction hands to it."""

    def __init__(self, program: Pubkey, accounts: Sequence[AccountMeta]) -> None:
        self.program = program
        self.accounts = tuple(accounts)

    @cached_property
    def parties(self) -> Parties:
        """The parties of a swap; the program must be a venue's.

        Every account is compared with the one derived from them, its privileges too; only the
        wallet may be writable beyond the layout, because the fee payer of a message is. Raises
        ValueError when one is another.
        """
        return _READERS[self.program](self.accounts)


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """All of a message but its blockhash and what it hands to its programs as data."""

    writable: frozenset[Pubkey]
    calls: tuple[Call, ...]


def swap_instructions(terms: SwapTerms) -> list[Instruction]:
    """The venue's instructions for a swap by these terms."""
    tag, tail = (_CPMM_TAG, b"") if terms.venue == "raydium" else (_DLMM_TAG, _DLMM_TAIL)
    data = tag + _AMOUNTS.pack(terms.amount_in, terms.min_amount_out) + tail
    return [Instruction(PROGRAM_OF_VENUE[terms.venue], data, list(_agreed(parties_of(terms))))]


def parties_of(terms: SwapTerms) -> Parties:
    """The parties to these terms."""
    return Parties(terms.venue, terms.pool, terms.mint_in, terms.mint_out, terms.wallet)


def read_swap(call: Call, data: bytes) -> SwapTerms | None:
    """The terms of a swap; None when the program is not a venue's.

    Raises ValueError when a venue's program is called with anything else.
    """
    if call.program == RAYDIUM_CPMM:
        amounts = _amounts(data, _CPMM_TAG, b"")
    elif call.program == METEORA_DLMM:
        amounts = _amounts(data, _DLMM_TAG, _DLMM_TAIL)
    else:
        return None
    return SwapTerms(*call.parties, *amounts)


@lru_cache(maxsize=1024)
def agreed_writable_accounts(parties: Parties) -> frozenset[Pubkey]:
    """All that a transaction with this swap may write: the wallet, its two token accounts and
    the pool's own accounts."""
    return frozenset({parties.wallet, *(a.pubkey for a in _agreed(parties) if a.is_writable)})


def memo(text: str) -> Instruction:
    """A memo: on record with the transaction, no effect."""
    return Instruction(MEMO_PROGRAM, text.encode(), [])


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
            Call(metas[program].pubkey, [metas[index] for index in accounts])
            for program, accounts in called
        ]
    except IndexError:
        raise ValueError("an instruction names an account that the message lacks") from None
    return Shape(
        writable=frozenset([meta.pubkey for meta in metas if meta.is_writable]),
        calls=tuple(calls),
    )


@lru_cache(maxsize=4096)
def token_account(owner: Pubkey, mint: Pubkey) -> Pubkey:
    """The associated token account of an owner for a mint."""
    return get_associated_token_address(owner, mint)


def _read(address: Pubkey) -> AccountMeta:
    return AccountMeta(address, is_signer=False, is_writable=False)


def _write(address: Pubkey) -> AccountMeta:
    return AccountMeta(address, is_signer=False, is_writable=True)


def _sign(address: Pubkey) -> AccountMeta:
    return AccountMeta(address, is_signer=True, is_writable=False)


@lru_cache(maxsize=4096)
def _cpmm_accounts(
    pool: Pubkey, mint_in: Pubkey, mint_out: Pubkey, wallet: Pubkey, config: Pubkey
) -> tuple[AccountMeta, ...]:
    return (
        _sign(wallet),
        _read(CPMM_AUTHORITY),
        _read(config),
        _write(pool),
        _write(token_account(wallet, mint_in)),
        _write(token_account(wallet, mint_out)),
        _write(_derived(RAYDIUM_CPMM, b"pool_vault", bytes(pool), bytes(mint_in))),
        _write(_derived(RAYDIUM_CPMM, b"pool_vault", bytes(pool), bytes(mint_out))),
        _read(TOKEN_PROGRAM),
        _read(TOKEN_PROGRAM),
        _read(mint_in),
        _read(mint_out),
        _write(_derived(RAYDIUM_CPMM, b"observation", bytes(pool))),
    )


@lru_cache(maxsize=4096)
def _dlmm_accounts(
    pool: Pubkey,
    mint_in: Pubkey,
    mint_out: Pubkey,
    wallet: Pubkey,
    mint_x: Pubkey,
    mint_y: Pubkey,
) -> tuple[AccountMeta, ...]:
    return (
        _write(pool),
        _read(METEORA_DLMM),  # in place of a bin array bitmap extension: there is none
        _write(_derived(METEORA_DLMM, bytes(pool), bytes(mint_x))),
        _write(_derived(METEORA_DLMM, bytes(pool), bytes(mint_y))),
        _write(token_account(wallet, mint_in)),
        _write(token_account(wallet, mint_out)),
        _read(mint_x),
        _read(mint_y),
        _write(_derived(METEORA_DLMM, b"oracle", bytes(pool))),
        _read(METEORA_DLMM),  # in place of a host fee account: nobody takes one
        _sign(wallet),
        _read(TOKEN_PROGRAM),
        _read(TOKEN_PROGRAM),
        _read(MEMO_PROGRAM),
        _read(DLMM_EVENT_AUTHORITY),
        _read(METEORA_DLMM),
        *(
            _write(_derived(METEORA_DLMM, b"bin_array", bytes(pool), struct.pack("<q", index)))
            for index in _DLMM_BIN_ARRAYS
        ),
    )


def _agreed(parties: Parties) -> tuple[AccountMeta, ...]:
    venue, pool, mint_in, mint_out, wallet = parties
    if venue == "raydium":
        return _cpmm_accounts(pool, mint_in, mint_out, wallet, CPMM_CONFIG)
    x, y = sorted((mint_in, mint_out), key=bytes)
    return _dlmm_accounts(pool, mint_in, mint_out, wallet, x, y)


def _cpmm_parties(accounts: Sequence[AccountMeta]) -> Parties:
    if len(accounts) != 13:
        raise ValueError("swap_base_input takes 13 accounts")
    wallet, config, pool, mint_in, mint_out = (accounts[i].pubkey for i in (0, 2, 3, 10, 11))
    # The fee tier is the pool's own business: read-only, and the program checks it.
    _require(accounts, _cpmm_accounts(pool, mint_in, mint_out, wallet, config), wallet)
    return Parties("raydium", pool, mint_in, mint_out, wallet)


def _dlmm_parties(accounts: Sequence[AccountMeta]) -> Parties:
    if len(accounts) != 16 + len(_DLMM_BIN_ARRAYS):
        raise ValueError("swap2 takes 16 accounts and the bin arrays")
    pool, pays, x, y, wallet = (accounts[i].pubkey for i in (0, 4, 6, 7, 10))
    # Which way it goes shows only in the account that pays.
    mint_in, mint_out = (x, y) if pays == token_account(wallet, x) else (y, x)
    _require(accounts, _dlmm_accounts(pool, mint_in, mint_out, wallet, x, y), wallet)
    return Parties("meteora", pool, mint_in, mint_out, wallet)


_READERS: Final[Mapping[Pubkey, Callable[[Sequence[AccountMeta]], Parties]]] = {
    RAYDIUM_CPMM: _cpmm_parties,
    METEORA_DLMM: _dlmm_parties,
}


def _amounts(data: bytes, tag: bytes, tail: bytes) -> tuple[int, int]:
    if data[:8] != tag or data[24:] != tail or len(data) != 24 + len(tail):
        raise ValueError("the instruction is not the program's swap")
    amount_in, min_amount_out = _AMOUNTS.unpack_from(data, len(tag))
    return amount_in, min_amount_out


def _require(found: Sequence[AccountMeta], agreed: tuple[AccountMeta, ...], wallet: Pubkey) -> None:
    for position, (account, expected) in enumerate(zip(found, agreed, strict=True)):
        if account == expected:
            continue
        if account == AccountMeta(wallet, is_signer=True, is_writable=True) and (
            expected.pubkey == wallet
        ):
            continue
        raise ValueError(f"account {position} is not the one the swap's terms lead to")
