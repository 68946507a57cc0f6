"""What a transaction of swaps weighs, held against transactions as they are composed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import pytest
from solders.hash import Hash
from solders.keypair import Keypair

from engine import network_cost, programs
from engine.instructions.terms import SwapTerms
from engine.network_cost import MAX_WIRE_BYTES, fits, wire_bytes
from engine.order import KEY_HASH_DIGITS
from executor_svc import transaction
from tests import builders, swaps

BLOCKHASH = str(Hash.new_unique())
LONGEST_MEMO = transaction.memo_text(builders.new_order(), transaction.MAX_NUMBER)
COMBINATIONS = [
    kinds for legs in (1, 2, 3) for kinds in combinations_with_replacement(swaps.KINDS, legs)
]


def composed(kinds: Sequence[str], tokens: int) -> int:
    """The bytes of a transaction with pools of these kinds, its swaps between so many tokens."""
    wallet = Keypair.from_seed(bytes(range(32)))
    terms = []
    for number, kind in enumerate(kinds):
        pool = swaps.parties(kind, number=50 + number)
        receives = 2 + number if number + 2 <= tokens else tokens
        terms.append(
            SwapTerms(
                pool._replace(
                    mint_in=swaps.address(min(receives - 1, tokens - 1)),
                    mint_out=swaps.address(receives),
                    arrays=tuple(range(network_cost.ARRAYS)) if pool.arrays else (),
                    config=number,
                ),
                programs.U64_MAX,
                programs.U64_MAX,
            )
        )
    message = transaction.compose(terms, [None] * len(terms), LONGEST_MEMO, BLOCKHASH)
    return len(transaction.sign(message, wallet)[1])


@pytest.mark.parametrize("kinds", COMBINATIONS, ids="+".join)
def test_whatever_is_said_to_fit_does(kinds: tuple[str, ...]) -> None:
    for tokens in range(2, len(kinds) + 2):
        if fits(kinds, tokens):
            size = composed(kinds, tokens)
            assert size <= wire_bytes(kinds, tokens) <= MAX_WIRE_BYTES


@pytest.mark.parametrize("kind", sorted(set(swaps.KINDS) - {"raydium_amm_v4"}))
def test_a_single_swap_takes_just_what_is_said(kind: str) -> None:
    # The account of a tier of its own comes with a pool; AMM v4's swap names no mint.
    assert composed([kind], 2) == wire_bytes([kind], 2)


def test_three_swaps_in_pools_without_arrays_fit_and_two_with_them_between_two_tokens() -> None:
    assert fits(["raydium_amm_v4", "meteora_damm_v2", "meteora_damm_v2"], tokens=4)
    assert fits(["raydium_cpmm", "raydium_clmm"], tokens=3)
    assert fits(["raydium_clmm", "meteora_dlmm"], tokens=2)
    assert not fits(["raydium_clmm", "meteora_dlmm"], tokens=3)
    assert not fits(["raydium_cpmm", "raydium_clmm", "meteora_dlmm"], tokens=2)


def test_the_longest_memo_is_that_of_the_last_attempt() -> None:
    assert len(LONGEST_MEMO) == len("oee:") + 36 + len(":32767:") + KEY_HASH_DIGITS
