"""Solana program layouts: how a venue's swap is written as an instruction, and read back.

Everything that a swap may write follows from its terms by address derivation, so whoever signs
can check an instruction without trusting who built it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from solders.instruction import AccountMeta, Instruction
from solders.message import MessageV0
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


def swap_instructions(terms: SwapTerms) -> list[Instruction]:
    """The venue's instructions for a swap by these terms."""
    amounts = _AMOUNTS.pack(terms.amount_in, terms.min_amount_out)
    if terms.venue == "raydium":
        data = _CPMM_TAG + amounts
        accounts = _cpmm_accounts(
            terms.pool, terms.mint_in, terms.mint_out, terms.wallet, CPMM_CONFIG
        )
    else:
        data = _DLMM_TAG + amounts + _DLMM_TAIL
        x, y = sorted((terms.mint_in, terms.mint_out), key=bytes)
        accounts = _dlmm_accounts(terms.pool, terms.mint_in, terms.mint_out, terms.wallet, x, y)
    return [Instruction(PROGRAM_OF_VENUE[terms.venue], data, list(accounts))]


def read_swap(instruction: Instruction) -> SwapTerms | None:
    """The terms of a swap instruction; None when the program is not a venue's.

    Every account is compared with the one derived from the terms, its privileges too; only the
    wallet may be writable beyond the layout, because the fee payer of a message is. Raises
    ValueError when a venue's program is called with anything else.
    """
    if instruction.program_id == RAYDIUM_CPMM:
        return _read_cpmm(instruction)
    if instruction.program_id == METEORA_DLMM:
        return _read_dlmm(instruction)
    return None


def agreed_writable_accounts(terms: SwapTerms) -> frozenset[Pubkey]:
    """All that a transaction with this swap may write: the wallet, its two token accounts and
    the pool's own accounts."""
    [swap] = swap_instructions(terms)
    return frozenset({terms.wallet, *(a.pubkey for a in swap.accounts if a.is_writable)})


def memo(text: str) -> Instruction:
    """A memo: on record with the transaction, no effect."""
    return Instruction(MEMO_PROGRAM, text.encode(), [])


def instructions_of(message: MessageV0) -> list[Instruction]:
    """The message's instructions with their accounts spelled out.

    An account has the privileges it has in the whole message. Raises ValueError when an account
    is not in the message itself (address lookup tables are not read).
    """
    if message.address_table_lookups:
        raise ValueError("address lookup tables are not supported")
    metas = [
        AccountMeta(key, message.is_signer(index), message.is_maybe_writable(index))
        for index, key in enumerate(message.account_keys)
    ]
    try:
        return [
            Instruction(
                metas[compiled.program_id_index].pubkey,
                compiled.data,
                [metas[index] for index in compiled.accounts],
            )
            for compiled in message.instructions
        ]
    except IndexError:
        raise ValueError("an instruction names an account that the message lacks") from None


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


def _read_cpmm(instruction: Instruction) -> SwapTerms:
    amount_in, min_amount_out = _amounts(instruction.data, _CPMM_TAG, b"")
    accounts = instruction.accounts
    if len(accounts) != 13:
        raise ValueError("swap_base_input takes 13 accounts")
    wallet, config, pool, mint_in, mint_out = (accounts[i].pubkey for i in (0, 2, 3, 10, 11))
    terms = SwapTerms("raydium", pool, mint_in, mint_out, wallet, amount_in, min_amount_out)
    # The fee tier is the pool's own business: read-only, and the program checks it.
    _require(accounts, _cpmm_accounts(pool, mint_in, mint_out, wallet, config), wallet)
    return terms


def _read_dlmm(instruction: Instruction) -> SwapTerms:
    amount_in, min_amount_out = _amounts(instruction.data, _DLMM_TAG, _DLMM_TAIL)
    accounts = instruction.accounts
    if len(accounts) != 16 + len(_DLMM_BIN_ARRAYS):
        raise ValueError("swap2 takes 16 accounts and the bin arrays")
    pool, pays, x, y, wallet = (accounts[i].pubkey for i in (0, 4, 6, 7, 10))
    # Which way it goes shows only in the account that pays.
    mint_in, mint_out = (x, y) if pays == token_account(wallet, x) else (y, x)
    terms = SwapTerms("meteora", pool, mint_in, mint_out, wallet, amount_in, min_amount_out)
    _require(accounts, _dlmm_accounts(pool, mint_in, mint_out, wallet, x, y), wallet)
    return terms


def _amounts(data: bytes, tag: bytes, tail: bytes) -> tuple[int, int]:
    if data[:8] != tag or data[24:] != tail or len(data) != 24 + len(tail):
        raise ValueError("the instruction is not the program's swap")
    amount_in, min_amount_out = _AMOUNTS.unpack_from(data, len(tag))
    return amount_in, min_amount_out


def _require(found: list[AccountMeta], agreed: tuple[AccountMeta, ...], wallet: Pubkey) -> None:
    for position, (account, expected) in enumerate(zip(found, agreed, strict=True)):
        if account == expected:
            continue
        if account == AccountMeta(wallet, is_signer=True, is_writable=True) and (
            expected.pubkey == wallet
        ):
            continue
        raise ValueError(f"account {position} is not the one the swap's terms lead to")
