"""Exact-in quotes over consecutive price ranges, each range solved once for all amounts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

from engine.amm.fixed_point import U64_MAX
from engine.amm.swap import SwapFailed


class Rung(NamedTuple):
    """One range: what crossing it costs and pays, and what a smaller amount pays inside it."""

    cost: int
    proceeds: int
    inside: Callable[[int], int]


class Ladder:
    """Amount out for amount in, by bisection over the ranges met so far.

    Ranges are taken from `rungs` only as far as an amount needs them and kept, so the second
    quote costs little. Answers 0 beyond the last range, or where the output passes u64.
    """

    def __init__(self, rungs: Iterator[Rung]) -> None:
        self._rungs = rungs
        self._cost = [0]
        self._proceeds = [0]
        self._inside: list[Callable[[int], int]] = []

    def __call__(self, amount_in: int) -> int:
        while self._cost[-1] <= amount_in and (rung := self._next()) is not None:
            self._cost.append(self._cost[-1] + rung.cost)
            self._proceeds.append(self._proceeds[-1] + rung.proceeds)
            self._inside.append(rung.inside)
        crossed = bisect_right(self._cost, amount_in) - 1
        rest = amount_in - self._cost[crossed]
        paid = self._proceeds[crossed]
        if rest:
            if crossed == len(self._inside):
                return 0
            paid += self._inside[crossed](rest)
        return paid if paid <= U64_MAX else 0

    def _next(self) -> Rung | None:
        try:
            return next(self._rungs, None)
        except SwapFailed:
            # The program fails as soon as it comes to this range; the iterator has ended.
            return None
