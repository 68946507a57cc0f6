"""What one swap instruction agrees to, and what its accounts are derived from."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from solders.instruction import AccountMeta
from solders.pubkey import Pubkey

from engine.programs import U64_MAX


class Parties(NamedTuple):
    """Between whom a swap goes, and through what: its terms without the amounts.

    The last four are hints that only the pool's own accounts tell. They lead to nothing but
    addresses derived from the pool, so a wrong one makes an instruction that fails.
    `arrays`: start ticks of tick arrays or indexes of bin arrays, nearest first. `market`: what a
    raydium_amm_v4 pool is derived from. `config`: the index of the pool's amm_config.
    `zero_for_one`: the mint paid is the pool's first (coin, X, A).
    """

    kind: str
    pool: Pubkey
    mint_in: Pubkey
    mint_out: Pubkey
    wallet: Pubkey
    arrays: tuple[int, ...] = ()
    market: Pubkey | None = None
    config: int = 0
    zero_for_one: bool = True

    @property
    def mints(self) -> tuple[Pubkey, Pubkey]:
        """The pool's first mint and its second."""
        return (self.mint_in, self.mint_out) if self.zero_for_one else (self.mint_out, self.mint_in)


class SwapTerms(msgspec.Struct, frozen=True):
    """The terms of one swap; amounts in base units.

    Raises ValueError for equal mints, or amounts outside u64.
    """

    parties: Parties
    amount_in: int
    min_amount_out: int

    def __post_init__(self) -> None:
        if self.parties.mint_in == self.parties.mint_out:
            raise ValueError("a swap needs two different mints")
        if not 0 < self.amount_in <= U64_MAX:
            raise ValueError("amount_in must be 1 to 2^64-1")
        if not 0 <= self.min_amount_out <= U64_MAX:
            raise ValueError("min_amount_out must be 0 to 2^64-1")


def read(address: Pubkey) -> AccountMeta:
    """An account that the program only reads."""
    return AccountMeta(address, is_signer=False, is_writable=False)


def write(address: Pubkey) -> AccountMeta:
    """An account that the program may change."""
    return AccountMeta(address, is_signer=False, is_writable=True)


def sign(address: Pubkey) -> AccountMeta:
    """An account that signs, and is only read."""
    return AccountMeta(address, is_signer=True, is_writable=False)
