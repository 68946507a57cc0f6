"""What the network takes for a transaction of swaps, and whether it fits into one. Pure.

Compute units are those measured on the programs, with room; what is not used is paid all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LAMPORTS_A_SIGNATURE: Final = 5000
# Micro-lamports a compute unit.
COMPUTE_UNIT_PRICE: Final = 10_000
MAX_WIRE_BYTES: Final = 1232
# Signature, header, blockhash, compute budget, the longest memo, the wallet, the token program,
# and the first token: its mint and the wallet's account.
FRAME_BYTES: Final = 382
# A further token: its mint and the wallet's account.
TOKEN_BYTES: Final = 64
# Compute budget and memo.
FRAME_UNITS: Final = 20_000
# Tick or bin arrays that a swap is taken to name: where it starts, the next, and a spare.
ARRAYS: Final = 3


@dataclass(frozen=True, slots=True)
class Weight:
    """What one swap in a pool of some kind adds to its transaction.

    The program's own accounts come once, however many swaps call it.
    """

    compute_units: int
    program_bytes: int
    swap_bytes: int


WEIGHTS: Final = {
    "raydium_cpmm": Weight(60_000, 64, 200),
    "raydium_amm_v4": Weight(50_000, 64, 124),
    # Room for six ticks crossed, and for a hundred bins.
    "raydium_clmm": Weight(200_000, 64, 349),
    "meteora_dlmm": Weight(600_000, 64, 274),
    "meteora_damm_v2": Weight(50_000, 96, 138),
}


def compute_unit_limit(kinds: Sequence[str]) -> int:
    """The limit to ask for with swaps in pools of these kinds."""
    return FRAME_UNITS + sum([WEIGHTS[kind].compute_units for kind in kinds])


def fee_lamports(kinds: Sequence[str]) -> int:
    """Signature and priority fee of a transaction with swaps in pools of these kinds."""
    return LAMPORTS_A_SIGNATURE + -(-compute_unit_limit(kinds) * COMPUTE_UNIT_PRICE // 1_000_000)


def wire_bytes(kinds: Sequence[str], tokens: int) -> int:
    """The most that a transaction of swaps between so many tokens takes on the wire."""
    programs = sum([WEIGHTS[kind].program_bytes for kind in set(kinds)])
    swaps = sum([WEIGHTS[kind].swap_bytes for kind in kinds])
    return FRAME_BYTES + (tokens - 1) * TOKEN_BYTES + programs + swaps


def fits(kinds: Sequence[str], tokens: int) -> bool:
    """Whether swaps in pools of these kinds surely fit into one transaction.

    `tokens` is how many different ones they are between: 2 for a split.
    """
    return wire_bytes(kinds, tokens) <= MAX_WIRE_BYTES
