"""Unsigned integers of a given width, and Q64.64 fixed point: 64 whole bits, 64 fractional."""

from __future__ import annotations

from typing import Final

U64_MAX: Final = 2**64 - 1
U128_MAX: Final = 2**128 - 1
ONE: Final = 1 << 64
# 19 bits reach every bin and every scheduler period of the programs.
_POWER_BITS: Final = 19


def ceil_div(numerator: int, denominator: int) -> int:
    """The quotient of two non-negative integers, rounded up."""
    return -(-numerator // denominator)


def power(base: int, exponent: int) -> int | None:
    """base ** exponent in Q64.64, cut to 64 fractional bits after every multiplication.

    Meteora's programs square and multiply on the inverse of a base of one or more, because its
    squares stay below one; the low bits of the result depend on it. None where they overflow.
    """
    if exponent == 0:
        return ONE
    invert, bits = exponent < 0, abs(exponent)
    if bits >> _POWER_BITS:
        return None
    if base >= ONE:
        base = U128_MAX // base
        invert = not invert
    result = ONE
    while bits:
        if bits & 1:
            result = result * base >> 64
        base = base * base >> 64
        bits >>= 1
    if result == 0:
        return None
    return U128_MAX // result if invert else result
