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
# Signature, header, blockhash, the wallet, compute budget and memo.
FRAME_BYTES: Final = 400
FRAME_UNITS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Weight:
    """What one swap in a pool of some kind adds to its transaction."""

    compute_units: int
    wire_bytes: int


WEIGHTS: Final = {
    "raydium_cpmm": Weight(60_000, 420),
    "raydium_amm_v4": Weight(50_000, 260),
    "raydium_clmm": Weight(150_000, 520),
    "meteora_dlmm": Weight(150_000, 480),
    "meteora_damm_v2": Weight(50_000, 400),
}


def compute_unit_limit(kinds: Sequence[str]) -> int:
    """The limit to ask for with swaps in pools of these kinds."""
    return FRAME_UNITS + sum(WEIGHTS[kind].compute_units for kind in kinds)


def fee_lamports(kinds: Sequence[str]) -> int:
    """Signature and priority fee of a transaction with swaps in pools of these kinds."""
    return LAMPORTS_A_SIGNATURE + -(-compute_unit_limit(kinds) * COMPUTE_UNIT_PRICE // 1_000_000)


def fits(kinds: Sequence[str]) -> bool:
    """Whether swaps in pools of these kinds surely fit into one transaction."""
    return FRAME_BYTES + sum(WEIGHTS[kind].wire_bytes for kind in kinds) <= MAX_WIRE_BYTES
