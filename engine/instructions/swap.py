"""Every kind of pool's swap instruction: written from its terms, and its amounts read back."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from engine.instructions import meteora, raydium
from engine.instructions.terms import Parties, SwapTerms
from engine.programs import (
    METEORA_DAMM_V2,
    METEORA_DLMM,
    RAYDIUM_AMM_V4,
    RAYDIUM_CLMM,
    RAYDIUM_CPMM,
)

_AMOUNTS: Final = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Layout:
    """A program's swap: its data is a tag, amount in and minimum out as u64, and a tail.

    The accounts are all that it names, arrays last; the rest are places among them, of the pool,
    the wallet, the token account that pays and the one that receives.
    """

    program: Pubkey
    tag: bytes
    tail: bytes
    accounts: Callable[[Parties], tuple[AccountMeta, ...]]
    pool: int
    wallet: int
    pays: int
    receives: int
    # How many there are before the arrays.
    fixed: int
    # Whether they follow from its market, or from its config, as well.
    by_market: bool
    by_config: bool


LAYOUTS: Final[Mapping[str, Layout]] = {
    # swap_base_input
    "raydium_cpmm": Layout(
        RAYDIUM_CPMM,
        bytes.fromhex("8fbe5adac41e33de"),
        b"",
        raydium.cpmm_accounts,
        pool=3,
        wallet=0,
        pays=4,
        receives=5,
        fixed=13,
        by_market=False,
        by_config=True,
    ),
    # swap_base_in_v2
    "raydium_amm_v4": Layout(
        RAYDIUM_AMM_V4,
        bytes([16]),
        b"",
        raydium.amm_v4_accounts,
        pool=1,
        wallet=7,
        pays=5,
        receives=6,
        fixed=8,
        by_market=True,
        by_config=False,
    ),
    # swap_v2, without a price limit, by the amount in
    "raydium_clmm": Layout(
        RAYDIUM_CLMM,
        bytes.fromhex("2b04ed0b1ac91e62"),
        bytes(16) + b"\x01",
        raydium.clmm_accounts,
        pool=2,
        wallet=0,
        pays=3,
        receives=4,
        fixed=14,
        by_market=False,
        by_config=True,
    ),
    # swap2, with an empty vector of remaining-account slices
    "meteora_dlmm": Layout(
        METEORA_DLMM,
        bytes.fromhex("414b3f4ceb5b5b88"),
        bytes(4),
        meteora.dlmm_accounts,
        pool=0,
        wallet=10,
        pays=4,
        receives=5,
        fixed=16,
        by_market=False,
        by_config=False,
    ),
    # swap2, exactly so much in
    "meteora_damm_v2": Layout(
        METEORA_DAMM_V2,
        bytes.fromhex("414b3f4ceb5b5b88"),
        b"\x00",
        meteora.damm_v2_accounts,
        pool=1,
        wallet=8,
        pays=2,
        receives=3,
        fixed=14,
        by_market=False,
        by_config=False,
    ),
}

PROGRAM_OF_KIND: Final = {kind: layout.program for kind, layout in LAYOUTS.items()}
KIND_OF_PROGRAM: Final = {layout.program: kind for kind, layout in LAYOUTS.items()}
KINDS_OF_VENUE: Final[Mapping[str, tuple[str, ...]]] = {
    "raydium": ("raydium_cpmm", "raydium_amm_v4", "raydium_clmm"),
    "meteora": ("meteora_dlmm", "meteora_damm_v2"),
}
VENUE_OF_KIND: Final = {kind: venue for venue, kinds in KINDS_OF_VENUE.items() for kind in kinds}


def swap_instruction(terms: SwapTerms) -> Instruction:
    """The program's swap by these terms.

    Raises ValueError for an unknown kind, hints outside their widths, or a raydium_amm_v4 pool
    that is not its market's.
    """
    accounts = accounts_of(terms.parties)
    return Instruction(PROGRAM_OF_KIND[terms.parties.kind], data_of(terms), accounts)


def data_of(terms: SwapTerms) -> bytes:
    """The data of a swap by these terms, whose kind must be known."""
    layout = LAYOUTS[terms.parties.kind]
    return layout.tag + _AMOUNTS.pack(terms.amount_in, terms.min_amount_out) + layout.tail


# The same pools come again and again; their amounts alone change.
@lru_cache(maxsize=4096)
def accounts_of(parties: Parties) -> tuple[AccountMeta, ...]:
    """All accounts of a swap between these parties; ValueError as in swap_instruction."""
    layout = LAYOUTS.get(parties.kind)
    if layout is None:
        raise ValueError(f"no program is known for a pool of kind {parties.kind!r}")
    return layout.accounts(parties)


def read_amounts(kind: str, data: bytes) -> tuple[int, int]:
    """Amount in and minimum out of a swap's data; ValueError when it is anything else."""
    layout = LAYOUTS[kind]
    start = len(layout.tag)
    end = start + _AMOUNTS.size
    if data[:start] != layout.tag or data[end:] != layout.tail or len(data) < end:
        raise ValueError(f"the instruction is not the swap of {kind}")
    amount_in, min_amount_out = _AMOUNTS.unpack_from(data, start)
    return amount_in, min_amount_out
