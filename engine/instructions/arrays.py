"""Which tick or bin arrays a swap goes through: its instruction names their accounts.

An array that holds nothing has no account, and none is asked for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import neg
from typing import Any, Final

from solders.pubkey import Pubkey

from engine.amm import raydium_clmm
from engine.instructions.meteora import bin_array
from engine.instructions.raydium import tick_array

TICKS_AN_ARRAY: Final = 60
BINS_AN_ARRAY: Final = 70
# What a venue may name for one swap: hardly more fit into a transaction.
MAX_ARRAYS: Final = 8


@dataclass(frozen=True, slots=True)
class Arrays:
    """How one kind of pool keeps its liquidity in arrays, numbered by start tick or by index."""

    address: Callable[[Pubkey, int], Pubkey]
    # All of a state, ascending.
    existing: Callable[[Any], tuple[int, ...]]
    # Where a swap starts, and which it asks for last when it ends in this state, going down or up.
    first: Callable[[Any], int]
    last: Callable[[Any, bool], int]


def _occupied(rows: Sequence[tuple[int, ...]], span: int) -> list[int]:
    """Which arrays of so many ticks or bins hold these rows, ascending; array 0 begins at 0."""
    indexes, at = [], 0
    while at < len(rows):
        index = rows[at][0] // span
        indexes.append(index)
        at = bisect_left(rows, ((index + 1) * span,), at)
    return indexes


def _tick_arrays(state: raydium_clmm.Pool) -> tuple[int, ...]:
    span = TICKS_AN_ARRAY * state.tick_spacing
    return tuple([index * span for index in _occupied(state.ticks, span)])


def _tick_array_of(tick: int, state: raydium_clmm.Pool) -> int:
    span = TICKS_AN_ARRAY * state.tick_spacing
    return tick // span * span


def _last_tick_array(state: raydium_clmm.Pool, down: bool) -> int:
    # The program looks for the next initialized tick though the price stops before it.
    after = bisect_left(state.ticks, (state.tick_current + 1,))
    ahead = state.ticks[:after][-1:] if down else state.ticks[after : after + 1]
    return _tick_array_of(ahead[0][0] if ahead else state.tick_current, state)


ARRAYS_OF_KIND: Final[Mapping[str, Arrays]] = {
    "raydium_clmm": Arrays(
        address=tick_array,
        existing=_tick_arrays,
        first=lambda state: _tick_array_of(state.tick_current, state),
        last=_last_tick_array,
    ),
    "meteora_dlmm": Arrays(
        address=bin_array,
        existing=lambda state: tuple(_occupied(state.bins, BINS_AN_ARRAY)),
        first=lambda state: state.active_id // BINS_AN_ARRAY,
        last=lambda state, down: state.active_id // BINS_AN_ARRAY,
    ),
}


def existing_arrays(kind: str, state: Any) -> tuple[int, ...]:
    """All arrays of a pool in this state, ascending; none for kinds without arrays."""
    arrays = ARRAYS_OF_KIND.get(kind)
    return () if arrays is None else arrays.existing(state)


def needed_arrays(
    kind: str, existing: tuple[int, ...], before: Any, after: Any, zero_for_one: bool
) -> tuple[int, ...]:
    """Of the arrays that exist, those that a swap from one state to the other asks for, nearest
    first.

    None for kinds without arrays.
    """
    arrays = ARRAYS_OF_KIND.get(kind)
    if arrays is None:
        return ()
    ahead = _ahead(arrays, existing, before, zero_for_one)
    return ahead[: _needed(arrays, ahead, after, zero_for_one)]


def named_arrays(kind: str, before: Any, after: Any | None, zero_for_one: bool) -> tuple[int, ...]:
    """The arrays to name for such a swap: those it needs and a spare; at most MAX_ARRAYS.

    None for kinds without arrays. Without `after` it is not known where the swap ends: as many as
    may be.
    """
    arrays = ARRAYS_OF_KIND.get(kind)
    if arrays is None:
        return ()
    ahead = _ahead(arrays, arrays.existing(before), before, zero_for_one)
    if after is not None:
        ahead = ahead[: _needed(arrays, ahead, after, zero_for_one) + 1]
    return ahead[:MAX_ARRAYS]


def _ahead(arrays: Arrays, existing: tuple[int, ...], state: Any, down: bool) -> tuple[int, ...]:
    first = arrays.first(state)
    if down:
        return existing[: bisect_right(existing, first)][::-1]
    return existing[bisect_left(existing, first) :]


def _needed(arrays: Arrays, ahead: Sequence[int], after: Any, down: bool) -> int:
    """How many of the arrays ahead a swap that ends in this state asks for."""
    last = arrays.last(after, down)
    if down:
        return bisect_right(ahead, -last, key=neg)
    return bisect_right(ahead, last)
