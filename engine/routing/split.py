"""Dividing one amount over several curves so that they pay the most together. Pure integers.

The amount is first shared out in sixteenths, for every combination of curves that is allowed: what
each curve pays for so many sixteenths is known, and combinations only add. The best combinations
are then worked out exactly: the curve whose next units pay most takes them from the one whose last
units pay least, in ever smaller steps, until no unit is better placed elsewhere. That equalises
marginal prices, and is exact for concave curves (Hochbaum, "Lower and upper bounds for the
allocation problem and other nonlinear optimization problems", 1994). Pools' curves are concave up
to their roundings, which the last steps see to, and to fees that fall while the price moves, for
which the sixteenths are there: they look at the whole curve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations, permutations
from operator import add
from typing import Final

import msgspec

Curve = Callable[[int], int]
# What it costs to use these curves (by index, ascending) together; None where they may not be.
# Whatever is not allowed is not allowed with one curve more either.
Cost = Callable[[tuple[int, ...]], int | None]

PARTS: Final = 16
# How many combinations are looked at further, each time the best so far: down to parts of the
# amount this fine, and to the last unit.
LIKELY: Final = 12
FINE_PARTS: Final = 4096
LIKELIEST: Final = 3
# Moves with steps of one size; concave curves need one or two.
MOVES: Final = 8
# How many units are moved to and fro in the end; of an amount that is tiny, all. There, roundings
# are most of what tells combinations apart.
REACH: Final = 8
TINY: Final = 512
NEVER: Final = -(1 << 80)


class Split(msgspec.Struct, frozen=True):
    """How much goes to which curve, (index, amount) ascending; and what comes out of it."""

    shares: tuple[tuple[int, int], ...]
    amount_out: int
    cost: int

    @property
    def net(self) -> int:
        """What is left of it."""
        return self.amount_out - self.cost

    @property
    def chosen(self) -> tuple[int, ...]:
        """The curves that it uses."""
        return tuple(index for index, _ in self.shares)


def best_split(curves: Sequence[Curve], amount: int, most: int, cost: Cost) -> Split | None:
    """The best over at most `most` of the curves; None when no combination pays anything.

    A curve is monotone, pays 0 for 0, and 0 beyond what it can take. The best there is, to within
    one unit of whichever token is worth more; of very many combinations, the best of those that
    sixteenths show to be likely.
    """
    tiny = amount <= TINY
    if tiny:
        curves = [cache(curve) for curve in curves]
    marks = [amount * part // PARTS for part in range(PARTS + 1)]
    rows = [[curve(mark) for mark in marks] for curve in curves]
    ranked = sorted(
        _combinations(rows, most, cost), key=lambda each: (-each[0], len(each[1]), each[1])
    )
    fine = amount // FINE_PARTS
    likely: dict[tuple[int, ...], Split] = {}
    for _, chosen in ranked[:LIKELY]:
        shares = [marks[parts] for parts in _parts([rows[index] for index in chosen])]
        # Rounding down the marks left a few units over.
        shares[shares.index(max(shares))] += amount - sum(shares)
        used = [curves[index] for index in chosen]
        _improve(used, shares, amount // (2 * PARTS), fine)
        if tiny:
            _settle(used, shares, amount)
        split = _split(chosen, curves, shares, cost)
        if split is not None and split.net >= likely.get(split.chosen, split).net:
            likely[split.chosen] = split
    found = []
    for split in sorted(likely.values(), key=_net, reverse=True)[:LIKELIEST]:
        shares = [share for _, share in split.shares]
        used = [curves[index] for index in split.chosen]
        _improve(used, shares, max(1, fine), 0)
        _settle(used, shares, REACH)
        found.append(_split(split.chosen, curves, shares, cost))
    return max(filter(None, found), key=_net, default=None)


def _net(split: Split) -> int:
    return split.net


def _combinations(
    rows: Sequence[list[int]], most: int, cost: Cost
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """What each allowed combination pays in sixteenths, less its cost; and which it is."""
    backwards = [row[::-1] for row in rows]

    def from_here(
        chosen: tuple[int, ...], best: list[int]
    ) -> Iterator[tuple[int, tuple[int, ...]]]:
        for index in range(chosen[-1] + 1 if chosen else 0, len(rows)):
            wider = (*chosen, index)
            price = cost(wider)
            if price is None:
                continue
            yield max(map(add, best, backwards[index])) - price, wider
            if len(wider) < most and index + 1 < len(rows):
                yield from from_here(wider, _together(best, rows[index]) if chosen else rows[index])

    return from_here((), [0] * (PARTS + 1))


def _together(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """The most that two pay for each number of sixteenths."""
    return [max(map(add, first[: parts + 1], second[parts::-1])) for parts in range(len(first))]


def _parts(rows: Sequence[Sequence[int]]) -> list[int]:
    """How many sixteenths go to each so that they pay the most."""
    tables = [rows[0]]
    for row in rows[1:]:
        tables.append(_together(tables[-1], row))
    left, parts = len(rows[0]) - 1, []
    for row, before in zip(rows[:0:-1], tables[-2::-1], strict=True):
        take = max(range(left + 1), key=lambda part: row[part] + before[left - part])
        parts.append(take)
        left -= take
    return [left, *reversed(parts)]


def _improve(curves: Sequence[Curve], shares: list[int], step: int, until: int) -> None:
    """Move units between the shares while that pays, in steps halved down to more than `until`."""
    paid = [curve(share) for curve, share in zip(curves, shares, strict=True)]
    pairs = list(permutations(range(len(curves)), 2))
    while step > until and pairs:
        more = [curve(share + step) for curve, share in zip(curves, shares, strict=True)]
        less = [
            curve(share - step) if share >= step else NEVER
            for curve, share in zip(curves, shares, strict=True)
        ]
        for _ in range(MOVES):
            gain, to, of = max(
                (more[to] - paid[to] + less[of] - paid[of], to, of) for to, of in pairs
            )
            if gain <= 0:
                break
            shares[to] += step
            shares[of] -= step
            # A step back is where they were, so only the next one has to be asked for.
            less[to], paid[to], more[to] = paid[to], more[to], curves[to](shares[to] + step)
            more[of], paid[of] = paid[of], less[of]
            less[of] = curves[of](shares[of] - step) if shares[of] >= step else NEVER
        step //= 2


def _settle(curves: Sequence[Curve], shares: list[int], reach: int) -> None:
    """Of all moves of up to so many units between two, make the best while one pays.

    Rounded curves rise in stairs: what pays may lie behind moves that do not.
    """
    for _ in range(MOVES):
        before = list(shares)
        for one, other in combinations(range(len(curves)), 2):
            both, share = shares[one] + shares[other], shares[one]
            first, second = curves[one], curves[other]
            ways = range(max(0, share - reach), min(both, share + reach) + 1)
            # As it is, unless another way is better.
            best = max(ways, key=lambda way: (first(way) + second(both - way), way == share))
            shares[one], shares[other] = best, both - best
        if shares == before:
            break


def _split(
    chosen: Sequence[int], curves: Sequence[Curve], shares: Sequence[int], cost: Cost
) -> Split | None:
    """Without the curves that get, or pay, nothing: what those get goes to another."""
    paid = [curves[index](share) for index, share in zip(chosen, shares, strict=True)]
    used = [(i, share) for i, share, out in zip(chosen, shares, paid, strict=True) if out]
    if not used:
        return None
    over = sum(shares) - sum(share for _, share in used)
    if over:
        at = max(range(len(used)), key=lambda at: curves[used[at][0]](used[at][1] + over))
        used[at] = (used[at][0], used[at][1] + over)
        if not curves[used[at][0]](used[at][1]):
            return None
    price = cost(tuple(index for index, _ in used))
    assert price is not None, "what is allowed is allowed with one curve less"
    return Split(tuple(used), sum(curves[index](share) for index, share in used), price)
