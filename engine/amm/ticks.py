"""Raydium CLMM's ticks: sqrt(1.0001) ** tick as Q64.64, in the program's own roundings."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

from engine.amm.fixed_point import ONE, U128_MAX

MIN_TICK: Final = -443636
MAX_TICK: Final = 443636
MIN_SQRT_PRICE: Final = 4295048016
MAX_SQRT_PRICE: Final = 79226673521066979257578248091

# 2^64 / sqrt(1.0001) ** 2^i, as the program's source has them.
_FACTORS: Final = (
    0xFFFCB933BD6FB800,
    0xFFF97272373D4000,
    0xFFF2E50F5F657000,
    0xFFE5CACA7E10F000,
    0xFFCB9843D60F7000,
    0xFF973B41FA98E800,
    0xFF2EA16466C9B000,
    0xFE5DEE046A9A3800,
    0xFCBE86C7900BB000,
    0xF987A7253AC65800,
    0xF3392B0822BB6000,
    0xE7159475A2CAF000,
    0xD097F3BDFD2F2000,
    0xA9F746462D9F8000,
    0x70D869A156F31C00,
    0x31BE135F97ED3200,
    0x9AA508B5B85A500,
    0x5D6AF8DEDC582C,
    0x2216E584F5FA,
)
_HALF_LOG: Final = math.log(1.0001) / 2


@lru_cache(maxsize=65_536)
def sqrt_price_at(tick: int) -> int:
    """The sqrt price of a tick in MIN_TICK … MAX_TICK.

    One rounded-down product a set bit of |tick|, inverted for positive ticks
    (raydium-clmm `libraries/tick_math.rs`).
    """
    price, bits, factor = ONE, abs(tick), 0
    while bits:
        if bits & 1:
            price = price * _FACTORS[factor] >> 64
        bits >>= 1
        factor += 1
    return U128_MAX // price if tick > 0 else price


def tick_at(sqrt_price: int) -> int:
    """The greatest tick whose sqrt price is at most this one, itself in the range of ticks."""
    # A logarithm only says where to look; the integers decide.
    tick = math.floor(math.log(sqrt_price / ONE) / _HALF_LOG)
    tick = min(max(tick, MIN_TICK), MAX_TICK)
    while tick > MIN_TICK and sqrt_price_at(tick) > sqrt_price:
        tick -= 1
    while tick < MAX_TICK and sqrt_price_at(tick + 1) <= sqrt_price:
        tick += 1
    return tick
