"""A pool's arithmetic is the programs' own, whatever it holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dex_sim.market import opening_pools
from dex_sim.pool import Pool, Unfillable
from engine.amm.kinds import KINDS

U64_MAX = 2**64 - 1
NOW = 1_767_225_600

POOLS = opening_pools()
ONE_OF_EACH = list({pool.kind: pool for pool in POOLS}.values())
EACH = pytest.mark.parametrize("pool", ONE_OF_EACH, ids=lambda pool: str(pool.kind))

steps = st.lists(
    st.tuples(st.booleans(), st.integers(1, 30_000), st.integers(0, 100)), min_size=1, max_size=6
)


def traded(pool: Pool, swaps: list[tuple[bool, int, int]]) -> tuple[Pool, int]:
    """The pool after swaps of so many parts per million of it, so many seconds apart."""
    now = NOW
    for pays_a, ppm, seconds in swaps:
        mint_in, held = (pool.mint_a, pool.reserve_a) if pays_a else (pool.mint_b, pool.reserve_b)
        now += seconds
        pool = pool.offer(mint_in, max(1, held * ppm // 1_000_000), now).pool
    return pool, now


@given(st.sampled_from(POOLS), steps)
def test_a_state_survives_being_written_down(
    pool: Pool, swaps: list[tuple[bool, int, int]]
) -> None:
    after, _ = traded(pool, swaps)

    assert KINDS[pool.kind].load(json.loads(after.text)) == after.state
    assert pool.in_state(after.text, after.reserve_a, after.reserve_b) == after


@given(st.sampled_from(POOLS), steps, st.booleans(), st.integers(1, 30_000))
def test_an_offer_is_the_programs_own_answer_and_what_the_curve_says(
    pool: Pool, swaps: list[tuple[bool, int, int]], pays_a: bool, ppm: int
) -> None:
    pool, now = traded(pool, swaps)
    mint_in = pool.mint_a if pays_a else pool.mint_b
    amount_in = max(1, pool.reserve_a * ppm // 1_000_000)

    try:
        offer = pool.offer(mint_in, amount_in, now)
    except Unfillable:
        assert pool.curve(mint_in, now)(amount_in) == 0
        return

    swap = KINDS[pool.kind].quote_exact_in(pool.state, amount_in, pays_a, now)
    assert (offer.amount_out, offer.pool.state) == (swap.amount_out, swap.pool)
    assert pool.curve(mint_in, now)(amount_in) == offer.amount_out
    assert offer.fee == (swap.fee if swap.fee_on_input else 0)
    assert 0 <= offer.swap.price_impact_ppm <= 1_000_000


@given(st.sampled_from(POOLS), st.booleans(), st.integers(1, 30_000))
def test_swapping_there_and_back_never_pays(pool: Pool, pays_a: bool, ppm: int) -> None:
    there_mint, back_mint, held = (
        (pool.mint_a, pool.mint_b, pool.reserve_a)
        if pays_a
        else (pool.mint_b, pool.mint_a, pool.reserve_b)
    )
    amount_in = max(1_000, held * ppm // 1_000_000)

    there = pool.offer(there_mint, amount_in, NOW)
    back = there.pool.offer(back_mint, there.amount_out, NOW)

    assert back.amount_out < amount_in


@EACH
def test_what_a_swap_moves_moves_the_reserves(pool: Pool) -> None:
    amount_in = pool.reserve_a // 1_000

    offer = pool.offer(pool.mint_a, amount_in, NOW)

    assert offer.pool.reserve_a == pool.reserve_a + amount_in
    assert offer.pool.reserve_b == pool.reserve_b - offer.amount_out


def held_by_the_state(pool: Pool) -> tuple[int, int]:
    state: Any = pool.state
    match pool.kind:
        case "raydium_cpmm":
            return state.vault_0, state.vault_1
        case "raydium_amm_v4":
            return state.vault_coin, state.vault_pc
        case "meteora_dlmm":
            return sum(x for _, x, _ in state.bins), sum(y for _, _, y in state.bins)
        case "meteora_damm_v2":
            return state.token_a_amount, state.token_b_amount
        case _:
            return most_paid(pool, pool.mint_b), most_paid(pool, pool.mint_a)


def most_paid(pool: Pool, mint_in: str) -> int:
    """All that the pool pays out for `mint_in`, until nothing is left."""
    curve = pool.curve(mint_in, NOW)
    low, high = 0, U64_MAX
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if curve(middle) else (low, middle)
    return curve(low) if low else 0


@given(st.sampled_from(POOLS), steps)
def test_the_vaults_hold_what_the_state_trades_with(
    pool: Pool, swaps: list[tuple[bool, int, int]]
) -> None:
    after, _ = traded(pool, swaps)

    held_a, held_b = held_by_the_state(after)
    assert after.reserve_a >= held_a
    assert after.reserve_b >= held_b


@pytest.mark.parametrize(
    "pool",
    [p for p in ONE_OF_EACH if "cpmm" in p.kind or "v4" in p.kind],
    ids=lambda p: str(p.kind),
)
def test_a_kind_that_counts_its_vaults_counts_what_they_hold(pool: Pool) -> None:
    after, _ = traded(pool, [(True, 500, 1), (False, 800, 1)])

    assert held_by_the_state(after) == (after.reserve_a, after.reserve_b)


@EACH
@pytest.mark.parametrize("amount_in", [0, U64_MAX, 2**70])
def test_what_the_program_would_refuse_is_unfillable(pool: Pool, amount_in: int) -> None:
    with pytest.raises(Unfillable):
        pool.offer(pool.mint_b, amount_in, NOW)


@pytest.mark.parametrize("kind", ["raydium_clmm", "meteora_dlmm"])
def test_a_pool_that_is_bought_empty_on_one_side_refuses_and_still_trades_the_other_way(
    kind: str,
) -> None:
    pool = next(pool for pool in POOLS if pool.kind == kind)
    all_of_b = most_paid(pool, pool.mint_a)
    empty = KINDS[kind].quote_exact_out(pool.state, all_of_b, True, NOW).pool
    empty = replace(pool, state=empty)

    with pytest.raises(Unfillable):
        empty.offer(pool.mint_a, pool.reserve_a // 10, NOW)
    assert empty.offer(pool.mint_b, pool.reserve_b // 10, NOW).amount_out > 0


def test_the_fee_rises_with_volatility_and_falls_back() -> None:
    for kind in ("raydium_clmm", "meteora_dlmm", "meteora_damm_v2"):
        pool = [pool for pool in POOLS if pool.kind == kind][2]
        moved = pool.offer(pool.mint_a, pool.reserve_a // 10, NOW).pool

        calm, wild, later = pool.fee_ppm(NOW), moved.fee_ppm(NOW), moved.fee_ppm(NOW + 3600)

        assert wild > calm
        if kind != "meteora_damm_v2":  # which asks for the past until the next swap
            assert later == calm


def test_pools_open_at_fixed_addresses_and_agree_about_prices() -> None:
    assert len({pool.address for pool in POOLS}) == len(POOLS)
    assert [pool.address for pool in opening_pools()] == [pool.address for pool in POOLS]
    for pool in POOLS:
        assert pool.mint_a != pool.mint_b
        assert (pool.facts.market != "") is (pool.kind == "raydium_amm_v4")
