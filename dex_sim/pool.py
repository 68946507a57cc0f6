"""A constant-product pool: exact integers, rounded against the trader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

PPM: Final = 1_000_000
U64_MAX: Final = 2**64 - 1

# Volatility is the sum of the blocks' price moves, each forgotten by a tenth a block.
VOLATILITY_KEPT_TENTHS: Final = 9
MAX_VOLATILE_FEE_PPM: Final = 8_000


class Unfillable(Exception):
    """The pool cannot fill this amount: too little or too much would come out."""


@dataclass(frozen=True, slots=True)
class FeeRule:
    """What a swap costs: a base, and on top a percentage of the pool's volatility."""

    base_ppm: int
    volatility_percent: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """What a swap of some amount yields; in base units, the fee in those of the mint paid."""

    amount_out: int
    fee: int
    price_impact_ppm: int


class Pool(NamedTuple):
    """Two reserves in base units, unbounded. Verbs return the next state.

    `reference_a` and `reference_b` are worth the same at the pair's long-run price.
    """

    address: str
    venue: str
    mint_a: str
    mint_b: str
    fee_rule: FeeRule
    reference_a: int
    reference_b: int
    reserve_a: int
    reserve_b: int
    volatility_ppm: int = 0

    @property
    def fee_ppm(self) -> int:
        """The fee now; it changes between blocks only."""
        volatile = self.volatility_ppm * self.fee_rule.volatility_percent // 100
        return self.fee_rule.base_ppm + min(volatile, MAX_VOLATILE_FEE_PPM)

    def trades(self, mint_in: str, mint_out: str) -> bool:
        """Whether this is a pool for that pair, in either direction."""
        return {mint_in, mint_out} == {self.mint_a, self.mint_b}

    def offer(self, mint_in: str, amount_in: int) -> Offer:
        """What `amount_in` yields now; Unfillable when that is nothing or more than u64."""
        reserve_in, reserve_out = (
            (self.reserve_a, self.reserve_b)
            if mint_in == self.mint_a
            else (self.reserve_b, self.reserve_a)
        )
        fee = _ceil_div(amount_in * self.fee_ppm, PPM)
        net = amount_in - fee
        amount_out = net * reserve_out // (reserve_in + net)
        if not 0 < amount_out <= U64_MAX:
            raise Unfillable(f"{amount_in} would yield {amount_out}")
        at_spot = net * reserve_out
        impact = _ceil_div((at_spot - amount_out * reserve_in) * PPM, at_spot)
        return Offer(amount_out, fee, impact)

    def after(self, mint_in: str, amount_in: int, amount_out: int) -> Pool:
        """The pool once it took `amount_in` of that mint and gave `amount_out` of the other."""
        change_a, change_b = (
            (amount_in, -amount_out) if mint_in == self.mint_a else (-amount_out, amount_in)
        )
        return self._replace(
            reserve_a=self.reserve_a + change_a, reserve_b=self.reserve_b + change_b
        )

    @property
    def stands(self) -> bool:
        """Whether it holds something of both."""
        return self.reserve_a > 0 and self.reserve_b > 0

    def deviation_ppm(self) -> int:
        """How far the price of a in b stands above (or below) the long-run price."""
        return _move_ppm(self.reference_a, self.reference_b, self.reserve_a, self.reserve_b)

    def moved(self, ppm: int) -> Pool:
        """The pool with its price of a in b moved by `ppm`; the product of reserves stays.

        To the first order: sqrt(1 + m) is taken as 1 + m/2. Rounding leaves the product higher.
        """
        reserve_a, reserve_b = self._moved(ppm)
        return self._replace(reserve_a=reserve_a, reserve_b=reserve_b)

    def settled(self, before: Pool, ppm: int) -> Pool:
        """The pool at a block's end: moved by `ppm`, its volatility brought up from the block
        `before`."""
        a, b = self._moved(ppm) if ppm else (self.reserve_a, self.reserve_b)
        move = abs(_move_ppm(before.reserve_a, before.reserve_b, a, b))
        volatility = before.volatility_ppm * VOLATILITY_KEPT_TENTHS // 10 + min(move, PPM)
        return self._replace(reserve_a=a, reserve_b=b, volatility_ppm=volatility)

    def _moved(self, ppm: int) -> tuple[int, int]:
        reserve_a = max(1, self.reserve_a * 2 * PPM // (2 * PPM + ppm))
        return reserve_a, _ceil_div(self.reserve_a * self.reserve_b, reserve_a)


def _move_ppm(from_a: int, from_b: int, to_a: int, to_b: int) -> int:
    return (to_b * from_a - from_b * to_a) * PPM // (from_b * to_a)


def _ceil_div(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
