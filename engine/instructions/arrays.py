"""Which tick or bin arrays a swap goes through: its instruction names their accounts.

An array that holds nothing has no account, and none is asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


def _tick_array_of(tick: int, state: raydium_clmm.Pool) -> int:
    span = TICKS_AN_ARRAY * state.tick_spacing
    return tick // span * span


def _last_tick_array(state: raydium_clmm.Pool, down: bool) -> int:
    # The program looks for the next initialized tick though the price stops before it.
    after = bisect_right(state.ticks, state.tick_current, key=lambda row: row[0])
    ahead = state.ticks[:after][-1:] if down else state.ticks[after : after + 1]
    return _tick_array_of(ahead[0][0] if ahead else state.tick_current, state)


ARRAYS_OF_KIND: Final[Mapping[str, Arrays]] = {
    "raydium_clmm": Arrays(
        address=tick_array,
        existing=lambda state: tuple(
            dict.fromkeys([_tick_array_of(tick, state) for tick, _ in state.ticks])
        ),
        first=lambda state: _tick_array_of(state.tick_current, state),
        last=_last_tick_array,
    ),
    "meteora_dlmm": Arrays(
        address=bin_array,
        existing=lambda state: tuple(
            dict.fromkeys([bin_id // BINS_AN_ARRAY for bin_id, _, _ in state.bins])
        ),
        first=lambda state: state.active_id // BINS_AN_ARRAY,
        last=lambda state, down: state.active_id // BINS_AN_ARRAY,
    ),
}


def needed_arrays(kind: str, before: Any, after: Any, zero_for_one: bool) -> tuple[int, ...]:
    """The arrays that a swap from one state to the other asks for, nearest first.

    None for kinds without arrays.
    """
    arrays = ARRAYS_OF_KIND.get(kind)
    if arrays is None:
        return ()
    last = arrays.last(after, zero_for_one)
    ahead = _ahead(arrays, before, zero_for_one)
    return tuple([each for each in ahead if (each >= last if zero_for_one else each <= last)])


def named_arrays(kind: str, before: Any, after: Any | None, zero_for_one: bool) -> tuple[int, ...]:
    """The arrays to name for such a swap: those it needs and a spare; at most MAX_ARRAYS.

    None for kinds without arrays. Without `after` it is not known where the swap ends: as many as
    may be.
    """
    arrays = ARRAYS_OF_KIND.get(kind)
    if arrays is None:
        return ()
    ahead = _ahead(arrays, before, zero_for_one)[:MAX_ARRAYS]
    if after is None:
        return ahead
    return ahead[: len(needed_arrays(kind, before, after, zero_for_one)) + 1]


def _ahead(arrays: Arrays, state: Any, down: bool) -> tuple[int, ...]:
    first = arrays.first(state)
    if down:
        return tuple([each for each in reversed(arrays.existing(state)) if each <= first])
    return tuple([each for each in arrays.existing(state) if each >= first])
