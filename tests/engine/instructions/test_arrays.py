"""Which arrays a swap asks for, and which are named to be safe."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from solders.pubkey import Pubkey

from engine.amm import meteora_dlmm, raydium_clmm
from engine.instructions.arrays import (
    ARRAYS_OF_KIND,
    MAX_ARRAYS,
    existing_arrays,
    named_arrays,
    needed_arrays,
)
from engine.instructions.swap import PROGRAM_OF_KIND
from tests import swaps

# Ten ticks apart, so that an array spans 600: these lie in those of -1200, -600, 0 and 1200.
TICKS = (-700, -310, -10, 10, 1250)
CLMM = raydium_clmm.load(
    {
        "tick_spacing": 10,
        "trade_fee_rate": 500,
        "protocol_fee_rate": 0,
        "fund_fee_rate": 0,
        "sqrt_price_x64": 2**64,
        "tick_current": 0,
        "liquidity": 10**12,
        "ticks": [[tick, 0] for tick in TICKS],
    }
)
# In arrays -2, 0, 1 and 3.
BINS = (-100, 3, 69, 70, 215)
DLMM = meteora_dlmm.load(
    {
        "bin_step": 10,
        "active_id": 3,
        "parameters": {
            "base_factor": 10000,
            "filter_period": 30,
            "decay_period": 600,
            "reduction_factor": 5000,
            "variable_fee_control": 0,
            "max_volatility_accumulator": 350000,
            "protocol_share": 0,
        },
        "v_parameters": {
            "volatility_accumulator": 0,
            "volatility_reference": 0,
            "index_reference": 0,
            "last_update_timestamp": 0,
        },
        "bins": [[bin_id, 1000, 1000] for bin_id in BINS],
    }
)


def test_arrays_are_numbered_by_start_tick_or_by_index_rounded_down() -> None:
    assert ARRAYS_OF_KIND["raydium_clmm"].existing(CLMM) == (-1200, -600, 0, 1200)
    assert ARRAYS_OF_KIND["meteora_dlmm"].existing(DLMM) == (-2, 0, 1, 3)


@pytest.mark.parametrize(
    ("ends_at", "zero_for_one", "needed", "named"),
    [
        # Up, the price stays below 10: that tick is looked for.
        (5, False, (0,), (0, 1200)),
        # Beyond it, the next one is far away, and there is no further array to spare.
        (11, False, (0, 1200), (0, 1200)),
        # Down, the tick -10 lies in the array before the one that the swap starts in.
        (-5, True, (0, -600), (0, -600, -1200)),
        (-11, True, (0, -600), (0, -600, -1200)),
        (-311, True, (0, -600, -1200), (0, -600, -1200)),
    ],
)
def test_tick_arrays_reach_to_the_next_initialized_tick(
    ends_at: int, zero_for_one: bool, needed: tuple[int, ...], named: tuple[int, ...]
) -> None:
    after = replace(CLMM, tick_current=ends_at)

    existing = existing_arrays("raydium_clmm", CLMM)
    assert needed_arrays("raydium_clmm", existing, CLMM, after, zero_for_one) == needed
    assert named_arrays("raydium_clmm", CLMM, after, zero_for_one) == named


@pytest.mark.parametrize(
    ("ends_at", "zero_for_one", "needed", "named"),
    [
        (3, True, (0,), (0, -2)),
        (-100, True, (0, -2), (0, -2)),
        (69, False, (0,), (0, 1)),
        (70, False, (0, 1), (0, 1, 3)),
        (215, False, (0, 1, 3), (0, 1, 3)),
    ],
)
def test_bin_arrays_reach_to_the_bin_where_the_swap_ends(
    ends_at: int, zero_for_one: bool, needed: tuple[int, ...], named: tuple[int, ...]
) -> None:
    after = replace(DLMM, active_id=ends_at)

    existing = existing_arrays("meteora_dlmm", DLMM)
    assert needed_arrays("meteora_dlmm", existing, DLMM, after, zero_for_one) == needed
    assert named_arrays("meteora_dlmm", DLMM, after, zero_for_one) == named


@pytest.mark.parametrize("kind", ["raydium_cpmm", "raydium_amm_v4", "meteora_damm_v2"])
def test_other_kinds_have_no_arrays(kind: str) -> None:
    assert existing_arrays(kind, object()) == ()
    assert needed_arrays(kind, (), object(), object(), True) == ()
    assert named_arrays(kind, object(), object(), True) == ()


def test_no_more_arrays_are_named_than_may_be() -> None:
    wide = replace(DLMM, bins=tuple((70 * array, 0, 1) for array in range(20)), active_id=0)

    unknown_end = named_arrays("meteora_dlmm", wide, None, False)
    far_end = named_arrays("meteora_dlmm", wide, replace(wide, active_id=1300), False)

    assert unknown_end == far_end == tuple(range(MAX_ARRAYS))


@pytest.mark.parametrize(
    ("kind", "number", "word", "digits"),
    [
        # An i32, the most significant byte first; an i64, the least significant first.
        ("raydium_clmm", -600, b"tick_array", "fffffda8"),
        ("meteora_dlmm", -2, b"bin_array", "feffffffffffffff"),
    ],
)
def test_the_address_of_an_array_is_derived_from_its_pool_and_number(
    kind: str, number: int, word: bytes, digits: str
) -> None:
    pool = swaps.address(1)

    expected, _ = Pubkey.find_program_address(
        [word, bytes(pool), bytes.fromhex(digits)], PROGRAM_OF_KIND[kind]
    )

    assert ARRAYS_OF_KIND[kind].address(pool, number) == expected
