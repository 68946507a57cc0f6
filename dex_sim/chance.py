"""Random draws that a seed repeats."""

from __future__ import annotations

from collections import defaultdict
from hashlib import blake2b, shake_128
from struct import unpack
from typing import NamedTuple


class Range(NamedTuple):
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int


class Chance:
    """Draws keyed by (seed, venue, call, n): independent of each other and of their order."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._drawn: defaultdict[tuple[str, str], int] = defaultdict(int)

    def draw(self, venue: str, call: str, n: int, within: Range) -> int:
        """The n-th number for this call; always the same."""
        key = f"{self._seed}/{venue}/{call}/{n}".encode()
        number = int.from_bytes(blake2b(key, digest_size=8).digest(), "big")
        return within.low + number % (within.high - within.low + 1)

    def draws(self, venue: str, call: str, n: int, within: Range, count: int) -> list[int]:
        """`count` numbers for the n-th time of this call; always the same."""
        key = f"{self._seed}/{venue}/{call}/{n}".encode()
        low, span = within.low, within.high - within.low + 1
        return [
            low + number % span for number in unpack(f">{count}Q", shake_128(key).digest(8 * count))
        ]

    def next(self, venue: str, call: str, within: Range) -> int:
        """The number after the last one for this call, counted from the process's start."""
        if within.low == within.high:
            return within.low
        n = self._drawn[venue, call]
        self._drawn[venue, call] = n + 1
        return self.draw(venue, call, n, within)
