"""A pool's arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dex_sim.chance import Chance, Range
from dex_sim.market import drift, opening_pools
from dex_sim.pool import FeeRule, Pool, Unfillable

U64_MAX = 2**64 - 1

POOL = Pool(
    address="pool",
    venue="meteora",
    mint_a="a",
    mint_b="b",
    fee_rule=FeeRule(base_ppm=2000, volatility_percent=10),
    reference_a=10**12,
    reference_b=10**12,
    reserve_a=10**12,
    reserve_b=10**12,
)

reserves = st.integers(1, 2**80)
pools = st.builds(
    lambda a, b, volatility: POOL._replace(reserve_a=a, reserve_b=b, volatility_ppm=volatility),
    reserves,
    reserves,
    st.integers(0, 10**7),
)


def product(pool: Pool) -> int:
    return pool.reserve_a * pool.reserve_b


@given(pools, st.sampled_from(["a", "b"]), st.integers(1, U64_MAX), st.integers(0, 100))
def test_no_swap_lowers_the_product_of_the_reserves(
    pool: Pool, mint_in: str, amount_in: int, slippage_bps: int
) -> None:
    try:
        offer = pool.offer(mint_in, amount_in)
    except Unfillable:
        assume(False)
    received = offer.amount_out * (10_000 - slippage_bps) // 10_000

    after = pool.after(mint_in, amount_in, received)

    assert product(after) >= product(pool)
    assert min(after.reserve_a, after.reserve_b) > 0
    assert 0 <= offer.price_impact_ppm <= 1_000_000


@given(pools, st.integers(-100_000, 100_000))
def test_no_drift_lowers_the_product_of_the_reserves(pool: Pool, ppm: int) -> None:
    assert product(pool.moved(ppm)) >= product(pool)


@given(pools, st.integers(1, U64_MAX))
def test_swapping_there_and_back_never_pays(pool: Pool, amount_in: int) -> None:
    try:
        there = pool.offer("a", amount_in)
        back = pool.after("a", amount_in, there.amount_out).offer("b", there.amount_out)
    except Unfillable:
        assume(False)

    assert back.amount_out <= amount_in


def test_amounts_are_those_of_the_real_cp_swap_program() -> None:
    pool = POOL._replace(
        fee_rule=FeeRule(base_ppm=40_000),
        reserve_a=89_328_309_641,
        reserve_b=23_847_517_576,
    )

    offer = pool.offer("a", 1_590_934)

    assert (offer.fee, offer.amount_out) == (63_638, 407_727)


def test_price_impact_is_the_loss_against_the_spot_price_rounded_up() -> None:
    pool = POOL._replace(fee_rule=FeeRule(base_ppm=0))

    # A tenth of the reserve on top of it: 1 - 1/1.1, in millionths.
    assert pool.offer("a", 10**11).price_impact_ppm == 90_910


@pytest.mark.parametrize("amount_in", [1, 2])
def test_dust_that_yields_nothing_is_unfillable(amount_in: int) -> None:
    with pytest.raises(Unfillable):
        POOL._replace(reserve_b=10**11).offer("a", amount_in)


def test_more_than_fits_a_token_account_is_unfillable() -> None:
    with pytest.raises(Unfillable):
        POOL._replace(reserve_b=2**100).offer("a", U64_MAX)


def test_the_fee_rises_with_volatility_up_to_its_cap_and_falls_back() -> None:
    moved = POOL.settled(POOL, 20_000)
    wild = POOL._replace(volatility_ppm=10**9)
    calm = moved
    for _ in range(200):
        calm = calm.settled(calm, 0)

    assert POOL.fee_ppm == 2000
    assert 3900 < moved.fee_ppm < 4100
    assert wild.fee_ppm == 10_000
    assert calm.fee_ppm == 2000


def test_a_price_far_away_drifts_home_but_no_faster_than_the_limit() -> None:
    pool = POOL.moved(90_000)
    for step in Chance(1).draws("market", "drift", 0, Range(-300, 300), 2000):
        before, pool = pool, pool.moved(drift(pool, step, 300))
        assert abs(pool.deviation_ppm() - before.deviation_ppm()) <= 400

    assert abs(pool.deviation_ppm()) < 5_000


def test_without_drift_the_market_stands_still() -> None:
    assert drift(POOL.moved(90_000), 0, 0) == 0


def test_pools_open_at_fixed_addresses_with_plausible_prices() -> None:
    pools = {p.address: p for p in opening_pools()}

    assert len(pools) == len(opening_pools()) == 20
    assert all(abs(pool.deviation_ppm()) < 1_000 for pool in pools.values())
