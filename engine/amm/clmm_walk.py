"""A swap's way through Raydium CLMM's ranges, step by step."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from engine.amm.clmm_pool import MAX_RATE, RATE, DynamicFee, Pool
from engine.amm.fixed_point import U64_MAX, U128_MAX, ceil_div
from engine.amm.swap import no_liquidity, overflow, require_step, require_u64
from engine.amm.ticks import MAX_TICK, MIN_TICK, sqrt_price_at, tick_at


class Step(NamedTuple):
    """What happened within one range."""

    sqrt_price: int  # the price reached
    amount_in: int  # into the curve
    amount_out: int  # out of the curve, less a fee on the output
    fee: int


class Walk:
    """The price on its way through the ticks, and the fee rate it meets there.

    A dynamic fee cuts each range at every tick spacing until volatility has reached its maximum.
    """

    def __init__(self, pool: Pool, zero_for_one: bool, now: int, limit: int) -> None:
        self.down = zero_for_one
        self.limit = limit
        self.spacing = pool.tick_spacing
        self.base_rate = pool.trade_fee_rate
        self.ticks = pool.ticks
        self.sqrt_price = pool.sqrt_price_x64
        self.tick = pool.tick_current
        self.liquidity = pool.liquidity
        self.crossed = 0
        self.steps = 0
        self.dynamic = pool.dynamic_fee_info
        self.whole = True  # the range ahead is not cut
        self.index = self.tick // self.spacing
        self.accumulator = 0
        if self.dynamic is not None:
            self.dynamic = self.dynamic.referred_to(self.index, now)
            self.accumulator = self.dynamic.volatility_accumulator
        # On the way down, a tick that the price stands in comes first.
        above = bisect_right(self.ticks, (self.tick, U128_MAX))
        self.at = above - 1 if zero_for_one else above
        self._aim()

    @property
    def ended(self) -> bool:
        """Whether no tick lies ahead."""
        return not 0 <= self.at < len(self.ticks)

    def ahead(self) -> tuple[int, int]:
        """The price that the next step may reach, and the fee rate until there."""
        self.steps += 1
        require_step(self.steps)
        dynamic = self.dynamic
        if dynamic is None:
            return self.target, self.base_rate
        self.accumulator = dynamic.accumulated(self.index)
        rate = min(self.base_rate + dynamic.rate(self.accumulator, self.spacing), MAX_RATE)
        self.whole = self.liquidity == 0 or self.accumulator == dynamic.max_volatility_accumulator
        if self.whole:
            return self.target, rate
        edge = (self.index if self.down else self.index + 1) * self.spacing
        edge_price = sqrt_price_at(min(max(edge, MIN_TICK), MAX_TICK))
        return (max if self.down else min)(self.target, edge_price), rate

    def move(self, sqrt_price: int) -> None:
        """To where the step has come; a tick that lies just there is crossed."""
        tick, net = self.ticks[self.at]
        crossing = sqrt_price == self.tick_price
        if crossing:
            self.tick = tick - 1 if self.down else tick
        elif sqrt_price != self.sqrt_price:
            self.tick = tick_at(sqrt_price)
        self.sqrt_price = sqrt_price
        if self.dynamic is not None:
            self._turn_index(self.dynamic, tick if crossing else self.tick)
        if crossing:
            self.liquidity += -net if self.down else net
            if not 0 <= self.liquidity <= U128_MAX:
                overflow(f"liquidity {self.liquidity}")
            self.crossed += 1
            self.at += -1 if self.down else 1
            self._aim()

    def _aim(self) -> None:
        if 0 <= self.at < len(self.ticks):
            self.tick_price = sqrt_price_at(self.ticks[self.at][0])
            self.target = (max if self.down else min)(self.tick_price, self.limit)

    def _turn_index(self, dynamic: DynamicFee, landed: int) -> None:
        """On to the next tick spacing, as far as the program knows which one that is."""
        if self.whole:
            self.index = landed // self.spacing
            if not self.down and landed % self.spacing == 0:
                self.index -= 1
            if self.accumulator != dynamic.max_volatility_accumulator:
                self.accumulator = dynamic.accumulated(self.index)
        self.index += -1 if self.down else 1


def _amount_0(lower: int, upper: int, liquidity: int, *, up: bool) -> int:
    numerator, denominator = liquidity * (upper - lower) << 64, lower * upper
    return ceil_div(numerator, denominator) if up else numerator // denominator


def _amount_1(lower: int, upper: int, liquidity: int, *, up: bool) -> int:
    product = liquidity * (upper - lower)
    return -(-product >> 64) if up else product >> 64


def amount_in_between(start: int, end: int, liquidity: int) -> int:
    """To move the price from `start` to `end`, rounded up."""
    if end < start:
        return _amount_0(end, start, liquidity, up=True)
    return _amount_1(start, end, liquidity, up=True)


def amount_out_between(start: int, end: int, liquidity: int) -> int:
    """Paid while the price moves from `start` to `end`, rounded down."""
    if end < start:
        return _amount_1(end, start, liquidity, up=False)
    return _amount_0(start, end, liquidity, up=False)


def price_after_input(price: int, liquidity: int, amount: int, zero_for_one: bool) -> int:
    """Rounded so that it never moves too far."""
    if liquidity == 0:
        no_liquidity()
    if amount == 0:
        return price
    if zero_for_one:
        scaled = liquidity << 64
        return ceil_div(scaled * price, scaled + amount * price)
    return price + (amount << 64) // liquidity


def _price_after_output(price: int, liquidity: int, amount: int, zero_for_one: bool) -> int:
    """Rounded so that it never moves too little."""
    if zero_for_one:
        return price - ceil_div(amount << 64, liquidity)
    scaled = liquidity << 64
    if amount * price >= scaled:
        no_liquidity()
    return ceil_div(scaled * price, scaled - amount * price)


def step_in(walk: Walk, target: int, amount: int, rate: int, on_input: bool) -> Step:
    """At most `amount` in, towards `target`: reached if the amount less its fee covers the way."""
    price, liquidity = walk.sqrt_price, walk.liquidity
    usable = amount * (RATE - rate) // RATE if on_input else amount
    amount_in = amount_in_between(price, target, liquidity)
    # An amount beyond u64 makes the target unreachable.
    reached = amount_in <= min(usable, U64_MAX)
    if not reached:
        target = price_after_input(price, liquidity, usable, walk.down)
        amount_in = require_u64("amount in", amount_in_between(price, target, liquidity))
    amount_out = require_u64("amount out", amount_out_between(price, target, liquidity))
    if not on_input:
        fee = ceil_div(amount_out * rate, RATE)
        return Step(target, amount_in if reached else amount, amount_out - fee, fee)
    fee = ceil_div(amount_in * rate, RATE - rate) if reached else amount - amount_in
    return Step(target, amount_in, amount_out, fee)


def step_out(walk: Walk, target: int, amount: int, rate: int, on_input: bool) -> Step:
    """At most `amount` out, towards `target`: reached if the amount with its fee is there."""
    price, liquidity = walk.sqrt_price, walk.liquidity
    wanted = amount if on_input else ceil_div(amount * RATE, RATE - rate)
    amount_out = amount_out_between(price, target, liquidity)
    if amount_out > min(wanted, U64_MAX):
        target = _price_after_output(price, liquidity, wanted, walk.down)
        amount_out = require_u64("amount out", amount_out_between(price, target, liquidity))
    amount_in = require_u64("amount in", amount_in_between(price, target, liquidity))
    if on_input:
        fee = ceil_div(amount_in * rate, RATE - rate)
        return Step(target, amount_in, min(amount_out, amount), fee)
    # What rounding yields beyond the amount becomes fee.
    fee = max(ceil_div(amount_out * rate, RATE), amount_out - amount)
    return Step(target, amount_in, amount_out - fee, fee)
