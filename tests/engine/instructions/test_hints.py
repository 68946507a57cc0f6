"""What a pool tells is enough to build a swap in it, or nothing is made of it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from dex_sim.market import opening_pools
from dex_sim.pool import Pool as Simulated
from dex_sim.program import arrays_to_name
from engine.instructions.hints import hints_of
from engine.instructions.swap import LAYOUTS
from engine.pool_book import PoolBook
from engine.route import Hints, Leg
from engine.routing.market import Market, Pool

NOW = 1_800_000_000
OPENING = {f"{pool.kind} {pool.address}": pool for pool in opening_pools()}
FIRST = {kind: next(p for p in OPENING.values() if p.kind == kind) for kind in LAYOUTS}
kinds = pytest.mark.parametrize("kind", LAYOUTS)
both_ways = pytest.mark.parametrize("zero_for_one", [True, False], ids=["down", "up"])


def told(pool: Simulated, **changes: Any) -> Pool:
    """The pool as its venue's stream tells it, but for the changes."""
    facts = pool.facts
    streamed = Pool(
        pool.venue,
        pool.address,
        pool.kind,
        pool.mint_a,
        pool.mint_b,
        pool.state,
        1,
        pool.reserve_a,
        pool.reserve_b,
        facts.market or None,
        facts.config if LAYOUTS[pool.kind].by_config else None,
    )
    return replace(streamed, **changes)


def leg(pool: Simulated, amount_in: int, *, zero_for_one: bool = True) -> Leg:
    a, b = pool.mint_a, pool.mint_b
    mints = (a, b) if zero_for_one else (b, a)
    return Leg(pool.venue, pool.address, pool.kind, *mints, amount_in, 1)


@both_ways
@pytest.mark.parametrize("share", [10_000_000, 100, 4])
@pytest.mark.parametrize("name", OPENING)
def test_hints_are_those_that_the_venue_would_build_from(
    name: str, share: int, zero_for_one: bool
) -> None:
    pool = OPENING[name]
    amount = (pool.reserve_a if zero_for_one else pool.reserve_b) // share
    mint_in = pool.mint_a if zero_for_one else pool.mint_b

    hints = hints_of(told(pool), leg(pool, amount, zero_for_one=zero_for_one), NOW)

    assert hints == Hints(
        arrays_to_name(pool, mint_in, amount, NOW),
        pool.facts.market or None,
        pool.facts.config,
        zero_for_one,
    )


@both_ways
@kinds
def test_a_market_or_a_config_that_is_needed_and_not_told_leaves_no_hints(
    kind: str, zero_for_one: bool
) -> None:
    pool, layout = FIRST[kind], LAYOUTS[kind]
    swap = leg(pool, 10_000, zero_for_one=zero_for_one)

    assert hints_of(told(pool), swap, NOW)
    assert (hints_of(told(pool, config=None), swap, NOW) is None) == layout.by_config
    assert (hints_of(told(pool, market=None), swap, NOW) is None) == layout.by_market


def test_a_config_of_zero_is_a_config() -> None:
    hints = hints_of(told(FIRST["raydium_cpmm"], config=0), leg(FIRST["raydium_cpmm"], 10_000), NOW)

    assert hints == Hints(config=0)


@kinds
def test_what_a_kind_does_not_need_is_not_among_its_hints(kind: str) -> None:
    pool, layout = FIRST[kind], LAYOUTS[kind]

    hints = hints_of(told(pool, market="a market", config=7), leg(pool, 10_000), NOW)

    assert hints is not None
    assert hints.market == ("a market" if layout.by_market else None)
    assert hints.config == (7 if layout.by_config else 0)


@pytest.mark.parametrize("kind", ["raydium_clmm", "meteora_dlmm"])
def test_a_swap_that_the_pool_cannot_do_has_no_hints(kind: str) -> None:
    assert hints_of(told(FIRST[kind]), leg(FIRST[kind], 2**64 - 1), NOW) is None


@both_ways
@pytest.mark.parametrize("name", [name for name in OPENING if "clmm" in name or "dlmm" in name])
def test_hints_that_a_book_remembers_are_those_of_the_amount_and_the_state(
    name: str, zero_for_one: bool
) -> None:
    pool = OPENING[name]
    book = PoolBook({}, max_slot_lag=0, max_pool_share_bps=10_000)
    most = (pool.reserve_a if zero_for_one else pool.reserve_b) // 2
    amounts = [max(1, most * part // 64) for part in (9, 1, 64, 5, 40, 2, 63, 24, 3, 16, 32, 0)]
    swaps = [leg(pool, amount, zero_for_one=zero_for_one) for amount in amounts]
    moved = pool.offer(swaps[0].mint_in, most, NOW).pool

    # Both states in turn, and the same amounts again: what is remembered holds for its own alone.
    for state in (pool, moved, pool):
        streamed = told(pool, state=state.state)
        book._market = Market([streamed], {pool.venue: NOW})
        assert [book.hints(each) for each in swaps + swaps] == [
            hints_of(streamed, each, NOW) for each in swaps + swaps
        ]
