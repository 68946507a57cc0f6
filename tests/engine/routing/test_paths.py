"""Paths: curves through one pool or two, that fit into a transaction."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.pools import market, market_of
from engine import network_cost
from engine.mints import RAY, SOL, USDC, USDT
from engine.routing.market import Market, Offer, Pool
from engine.routing.paths import Rules, allowed, by_way_of, direct, hops
from tests.engine.routing.test_market import a_pool

RULES = Rules()
seeds = st.integers(0, 2**32)


def all_hops(everything: Market, rules: Rules = RULES, venues: tuple[str, ...] = ()) -> set[str]:
    found = hops(everything, SOL, USDC, rules, venues, -1)
    return {"+".join(path.addresses) for path in found}


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 10**13), st.integers(0, 300))
def test_the_second_pool_is_paid_what_the_first_pays_less_the_reserve(
    seed: int, amount: int, reserve_bps: int
) -> None:
    everything = market(Random(seed))
    first, second = everything.offers(SOL, RAY)[0], everything.offers(RAY, USDC)[0]
    path = by_way_of(first, second, reserve_bps)

    one, other = path.steps(amount)

    paid = first.amount_out(amount)
    assert one == (first, amount, paid * (10_000 - reserve_bps) // 10_000)
    assert other == (second, one.carried, 0)
    assert path.amount_out(amount) == second.amount_out(one.carried)
    assert path.amount_out(amount) <= amount * path.price >> 64


def test_a_direct_path_is_its_pool() -> None:
    [offer] = market_of([a_pool()]).offers(SOL, USDC)
    path = direct(offer)

    assert path.amount_out(10**8) == offer.amount_out(10**8)
    assert path.steps(10**8) == [(offer, 10**8, 0)]
    assert not path.is_long


def test_ways_lead_over_known_mints_only() -> None:
    everything = market(Random(1))
    by_usdt = all_hops(everything)
    by_ray = all_hops(everything, Rules(intermediates=(RAY,)))

    assert by_usdt
    assert by_ray
    assert not by_usdt & by_ray
    assert all_hops(everything, Rules(intermediates=(USDT, RAY, SOL, USDC))) == by_usdt | by_ray
    assert all_hops(everything, Rules(intermediates=())) == set()
    assert all_hops(everything, Rules(max_legs=1)) == set()


def test_every_way_fits_into_a_transaction() -> None:
    everything = market(Random(1))
    found = hops(everything, SOL, USDC, RULES, (), -1)
    pairs = [
        (one.pool.kind, other.pool.kind)
        for one in everything.offers(SOL, USDT)
        for other in everything.offers(USDT, USDC)
    ]

    assert len(found) == sum(network_cost.fits(kinds, 3) for kinds in pairs)
    assert all(network_cost.fits(path.kinds, 3) for path in found)


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(0, 20))
def test_only_prices_above_are_given(seed: int, at: int) -> None:
    everything = market(Random(seed))
    found = hops(everything, SOL, USDC, RULES, (), -1)
    above = sorted(path.price for path in found)[min(at, len(found) - 1)] if found else 0

    higher = hops(everything, SOL, USDC, RULES, (), above)

    assert {p.addresses for p in higher} == {p.addresses for p in found if p.price > above}


def test_only_allowed_venues_are_gone_through() -> None:
    everything = market(Random(1))
    offers = everything.offers(SOL, USDC)

    def venues(found: list[Offer]) -> set[str]:
        return {offer.pool.venue for offer in found}

    assert venues(list(allowed(offers, ()))) == {"raydium", "meteora"}
    assert venues(list(allowed(offers, ("meteora",)))) == {"meteora"}
    for path in hops(everything, SOL, USDC, RULES, ("raydium",), -1):
        assert venues(list(path.offers)) == {"raydium"}
    only: list[Pool] = [p for p in everything.pools.values() if p.venue == "raydium"]
    assert all_hops(everything, venues=("raydium",)) == all_hops(market_of(only))
