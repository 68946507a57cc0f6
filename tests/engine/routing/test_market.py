"""The market: what each pool offers, and what is still known after some of them changed."""

from __future__ import annotations

from random import Random

import pytest
from msgspec.structs import replace

from bench.pools import NOW, market, market_of, pool
from engine.amm import raydium_amm_v4
from engine.amm.kinds import KINDS
from engine.routing.market import TIMELESS, Market, Pool
from tests.builders import SOL, USDC

each_kind = pytest.mark.parametrize("kind", KINDS)


def a_pool(kind: str = "raydium_cpmm", address: str = "pool", seed: int = 1) -> Pool:
    state = pool(kind, 0.15, 10**12, Random(seed))
    return Pool(kind.partition("_")[0], address, kind, SOL, USDC, state, 1)


def empty(address: str) -> Pool:
    state = raydium_amm_v4.Pool(0, 10**9, 25, 10_000)
    return Pool("raydium", address, "raydium_amm_v4", SOL, USDC, state, 1)


@each_kind
def test_an_offer_answers_as_the_pool_in_its_direction(kind: str) -> None:
    held = a_pool(kind)
    everything = market_of([held])

    for mints, zero_for_one in (((SOL, USDC), True), ((USDC, SOL), False)):
        [offer] = everything.offers(*mints)
        swap = KINDS[kind].quote_exact_in(held.state, 10**8, zero_for_one, NOW)
        assert offer.amount_out(10**8) == offer.pay(10**8).amount_out == swap.amount_out
        assert swap.amount_out <= 10**8 * offer.price >> 64


def test_the_best_price_comes_first_in_either_direction() -> None:
    everything = market(Random(3))

    for mints in ((SOL, USDC), (USDC, SOL)):
        prices = [offer.price for offer in everything.offers(*mints)]
        assert len(prices) > 1
        assert prices == sorted(prices, reverse=True)


def test_a_pool_without_liquidity_is_no_offer_but_is_there() -> None:
    everything = market_of([empty("dry"), a_pool()])

    assert [offer.pool.address for offer in everything.offers(SOL, USDC)] == ["pool"]
    assert [held.address for held in everything.between(USDC, SOL)] == ["dry", "pool"]


def test_a_pair_without_pools_has_no_offers() -> None:
    assert market_of([a_pool()]).offers(SOL, "another mint") == ()


def test_a_venue_that_streams_no_pool_yet_is_still_one_that_streams() -> None:
    assert Market([], {"raydium": NOW, "meteora": NOW}).venues == {"raydium", "meteora"}


def test_what_changed_is_quoted_anew_and_the_market_before_stays_as_it_was() -> None:
    before = market_of([a_pool()])
    [old] = before.offers(SOL, USDC)
    swapped = replace(
        a_pool(),
        state=KINDS["raydium_cpmm"].quote_exact_in(a_pool().state, 10**11, True, NOW).pool,
        slot=2,
    )

    after = before.after([swapped])

    assert after.offers(SOL, USDC)[0].amount_out(10**8) < old.amount_out(10**8)
    assert after.pools["raydium", "pool"].slot == 2
    assert before.offers(SOL, USDC) == (old,)
    assert before.pools["raydium", "pool"].slot == 1


@each_kind
def test_a_pool_that_stayed_as_it_was_is_not_worked_out_again(kind: str) -> None:
    before = market_of([a_pool(kind, "kept"), a_pool("raydium_cpmm", "changed")])
    kept = next(o for o in before.offers(SOL, USDC) if o.pool.address == "kept")

    after = before.after([a_pool("raydium_cpmm", "changed", seed=2)])

    assert kept in after.offers(SOL, USDC)


@each_kind
def test_what_depends_on_the_time_is_worked_out_again_at_another(kind: str) -> None:
    before = market_of([a_pool(kind)])
    [kept] = before.offers(SOL, USDC)

    later = {kind.partition("_")[0]: NOW + 1}
    [offer] = before.after([], later).offers(SOL, USDC)

    assert (offer is kept) is (kind in TIMELESS)
    assert before.after([], later).clocks == later


@each_kind
def test_a_later_market_answers_as_one_made_anew(kind: str) -> None:
    first = market_of([a_pool(kind, "a", 1), a_pool(kind, "b", 2)])
    first.offers(SOL, USDC)
    changed, added = a_pool(kind, "b", 3), a_pool(kind, "c", 4)

    for now in (NOW, NOW + 45, NOW + 10_000):
        after = first.after([changed, added], {changed.venue: now})
        anew = market_of([a_pool(kind, "a", 1), changed, added], now)
        for mints in ((SOL, USDC), (USDC, SOL)):
            answers = [
                [(o.pool.address, o.price, o.amount_out(10**9)) for o in each.offers(*mints)]
                for each in (after, anew)
            ]
            assert answers[0] == answers[1]
