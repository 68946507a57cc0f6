"""Splits: the best that a search of everything finds, never worse than one curve alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import combinations
from operator import add
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.pools import NOW, pool
from engine.amm.kinds import KINDS
from engine.amm.swap import SwapFailed
from engine.routing.split import Cost, Curve, best_split

seeds = st.integers(0, 2**32)
examples = settings(max_examples=150, deadline=None)


def curves(random: Random, count: int, depth: int) -> list[Curve]:
    """Of pools of any kinds, some percent apart in price."""
    price = random.choice((0.001, 0.05, 0.15, 1, 1, 7, 100))
    made = []
    for _ in range(count):
        kind = random.choice(list(KINDS))
        near = price * random.uniform(0.97, 1.03)
        state = pool(kind, near, int(depth * random.uniform(0.2, 3)), random)
        # So small a pool may come out without liquidity.
        with suppress(SwapFailed):
            made.append(KINDS[kind].exact_in_curve(state, True, NOW))
    return made


def each_leg(cost: int) -> Cost:
    return lambda chosen: cost * len(chosen)


def everything(curves: Sequence[Curve], parts: int, amount: int, most: int, cost: Cost) -> int:
    """The most that any combination nets, with the amount shared out in so many parts."""
    rows = [[curve(amount * part // parts) for part in range(parts + 1)] for curve in curves]
    found = []
    for count in range(1, most + 1):
        for chosen in combinations(range(len(curves)), count):
            best = rows[chosen[0]]
            for index in chosen[1:]:
                row = rows[index]
                best = [max(map(add, best[: part + 1], row[part::-1])) for part in range(parts + 1)]
            price = cost(chosen)
            if price is not None:
                found.append(best[parts] - price)
    return max(found, default=0)


@examples
@given(seeds, st.integers(2, 4), st.integers(2, 3), st.integers(5, 300), st.sampled_from((0, 1, 5)))
def test_nothing_is_better_by_more_than_a_unit(
    seed: int, count: int, most: int, amount: int, leg: int
) -> None:
    random = Random(seed)
    given_curves = curves(random, count, int(10 ** random.uniform(3, 6)))
    best = everything(given_curves, amount, amount, most, each_leg(leg))

    split = best_split(given_curves, amount, most, each_leg(leg))

    # A unit paid or one received, whichever is worth more.
    unit = max(1, -(-best // amount))
    assert (0 if split is None else split.net) >= best - unit


# Drawn at random, one case in three thousand was two units off before all moves were tried.
@pytest.mark.parametrize("seed", [1_008_679, 2_008_603, 2_018_278, 2_029_050])
def test_what_lies_behind_moves_that_do_not_pay_is_found(seed: int) -> None:
    random = Random(seed)
    count, most, amount = random.randint(2, 4), random.randint(2, 3), random.randint(5, 300)
    leg = random.choice((0, 1, 5))
    given_curves = curves(random, count, int(10 ** random.uniform(3, 6)))
    best = everything(given_curves, amount, amount, most, each_leg(leg))

    split = best_split(given_curves, amount, most, each_leg(leg))

    assert split is not None
    assert split.net >= best - max(1, -(-best // amount))


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(2, 3), st.floats(-3, 0))
def test_no_finer_sharing_out_is_better_where_amounts_are_large(
    seed: int, count: int, impact: float
) -> None:
    random = Random(seed)
    depth = int(10 ** random.uniform(10, 13))
    given_curves = curves(random, count, depth)
    amount = int(depth * 10**impact)
    best = everything(given_curves, 100, amount, 3, each_leg(0))

    split = best_split(given_curves, amount, 3, each_leg(0))

    # A hundredth of a basis point: fees that fall while the price moves leave hills to miss.
    assert split is not None
    assert split.net >= best - best // 1_000_000


@examples
@given(seeds, st.integers(1, 5), st.integers(1, 3), st.integers(1, 10**12), st.integers(0, 1000))
def test_it_shares_out_all_of_it_and_is_never_worse_than_one_alone(
    seed: int, count: int, most: int, amount: int, leg: int
) -> None:
    random = Random(seed)
    given_curves = curves(random, count, 10**11)

    split = best_split(given_curves, amount, most, each_leg(leg))

    alone = max(curve(amount) for curve in given_curves)
    if split is None:
        assert alone == 0
        return
    assert sum(share for _, share in split.shares) == amount
    assert 1 <= len(split.shares) <= most
    assert list(split.chosen) == sorted(set(split.chosen))
    paid = [given_curves[index](share) for index, share in split.shares]
    assert min(paid) > 0
    assert sum(paid) == split.amount_out
    assert split.cost == leg * len(split.shares)
    assert split.net >= alone - leg
    assert best_split(given_curves, amount, most, each_leg(leg)) == split


def xyk(reserve_in: int, reserve_out: int) -> Callable[[int], int]:
    return lambda amount: amount * reserve_out // (reserve_in + amount)


def test_two_equal_curves_share_equally() -> None:
    split = best_split([xyk(10**9, 10**9)] * 2, 10**8, 2, each_leg(0))

    assert split is not None
    assert split.amount_out in (95_238_094, 95_238_095)
    [(_, one), (_, other)] = split.shares
    assert abs(one - other) < 10**5


def test_a_leg_that_costs_more_than_it_gains_is_left_out() -> None:
    both = [xyk(10**9, 10**9)] * 2
    # Alone 90,909,090, together 95,238,095.
    gain = 95_238_095 - 90_909_090

    dear = best_split(both, 10**8, 2, each_leg(gain + 1))
    cheap = best_split(both, 10**8, 2, each_leg(gain - 1))

    assert dear is not None
    assert cheap is not None
    assert (len(dear.shares), len(cheap.shares)) == (1, 2)


def test_what_may_not_go_together_does_not() -> None:
    def apart(chosen: tuple[int, ...]) -> int | None:
        return None if {0, 1} <= set(chosen) else 0

    split = best_split([xyk(10**9, 10**9)] * 2 + [xyk(10**8, 10**8)], 10**8, 3, apart)

    assert split is not None
    assert split.chosen in ((0, 2), (1, 2))


def test_an_amount_that_no_curve_takes_alone_is_shared() -> None:
    def at_most(limit: int) -> Curve:
        return lambda amount: amount if amount <= limit else 0

    split = best_split([at_most(700), at_most(500)], 1000, 2, each_leg(0))

    assert split is not None
    assert split.amount_out == 1000


@examples
@given(seeds, st.integers(2, 4), st.integers(5, 300))
def test_curves_that_take_no_more_than_so_much_are_given_no_more(
    seed: int, count: int, amount: int
) -> None:
    def stairs(rise: int, run: int, most: int) -> Curve:
        return lambda amount: paid if (paid := amount * rise // run) <= most else 0

    random = Random(seed)
    given_curves = [
        stairs(random.randint(1, 9), random.choice((1, 7, 50)), random.randint(1, 60))
        for _ in range(count)
    ]

    split = best_split(given_curves, amount, 3, each_leg(0))

    if split is not None:
        assert sum(share for _, share in split.shares) == amount
        assert all(given_curves[index](share) for index, share in split.shares)


def test_what_pays_nothing_is_no_split() -> None:
    assert best_split([lambda amount: 0], 1000, 2, each_leg(0)) is None
    assert best_split([], 1000, 2, each_leg(0)) is None
