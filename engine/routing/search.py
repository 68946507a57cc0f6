"""The best way for an amount over one path or several, searched only as far as it may be better.

A path's price tells what it pays at most, and what a path pays for a few units beyond an amount
tells what it loses at most by giving up some of it. In a market at rest those say of nearly every
small order that one pool is best, and nothing is searched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from engine.routing.paths import Path, fits
from engine.routing.split import best_split

# An amount is divided over so many paths at most.
MAX_PATHS: Final = 10
LONG_PATHS: Final = 3
# How often the amount is halved to find how much of it a path takes.
HALVED: Final = 5
# Less than any way nets, whatever it costs.
NOTHING: Final = -(1 << 100)

Part = tuple[Path, int]


class Goal(NamedTuple):
    """What to find: the most for this amount, net of what `cost` says that pools of kinds take.

    It must be by `gain` better than what one leg nets (None: no single leg is offered), and a
    division over paths by as much better than one path.
    """

    amount: int
    max_legs: int
    cost: Callable[[tuple[str, ...]], int]
    one_leg: int | None
    gain: int
    # What two legs cost at least.
    least_cost: int


class Found(NamedTuple):
    """One path for the whole amount, and what it pays, gross and net."""

    path: Path
    paid: int
    net: int


def best_way(
    single: Path | None, others: Callable[[int], list[Path]], goal: Goal
) -> list[Part] | None:
    """The paths to take, each with its part, the largest first; None if none is better enough.

    `single` is the best of one pool, which is not an answer by itself; `others` gives the paths
    beside it whose price is above some price.
    """
    best = None if single is None else _whole(single, goal)
    above = 0 if best is None else _price_to_beat(best, goal)
    paths = others(above)
    if not paths:
        return None
    paths.sort(key=lambda path: (-path.price, path.addresses))
    for path in paths:
        if best is not None and goal.amount * path.price >> 64 <= best.net:
            break
        whole = _whole(path, goal)
        if whole.paid and (best is None or whole.net > best.net):
            best = whole
    bar = NOTHING if goal.one_leg is None else goal.one_leg + goal.gain
    if best is None:
        # None takes all of the amount; several may.
        return _divided(_likely(paths, goal), goal, bar)
    if best.path is not single:
        above = _price_to_beat(best, goal)
        if single is not None:
            paths.append(single)
        paths = [path for path in paths if path is not best.path and path.price > above]
    alone = [(best.path, goal.amount)] if best.path.is_long and best.net > bar else None
    bar = max(bar, best.net + goal.gain)
    price = max((path.price for path in paths), default=0)
    most = best.paid + (goal.amount * max(0, price - above) >> 64)
    if most - goal.least_cost <= bar:
        return alone
    return _divided([best.path, *_likely(paths, goal)], goal, bar) or alone


def _whole(path: Path, goal: Goal) -> Found:
    paid = path.amount_out(goal.amount)
    return Found(path, paid, paid - goal.cost(path.kinds))


def _price_to_beat(best: Found, goal: Goal) -> int:
    """No path with a lower price betters this one, be it beside it or in its place; Q64.64.

    Beside it: the last units of the amount are paid no less than a few units more would be, as
    the next ones never pay better. In its place: by what is left after the least network cost.
    """
    more = goal.amount // 8 + 1
    beside = (best.path.amount_out(goal.amount + more) - best.paid << 64) // more
    instead = (best.net + goal.least_cost << 64) // goal.amount
    return max(0, min(beside, instead))


def _likely(paths: Sequence[Path], goal: Goal) -> list[Path]:
    """Those that pay most for half of the amount, or for as much of it as they take; few of them
    long, as two of those hardly ever fit together."""
    long = _most([path for path in paths if path.is_long], goal)
    short = _most([path for path in paths if not path.is_long], goal)
    likely = short[: MAX_PATHS - 1 - min(LONG_PATHS, len(long))]
    return likely + long[: MAX_PATHS - 1 - len(likely)]


def _most(paths: Sequence[Path], goal: Goal) -> list[Path]:
    """Those that pay anything, the most first, no more of the same kinds than legs."""
    parts = [max(1, goal.amount >> halved) for halved in range(1, HALVED + 1)]
    paying = [(next(filter(None, map(path.amount_out, parts)), 0), path) for path in paths]
    found = []
    alike: dict[tuple[str, ...], int] = {}
    for paid, path in sorted(paying, key=lambda each: (-each[0], each[1].addresses)):
        alike[path.kinds] = alike.get(path.kinds, 0) + 1
        if paid and alike[path.kinds] <= goal.max_legs:
            found.append(path)
    return found


def _divided(paths: Sequence[Path], goal: Goal, bar: int) -> list[Part] | None:
    def cost(chosen: Sequence[int]) -> int | None:
        kinds: tuple[str, ...] = ()
        pools: tuple[str, ...] = ()
        for index in chosen:
            kinds += paths[index].kinds
            pools += paths[index].addresses
        # A pool that was swapped in is not the pool that was quoted.
        if len(kinds) > goal.max_legs or len(set(pools)) < len(pools):
            return None
        # Token paid, token received, and one more for each path that is long.
        if not fits(kinds, 2 + len(kinds) - len(chosen)):
            return None
        return goal.cost(kinds)

    split = best_split([path.amount_out for path in paths], goal.amount, goal.max_legs, cost)
    if split is None or split.net <= bar:
        return None
    shares = sorted(split.shares, key=lambda share: (-share[1], share[0]))
    parts = [(paths[index], share) for index, share in shares]
    return parts if len(parts) > 1 or parts[0][0].is_long else None
