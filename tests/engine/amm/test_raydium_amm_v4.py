"""Raydium AMM v4: the curve, and the fee that stays in it."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from msgspec.structs import replace

from engine.amm.raydium_amm_v4 import Pool, load, quote_exact_in, quote_exact_out
from engine.amm.snapshot import InvalidSnapshot
from engine.amm.swap import Swap, SwapFailed
from tests.engine.amm.pools import amm_v4_pools, amounts, directions, outcome

POOL = Pool(1_000_000, 2_000_000, 25, 10_000)
examples = settings(max_examples=60, deadline=None)


@examples
@given(amm_v4_pools(), amounts, directions)
def test_the_output_is_the_most_that_keeps_k(pool: Pool, amount: int, forward: bool) -> None:
    swap = outcome(quote_exact_in, pool, amount, forward)
    assume(isinstance(swap, Swap))

    reserve_in, reserve_out = pool.reserves(forward)
    k = reserve_in * reserve_out
    assert (reserve_in + swap.net_in) * (reserve_out - swap.amount_out) >= k
    assert (reserve_in + swap.net_in) * (reserve_out - swap.amount_out - 1) < k


@examples
@given(amm_v4_pools(), amounts, directions)
def test_the_whole_fee_stays_in_the_reserve(pool: Pool, amount: int, forward: bool) -> None:
    swap = outcome(quote_exact_out, pool, amount, forward)
    assume(isinstance(swap, Swap))

    before, after = pool.reserves(forward), swap.pool.reserves(forward)
    assert after == (before[0] + swap.amount_in, before[1] - swap.amount_out)
    assert after[0] * after[1] >= before[0] * before[1]
    assert swap.fee * 10_000 >= swap.amount_in * 25


def test_the_fee_is_rounded_up_even_of_a_single_unit() -> None:
    assert quote_exact_in(replace(POOL, vault_coin=10), 3, zero_for_one=True).fee == 1


def test_profit_still_to_be_taken_is_no_part_of_the_reserve() -> None:
    pool = replace(POOL, need_take_pnl_coin=10, need_take_pnl_pc=20)

    assert pool.reserves(zero_for_one=False) == (1_999_980, 999_990)


@pytest.mark.parametrize(
    ("pool", "amount", "exact_in", "reason"),
    [
        (POOL, 1, True, "ZERO_OUTPUT"),
        (POOL, 2_000_000, False, "INSUFFICIENT_LIQUIDITY"),
        (replace(POOL, vault_pc=0), 10, True, "INSUFFICIENT_LIQUIDITY"),
        (replace(POOL, vault_coin=2**64 - 5), 2**63, True, "MATH_OVERFLOW"),
        (replace(POOL, vault_coin=2**63), 1_999_999, False, "MATH_OVERFLOW"),
    ],
)
def test_the_program_would_refuse(pool: Pool, amount: int, exact_in: bool, reason: str) -> None:
    quote = quote_exact_in if exact_in else quote_exact_out

    with pytest.raises(SwapFailed) as failure:
        quote(pool, amount, True)

    assert failure.value.reason == reason


def test_an_account_may_be_pasted_in() -> None:
    account = {
        "status": "6",
        "coin_decimals": 9,
        "fees": {"swap_fee_numerator": "25", "swap_fee_denominator": "10000", "pnl_numerator": 12},
        "state_data": {"need_take_pnl_coin": 3, "need_take_pnl_pc": "4", "pool_open_time": 0},
        "vault_coin": "1000",
        "vault_pc": 2000,
    }

    assert load(account) == Pool(1000, 2000, 25, 10_000, 3, 4)


@pytest.mark.parametrize("numerator", [10_000, 10_001, -1])
def test_a_fee_of_everything_is_no_pool(numerator: int) -> None:
    fees = {"swap_fee_numerator": numerator, "swap_fee_denominator": 10_000}

    with pytest.raises(InvalidSnapshot, match=r"swap_fee_numerator: .* in 0 … 9999"):
        load({"vault_coin": 1, "vault_pc": 1, **fees})
