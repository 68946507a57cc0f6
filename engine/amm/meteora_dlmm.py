"""Meteora DLMM: bins of constant price, each sold empty before the next.

Program LBUZKhRxPF3XUpBCjp4YzTKgLccjZhTSDM9YuVaPwxo, as in dlmm-sdk
`commons/src/{quote.rs,extensions/{lb_pair,bin}.rs,math}`. A price is token Y per token X as Q64.64
u128, amounts are u64, intermediates u256, fee rates parts per thousand million. Input and fees round
up, output down; the liquidity providers' fee stays outside the bins. Limit orders in bins are not
computed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

from engine.amm.fixed_point import ONE, U64_MAX, ceil_div, power
from engine.amm.ladder import Ladder, Rung
from engine.amm.snapshot import Fields
from engine.amm.swap import Swap, no_liquidity, no_output, overflow, require_amount, require_u64

RATE: Final = 1_000_000_000
MAX_RATE: Final = 100_000_000
BASIS_POINTS: Final = 10_000
# What volatility is divided by; rounded up.
VARIABLE_SCALE: Final = 100_000_000_000
# collect_fee_mode: from the token paid in, or always in token Y.
ON_INPUT: Final = 0
ON_TOKEN_Y: Final = 1
MAX_BIN_ID: Final = 443636


@dataclass(frozen=True, slots=True)
class Parameters:
    """LbPair's static parameters."""

    base_factor: int
    filter_period: int  # seconds
    decay_period: int  # seconds
    reduction_factor: int  # basis points
    variable_fee_control: int
    max_volatility_accumulator: int
    protocol_share: int  # basis points of the fee
    base_fee_power_factor: int = 0
    collect_fee_mode: int = ON_INPUT


@dataclass(frozen=True, slots=True)
class Volatility:
    """LbPair's variable parameters: how far swaps have lately moved the active bin."""

    volatility_accumulator: int
    volatility_reference: int
    index_reference: int
    last_update_timestamp: int


@dataclass(frozen=True, slots=True)
class Pool:
    """LbPair with its bins as (bin_id, amount_x, amount_y), ascending; others are empty."""

    bin_step: int  # basis points
    active_id: int
    parameters: Parameters
    v_parameters: Volatility
    bins: tuple[tuple[int, int, int], ...]
    protocol_fee_x: int = 0
    protocol_fee_y: int = 0

    def fee_on_input(self, swap_for_y: bool) -> bool:
        """Whether the fee is in the token paid in."""
        return self.parameters.collect_fee_mode == ON_INPUT or not swap_for_y

    def referred(self, now: int) -> tuple[int, int]:
        """Index and volatility that a swap at `now` counts from.

        Kept within the filter period; afterwards the active bin, and what has not decayed yet.
        """
        elapsed = now - self.v_parameters.last_update_timestamp
        if elapsed < self.parameters.filter_period:
            return self.v_parameters.index_reference, self.v_parameters.volatility_reference
        if elapsed >= self.parameters.decay_period:
            return self.active_id, 0
        volatility = self.v_parameters.volatility_accumulator
        return self.active_id, volatility * self.parameters.reduction_factor // BASIS_POINTS

    def fee_rate(self, accumulator: int) -> int:
        """The base fee and what volatility adds to it, at most a tenth."""
        fixed = self.parameters
        rate = fixed.base_factor * self.bin_step * 10 * 10**fixed.base_fee_power_factor
        if fixed.variable_fee_control:
            square = (accumulator * self.bin_step) ** 2
            rate += ceil_div(fixed.variable_fee_control * square, VARIABLE_SCALE)
        return min(rate, MAX_RATE)


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


@dataclass(frozen=True, slots=True)
class BinSwap(Swap[Pool]):
    """A swap through bins, with what each of them contributed."""

    fills: tuple[Fill, ...]


@lru_cache(maxsize=65_536)
def price_of(bin_id: int, bin_step: int) -> int:
    """(1 + bin_step / 10000) ** bin_id as Q64.64, in the program's own roundings."""
    price = power(ONE + (bin_step << 64) // BASIS_POINTS, bin_id)
    if price is None:
        overflow(f"the price of bin {bin_id}")
    return price


def load(data: Mapping[str, Any]) -> Pool:
    """A pool by the field names of LbPair; `bins` as [[bin_id, amount_x, amount_y], …].

    parameters and v_parameters may be called params and v. Raises InvalidSnapshot.
    """
    fields = Fields(data)
    fixed = fields.inner("parameters", "params")
    volatility = fields.inner("v_parameters", "v")
    bins = fields.rows("bins", (-MAX_BIN_ID, MAX_BIN_ID), (0, U64_MAX), (0, U64_MAX))
    return Pool(
        bin_step=fields.between(1, 2**16 - 1, "bin_step"),
        active_id=fields.between(-MAX_BIN_ID, MAX_BIN_ID, "active_id"),
        parameters=Parameters(
            base_factor=fixed.unsigned(16, "base_factor"),
            filter_period=fixed.unsigned(16, "filter_period"),
            decay_period=fixed.unsigned(16, "decay_period"),
            reduction_factor=fixed.unsigned(16, "reduction_factor"),
            variable_fee_control=fixed.unsigned(32, "variable_fee_control"),
            max_volatility_accumulator=fixed.unsigned(32, "max_volatility_accumulator"),
            protocol_share=fixed.between(0, BASIS_POINTS, "protocol_share"),
            base_fee_power_factor=fixed.unsigned(8, "base_fee_power_factor", default=0),
            collect_fee_mode=fixed.between(
                ON_INPUT, ON_TOKEN_Y, "collect_fee_mode", default=ON_INPUT
            ),
        ),
        v_parameters=Volatility(
            volatility_accumulator=volatility.unsigned(32, "volatility_accumulator"),
            volatility_reference=volatility.unsigned(32, "volatility_reference"),
            index_reference=volatility.signed(32, "index_reference"),
            last_update_timestamp=volatility.signed(64, "last_update_timestamp"),
        ),
        bins=tuple(sorted((bin_id, x, y) for bin_id, x, y in bins)),
        protocol_fee_x=fields.unsigned(64, "protocol_fee_x", default=0),
        protocol_fee_y=fields.unsigned(64, "protocol_fee_y", default=0),
    )


def quote_exact_in(pool: Pool, amount_in: int, zero_for_one: bool, now: int) -> BinSwap:
    """Pay exactly `amount_in` of X (zero_for_one), or of Y, at `now` (unix seconds).

    Raises SwapFailed.
    """
    swap = fill_exact_in(pool, amount_in, zero_for_one, now)
    if swap.amount_out == 0:
        no_output()
    return swap


def fill_exact_in(pool: Pool, amount_in: int, zero_for_one: bool, now: int) -> BinSwap:
    """What quote_exact_in computes, before the program refuses an output of zero."""
    require_amount(amount_in)
    remaining = amount_in
    fills = []
    for offer in _offers(pool, zero_for_one, now):
        fill = offer.take(remaining)
        fills.append(fill)
        remaining -= fill.amount_in
        if remaining == 0:
            return _swap(pool, zero_for_one, now, fills)
    no_liquidity()


def quote_exact_out(pool: Pool, amount_out: int, zero_for_one: bool, now: int) -> BinSwap:
    """Receive exactly `amount_out` of Y (zero_for_one), or of X, at `now` (unix seconds).

    Raises SwapFailed.
    """
    require_amount(amount_out)
    remaining = amount_out
    fills = []
    for offer in _offers(pool, zero_for_one, now):
        fill = offer.give(remaining)
        fills.append(fill)
        remaining -= fill.amount_out
        if remaining == 0:
            return _swap(pool, zero_for_one, now, fills)
    no_liquidity()


def exact_in_curve(pool: Pool, zero_for_one: bool, now: int) -> Callable[[int], int]:
    """Amount out for any u64 amount in, 0 where the program refuses; for many quotes of one pool."""
    return Ladder(offer.rung() for offer in _offers(pool, zero_for_one, now))


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


def _offers(pool: Pool, swap_for_y: bool, now: int) -> Iterator[Offer]:
    """The bins that hold the token asked for, from the active one on."""
    index, volatility = pool.referred(now)
    most = pool.parameters.max_volatility_accumulator
    bins, side = pool.bins, 2 if swap_for_y else 1
    on_input = pool.fee_on_input(swap_for_y)
    first = bisect_left(bins, (pool.active_id + 1,) if swap_for_y else (pool.active_id,))
    order = range(first - 1, -1, -1) if swap_for_y else range(first, len(bins))
    for at in order:
        held = bins[at]
        available = held[side]
        if available == 0:
            continue
        accumulator = min(volatility + abs(index - held[0]) * BASIS_POINTS, most)
        yield Offer(
            held[0],
            price_of(held[0], pool.bin_step),
            available,
            swap_for_y,
            on_input,
            pool.fee_rate(accumulator),
            pool.parameters.protocol_share,
            accumulator,
        )


def _swap(pool: Pool, swap_for_y: bool, now: int, fills: list[Fill]) -> BinSwap:
    amount_in = require_u64("amount in", sum(fill.amount_in for fill in fills))
    amount_out = require_u64("amount out", sum(fill.amount_out for fill in fills))
    fee = sum(fill.fee for fill in fills)
    protocol_fee = sum(fill.protocol_fee for fill in fills)
    on_input = pool.fee_on_input(swap_for_y)
    price = price_of(fills[0].bin_id, pool.bin_step)
    fee_in_x = on_input and swap_for_y
    return BinSwap(
        amount_in=amount_in,
        amount_out=amount_out,
        net_in=amount_in - (fee if on_input else 0),
        gross_out=amount_out + (0 if on_input else fee),
        spot=(price, ONE) if swap_for_y else (ONE, price),
        fee=fee,
        fee_on_input=on_input,
        protocol_fee=protocol_fee,
        fund_fee=0,
        lp_fee=fee - protocol_fee,
        creator_fee=0,
        pool=Pool(
            pool.bin_step,
            fills[-1].bin_id,
            pool.parameters,
            _volatility_after(pool, now, fills[-1]),
            _bins_after(pool, swap_for_y, fills),
            pool.protocol_fee_x + (protocol_fee if fee_in_x else 0),
            pool.protocol_fee_y + (0 if fee_in_x else protocol_fee),
        ),
        fills=tuple(fills),
    )


def _volatility_after(pool: Pool, now: int, last: Fill) -> Volatility:
    index, volatility = pool.referred(now)
    # A swap inside one bin leaves the time, so what it refers to goes on decaying.
    moved = last.bin_id != pool.active_id
    timestamp = now if moved else pool.v_parameters.last_update_timestamp
    return Volatility(last.accumulator, volatility, index, timestamp)


def _bins_after(
    pool: Pool, swap_for_y: bool, fills: list[Fill]
) -> tuple[tuple[int, int, int], ...]:
    bins = list(pool.bins)
    for fill in fills:
        at = bisect_left(bins, (fill.bin_id,))
        bin_id, x, y = bins[at]
        if swap_for_y:
            bins[at] = (bin_id, require_u64("amount_x", x + fill.into_bin), y - fill.out_of_bin)
        else:
            bins[at] = (bin_id, x - fill.out_of_bin, require_u64("amount_y", y + fill.into_bin))
    return tuple(bins)
