"""One bin of Meteora DLMM: its price, and what it takes and gives in a swap."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from engine.amm.dlmm_pool import BASIS_POINTS, RATE
from engine.amm.fixed_point import ONE, U64_MAX, ceil_div, power
from engine.amm.ladder import Rung
from engine.amm.swap import overflow, require_u64


@lru_cache(maxsize=65_536)
def price_of(bin_id: int, bin_step: int) -> int:
    """(1 + bin_step / 10000) ** bin_id as Q64.64, in the program's own roundings."""
    price = power(ONE + (bin_step << 64) // BASIS_POINTS, bin_id)
    if price is None:
        overflow(f"the price of bin {bin_id}")
    return price


class Fill(NamedTuple):
    """What one bin took and gave."""

    bin_id: int
    amount_in: int  # with a fee on the input
    amount_out: int  # less a fee on the output
    fee: int
    into_bin: int
    out_of_bin: int
    protocol_fee: int
    accumulator: int
    rate: int


class Offer(NamedTuple):
    """One bin that holds the token asked for, at the fee rate that a swap meets there."""

    bin_id: int
    price: int
    available: int
    swap_for_y: bool
    fee_on_input: bool
    rate: int
    protocol_share: int
    accumulator: int

    def worth(self, amount_in: int) -> int:
        """What the bin pays for an amount, rounded down."""
        if self.swap_for_y:
            return amount_in * self.price >> 64
        return (amount_in << 64) // self.price

    def cost(self, amount_out: int) -> int:
        """What the bin asks for an amount, rounded up."""
        if self.swap_for_y:
            return ceil_div(amount_out << 64, self.price)
        return -(-amount_out * self.price >> 64)

    def take(self, amount: int) -> Fill:
        """Of at most `amount`, fee included, what this bin can use."""
        fee = ceil_div(amount * self.rate, RATE) if self.fee_on_input else 0
        usable = amount - fee
        whole = require_u64("amount in", self.cost(self.available))
        if usable >= whole:
            used, gross = whole, self.available
        else:
            used, gross = usable, self.worth(usable)
        if usable > used:
            fee = ceil_div(used * self.rate, RATE - self.rate) if self.fee_on_input else 0
            amount = used + fee
        if not self.fee_on_input:
            fee = ceil_div(gross * self.rate, RATE)
        # A fee that ate everything has no liquidity provider to go to.
        protocol_fee = fee * self.protocol_share // BASIS_POINTS if used else fee
        net = gross if self.fee_on_input else gross - fee
        return Fill(
            self.bin_id,
            amount,
            net,
            fee,
            used,
            gross,
            protocol_fee,
            self.accumulator,
            self.rate,
        )

    def give(self, amount: int) -> Fill:
        """Of at most `amount`, fee excluded, what this bin can pay."""
        gross = amount
        if not self.fee_on_input:
            gross += ceil_div(amount * self.rate, RATE - self.rate)
        if gross >= self.available:
            return self.take(U64_MAX)
        needed = self.cost(gross)
        if self.fee_on_input:
            needed += ceil_div(needed * self.rate, RATE - self.rate)
        fill = self.take(require_u64("amount in", needed))
        # What the bin pays beyond the amount, by rounding, stays with the pool.
        surplus = 0 if self.fee_on_input else fill.amount_out - amount
        return fill._replace(amount_out=amount, protocol_fee=fill.protocol_fee + surplus)

    def rung(self) -> Rung:
        """This bin in a ladder of exact-in quotes."""
        whole = require_u64("amount in", self.cost(self.available))
        if self.fee_on_input:
            # From exactly this amount on, what the fee leaves buys the whole bin.
            return Rung(ceil_div(whole * RATE, RATE - self.rate), self.available, self._inside)
        return Rung(whole, self.available * (RATE - self.rate) // RATE, self._inside)

    def _inside(self, amount_in: int) -> int:
        if self.fee_on_input:
            return self.worth(amount_in * (RATE - self.rate) // RATE)
        return self.worth(amount_in) * (RATE - self.rate) // RATE
