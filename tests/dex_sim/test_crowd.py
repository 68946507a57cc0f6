"""A market that lives: prices that wander and stay, pools apart and drawn together."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from itertools import pairwise

import pytest

from dex_sim.chain import CROWD_FUNDS, clock_at
from dex_sim.chance import Chance
from dex_sim.crowd import BAND_PPM, Crowd, Prices
from dex_sim.execution import CROWD, Accounts
from dex_sim.market import SOL, TOKENS, USDC, opening_pools
from dex_sim.pool import Pool
from engine.fractions import PPM


def market() -> Accounts:
    accounts = Accounts()
    accounts.pools = {pool.address: pool for pool in opening_pools()}
    for mint in TOKENS:
        accounts.add(CROWD, mint, CROWD_FUNDS)
    return accounts


def live(
    accounts: Accounts, slots: range, *, drift_ppm: int = 300, trades: int = 4, seed: int = 1
) -> None:
    crowd = Crowd(Chance(seed), drift_ppm, trades, list(accounts.pools))
    for age in slots:
        crowd.trade(age, clock_at(age), accounts)


def held(accounts: Accounts) -> dict[str, int]:
    total = {mint: accounts.balance(CROWD, mint) for mint in TOKENS}
    for pool in accounts.pools.values():
        total[pool.mint_a] += pool.reserve_a
        total[pool.mint_b] += pool.reserve_b
    return total


def apart_ppm(pool: Pool, prices: dict[str, int]) -> int:
    """How far a pool's price is from that of its tokens."""
    numerator, denominator = pool.offer(pool.mint_a, pool.reserve_a // 10**6, 0).swap.spot
    ratio = Fraction(numerator * prices[pool.mint_b], denominator * prices[pool.mint_a])
    return abs(round((ratio - 1) * PPM))


def test_a_seed_repeats_all_that_others_do() -> None:
    one, two, other = market(), market(), market()
    live(one, range(1, 200), seed=7)
    live(two, range(1, 200), seed=7)
    live(other, range(1, 200), seed=8)

    assert one.pools == two.pools
    assert one.pools != other.pools


def test_a_market_that_was_interrupted_goes_on_as_one_that_was_not() -> None:
    whole, halves = market(), market()
    live(whole, range(1, 200))
    live(halves, range(1, 100))
    live(halves, range(100, 200))

    assert whole.pools == halves.pools


def test_over_thousands_of_slots_prices_stay_in_their_band_and_pools_near_each_other() -> None:
    accounts, prices = market(), Prices(Chance(1), 300)
    supply = held(accounts)
    worst: defaultdict[str, int] = defaultdict(int)
    for start in range(1, 5_001, 250):
        live(accounts, range(start, start + 250))
        at = prices.at(start + 249)
        for pool in accounts.pools.values():
            worst[pool.kind] = max(worst[pool.kind], apart_ppm(pool, at))

    assert len(worst) == 5
    assert max(worst.values()) < 15_000
    assert held(accounts) == supply


def test_arbitrage_draws_pools_together_that_a_large_trade_left_apart() -> None:
    accounts = market()
    home = Prices(Chance(1), 0).at(0)
    for pool in list(accounts.pools.values()):
        bought = pool.offer(pool.mint_a, pool.reserve_a // 50, 0).pool
        accounts.pools[pool.address] = bought
    before = {address: apart_ppm(pool, home) for address, pool in accounts.pools.items()}
    # One trader, so that there is a market at all.
    live(accounts, range(1, 200), drift_ppm=0, trades=1)
    after = {address: apart_ppm(pool, home) for address, pool in accounts.pools.items()}

    moved = [address for address, distance in before.items() if distance > 15_000]
    assert len(moved) > 30
    assert all(after[address] < before[address] / 2 for address in moved)


def test_others_swaps_move_the_fees_that_follow_volatility() -> None:
    accounts = market()
    fees: defaultdict[str, set[int]] = defaultdict(set)
    for age in range(1, 400):
        live(accounts, range(age, age + 1))
        for pool in accounts.pools.values():
            fees[pool.address].add(pool.fee_ppm(clock_at(age)))

    moving = {accounts.pools[address].kind for address, seen in fees.items() if len(seen) > 2}
    assert moving == {"raydium_clmm", "meteora_dlmm", "meteora_damm_v2"}


@pytest.mark.parametrize("drift_ppm", [1, 300, 100_000])
def test_a_price_moves_at_most_by_the_drift_and_never_leaves_its_band(drift_ppm: int) -> None:
    prices = Prices(Chance(3), drift_ppm)
    walk = [Fraction(prices.at(age)[SOL.mint], prices.at(0)[SOL.mint]) for age in range(2_000)]

    # A unit of rounding a wave.
    assert all(abs(b - a) * PPM <= drift_ppm + 3 for a, b in pairwise(walk))
    assert all(abs(price - 1) * PPM <= BAND_PPM for price in walk)
    assert len(set(walk)) > 1 or drift_ppm == 1


def test_the_dollar_is_what_others_are_measured_by() -> None:
    prices = Prices(Chance(3), 300)

    assert {prices.at(age)[USDC.mint] for age in range(1_000)} == {prices.at(0)[USDC.mint]}


def test_without_drift_and_traders_the_market_stands_still() -> None:
    accounts = market()
    live(accounts, range(1, 50), drift_ppm=0, trades=0)

    assert accounts.pools == {pool.address: pool for pool in opening_pools()}
