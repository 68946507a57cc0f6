"""What a swap against one pool comes to, or why the program refuses it."""

from __future__ import annotations

from fractions import Fraction
from typing import Final, Generic, NamedTuple, NoReturn, TypeVar

import msgspec

from engine.amm.fixed_point import U64_MAX, ceil_div
from engine.errors import EngineError
from engine.fractions import PPM

P = TypeVar("P")
IMPACT_DECIMALS: Final = 12
# Of a swap; a transaction's compute units are used up by a hundred or so.
MAX_STEPS: Final = 512


class SwapFailed(EngineError):
    """The program would fail: `reason` is one of a few words that all venues share.

    ZERO_AMOUNT, ZERO_OUTPUT, INSUFFICIENT_LIQUIDITY, PRICE_RANGE_VIOLATION, PRICE_LIMIT,
    ZERO_TRADING_TOKENS, MATH_OVERFLOW; or, for want of ours, UNSUPPORTED_FEE_MODE, NOT_COMPUTED.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Margin(NamedTuple):
    """Output per input before a swap moves anything; each as numerator, denominator."""

    spot: tuple[int, int]  # before fees
    best: tuple[int, int]  # fees taken, at the lowest rate ahead: no amount is paid better


class Paid(NamedTuple):
    """What one swap comes to for the trader, who does not care for the pool afterwards.

    As in Swap; that the pool's accounts can hold what they are then due is not looked at.
    """

    amount_in: int
    amount_out: int
    net_in: int
    gross_out: int
    spot: tuple[int, int]

    @property
    def price_impact_ppm(self) -> int:
        """How far below the price that it started from it was paid, fees aside; rounded up."""
        return _impact_ppm(self.net_in, self.gross_out, self.spot)


class Swap(msgspec.Struct, Generic[P], frozen=True):
    """The outcome of one swap; every amount in base units.

    The pool's fee is `fee`, taken from the token paid in or from the one paid out, and is
    protocol_fee + fund_fee + lp_fee. A creator's fee comes on top of it.
    """

    amount_in: int  # what the trader pays, fees included
    amount_out: int  # what the trader receives, fees taken
    net_in: int  # what of it reached the curve
    gross_out: int  # what left the curve
    spot: tuple[int, int]  # output per input at the margin before: numerator, denominator
    fee: int
    fee_on_input: bool
    protocol_fee: int
    fund_fee: int
    lp_fee: int
    creator_fee: int
    pool: P  # the pool afterwards

    @property
    def price_impact_ppm(self) -> int:
        """price_impact_curve in parts per million, rounded up; 0 if fees took all input."""
        return _impact_ppm(self.net_in, self.gross_out, self.spot)

    @property
    def price_impact_curve(self) -> Fraction | None:
        """1 - (gross_out / net_in) / spot: what the curve costs. None if fees took all input."""
        return self._impact(self.gross_out, self.net_in)

    @property
    def price_impact_total(self) -> Fraction | None:
        """1 - (amount_out / amount_in) / spot: what the trader loses against mid, fees too."""
        return self._impact(self.amount_out, self.amount_in)

    def _impact(self, paid: int, given: int) -> Fraction | None:
        numerator, denominator = self.spot
        return 1 - Fraction(paid * denominator, given * numerator) if given else None


def _impact_ppm(net_in: int, gross_out: int, spot: tuple[int, int]) -> int:
    numerator, denominator = spot
    at_spot = net_in * numerator
    if not at_spot:
        return 0
    return max(0, ceil_div((at_spot - gross_out * denominator) * PPM, at_spot))


def decimals(ratio: Fraction | None) -> str | None:
    """A ratio with 12 decimal places, rounded half to even: "0.002520297495"."""
    if ratio is None:
        return None
    scaled = round(ratio * 10**IMPACT_DECIMALS)
    whole, fraction = divmod(abs(scaled), 10**IMPACT_DECIMALS)
    return f"{'-' * (scaled < 0)}{whole}.{fraction:0{IMPACT_DECIMALS}d}"


def require_amount(amount: int) -> None:
    """Refuse an amount that no program takes: it must be in 1 … 2^64-1."""
    if not 0 < amount <= U64_MAX:
        if amount == 0:
            raise SwapFailed("ZERO_AMOUNT", "the amount is zero")
        overflow(f"amount {amount}")


def require_u64(what: str, value: int) -> int:
    """`value`, if a u64 holds it; the programs fail where it does not."""
    if not 0 <= value <= U64_MAX:
        overflow(f"{what} {value}")
    return value


def require_step(steps: int) -> None:
    """Refuse to follow a swap further: this many price ranges are more than a transaction passes.

    Without a bound, whoever tells of a pool with a million ranges decides how long a quote takes.
    """
    if steps > MAX_STEPS:
        raise SwapFailed("NOT_COMPUTED", f"the amount passes more than {MAX_STEPS} price ranges")


def overflow(what: str) -> NoReturn:
    """The program's arithmetic would overflow."""
    raise SwapFailed("MATH_OVERFLOW", f"{what} does not fit its width")


def no_output() -> NoReturn:
    """Nothing would be paid out, which the program refuses."""
    raise SwapFailed("ZERO_OUTPUT", "the amount is too small: nothing would be paid out")


def no_liquidity() -> NoReturn:
    """The pool does not hold what the swap needs."""
    raise SwapFailed("INSUFFICIENT_LIQUIDITY", "the pool holds too little for this amount")
