"""Raydium CPMM: the curve, its three fees, and where each of them goes."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from msgspec.structs import replace

from engine.amm.raydium_cpmm import Pool, load, quote_exact_in, quote_exact_out
from engine.amm.swap import Swap, SwapFailed
from tests.engine.amm.pools import amounts, cpmm_pools, directions, outcome

POOL = Pool(1_000_000, 2_000_000, 10_000, 120_000, 40_000, 5_000, True)
examples = settings(max_examples=60, deadline=None)


@examples
@given(cpmm_pools(), amounts, directions)
def test_the_output_is_the_most_that_keeps_k(pool: Pool, amount: int, forward: bool) -> None:
    swap = outcome(quote_exact_in, pool, amount, forward)
    assume(isinstance(swap, Swap))

    reserve_in, reserve_out = pool.reserves(forward)
    k = reserve_in * reserve_out
    assert (reserve_in + swap.net_in) * (reserve_out - swap.gross_out) >= k
    assert (reserve_in + swap.net_in) * (reserve_out - swap.gross_out - 1) < k


@examples
@given(cpmm_pools(), amounts, directions)
def test_the_input_is_the_least_that_keeps_k(pool: Pool, amount: int, forward: bool) -> None:
    swap = outcome(quote_exact_out, pool, amount, forward)
    assume(isinstance(swap, Swap))

    reserve_in, reserve_out = pool.reserves(forward)
    k = reserve_in * reserve_out
    assert (reserve_in + swap.net_in) * (reserve_out - swap.gross_out) >= k
    assert (reserve_in + swap.net_in - 1) * (reserve_out - swap.gross_out) < k
    rate_on_output = pool.creator_rate() * (not pool.creator_on_input(forward))
    assert swap.creator_fee * 10**6 >= swap.gross_out * rate_on_output
    assert swap.fee * 10**6 >= (swap.amount_in - swap.creator_fee) * pool.trade_fee_rate


@examples
@given(cpmm_pools(), amounts, directions)
def test_k_never_falls_and_the_vaults_move_by_the_traders_amounts(
    pool: Pool, amount: int, forward: bool
) -> None:
    swap = outcome(quote_exact_in, pool, amount, forward)
    assume(isinstance(swap, Swap))

    after = swap.pool
    assert after.reserve_0 * after.reserve_1 >= pool.reserve_0 * pool.reserve_1
    moved = after.vault_0 - pool.vault_0, after.vault_1 - pool.vault_1
    assert moved == (
        (swap.amount_in, -swap.amount_out) if forward else (-swap.amount_out, swap.amount_in)
    )
    # Only the liquidity providers' part stays in the reserve of the token paid in.
    grown = after.reserves(forward)[0] - pool.reserves(forward)[0]
    assert grown == swap.net_in + swap.lp_fee


def test_fees_on_the_input_are_rounded_once_together() -> None:
    # 1.5 % of 101 is 1.515, so 2: a third of it, rounded down, is the creator's. Two ceilings
    # would have taken 2 and 1.
    swap = quote_exact_in(POOL, 101, zero_for_one=True)

    assert (swap.fee, swap.creator_fee, swap.net_in) == (2, 0, 99)


@pytest.mark.parametrize(
    ("creator_fee_on", "zero_for_one", "in_token_0", "in_token_1"),
    [
        (0, True, 500, 0),
        (0, False, 0, 500),
        (1, True, 500, 0),
        (1, False, 236, 0),
        (2, True, 0, 901),
        (2, False, 0, 500),
    ],
)
def test_the_creators_fee_is_in_the_token_that_the_pool_names(
    creator_fee_on: int, zero_for_one: bool, in_token_0: int, in_token_1: int
) -> None:
    pool = replace(POOL, creator_fee_on=creator_fee_on)

    after = quote_exact_in(pool, 100_000, zero_for_one).pool

    assert (after.creator_fees_token_0, after.creator_fees_token_1) == (in_token_0, in_token_1)


def test_a_pool_without_the_creators_fee_takes_none() -> None:
    swap = quote_exact_in(replace(POOL, enable_creator_fee=False), 100_000, zero_for_one=True)

    assert (swap.fee, swap.creator_fee) == (1000, 0)


def test_accrued_fees_are_no_part_of_the_reserve() -> None:
    pool = replace(POOL, protocol_fees_token_0=10, fund_fees_token_0=20, creator_fees_token_0=30)

    assert pool.reserves(zero_for_one=True) == (999_940, 2_000_000)


def test_an_exact_output_below_one_unit_of_input_still_costs_one() -> None:
    pool = Pool(10, 10**9, 0, 0, 0, 0, True, creator_fee_on=2)

    assert quote_exact_out(pool, 1, zero_for_one=True).amount_in == 1


@pytest.mark.parametrize(
    ("pool", "amount", "exact_in", "reason"),
    [
        (replace(POOL, vault_1=3), 1_000, True, "ZERO_OUTPUT"),
        (POOL, 2_000_000, False, "INSUFFICIENT_LIQUIDITY"),
        (replace(POOL, creator_fee_on=2), 1_999_999, False, "INSUFFICIENT_LIQUIDITY"),
        (replace(POOL, trade_fee_rate=0, creator_fee_rate=0), 10, True, "ZERO_TRADING_TOKENS"),
        (replace(POOL, trade_fee_rate=0, creator_fee_rate=0), 10, False, "ZERO_TRADING_TOKENS"),
        (replace(POOL, vault_0=2**64 - 5), 2**63, True, "MATH_OVERFLOW"),
        (replace(POOL, vault_0=2**63), 1_999_999, False, "MATH_OVERFLOW"),
        (replace(POOL, vault_0=0), 10, True, "INSUFFICIENT_LIQUIDITY"),
        (replace(POOL, protocol_fee_rate=990_000), 10**5, True, "MATH_OVERFLOW"),
    ],
)
def test_the_program_would_refuse(pool: Pool, amount: int, exact_in: bool, reason: str) -> None:
    quote = quote_exact_in if exact_in else quote_exact_out

    with pytest.raises(SwapFailed) as failure:
        quote(pool, amount, True)

    assert failure.value.reason == reason


def test_reserves_may_stand_for_the_vaults() -> None:
    rates = {"trade_fee_rate": 2500, "protocol_fee_rate": "120000", "fund_fee_rate": 40_000}

    by_side = load({**rates, "reserve_0": "50", "reserve_1": 60, "accrued_fund_1": 7})
    by_role = load({**rates, "reserve_in": 50, "reserve_out": 60, "creator_fee_on_input": False})

    assert (by_side.vault_0, by_side.vault_1, by_side.reserve_1) == (50, 67, 60)
    assert by_role.reserves(zero_for_one=True) == (50, 60)
    assert not by_role.creator_on_input(zero_for_one=True)
