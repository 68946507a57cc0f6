"""Raydium CLMM: liquidity in ranges of ticks, x * y = k within each.

Program CAMMCzo5YL8w4VFF8KVHrK22GGUsp5VTaW7grrKgrWqK, as in raydium-clmm
`libraries/{sqrt_price_math,liquidity_math,swap_math}.rs`, `instructions/swap.rs` and
`states/pool_fee.rs`. Prices are sqrt(token1 / token0) as Q64.64 u128, liquidity is u128, amounts are
u64, intermediates u256, rates parts per million. Input and fees round up, output down. Limit orders
on ticks are not computed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

from engine.amm.fixed_point import U64_MAX, U128_MAX, ceil_div
from engine.amm.ladder import Ladder, Rung
from engine.amm.snapshot import Fields
from engine.amm.swap import (
    Swap,
    SwapFailed,
    no_liquidity,
    no_output,
    overflow,
    require_amount,
    require_u64,
)
from engine.amm.ticks import (
    MAX_SQRT_PRICE,
    MAX_TICK,
    MIN_SQRT_PRICE,
    MIN_TICK,
    sqrt_price_at,
    tick_at,
)

RATE: Final = 1_000_000
MAX_RATE: Final = 100_000
# Of volatility accumulators, which count tick spacings crossed.
VOLATILITY: Final = 10_000
REDUCTION: Final = 10_000
CONTROL: Final = 100_000
# fee_on: whichever token is paid in, or always the same one.
ON_INPUT: Final = 0
ON_TOKEN_0: Final = 1
ON_TOKEN_1: Final = 2


@dataclass(frozen=True, slots=True)
class DynamicFee:
    """DynamicFeeInfo: what recent volatility adds to the fee."""

    filter_period: int  # seconds
    decay_period: int  # seconds
    reduction_factor: int
    dynamic_fee_control: int
    max_volatility_accumulator: int
    tick_spacing_index_reference: int
    volatility_reference: int
    volatility_accumulator: int
    last_update_timestamp: int

    def referred_to(self, index: int, now: int) -> DynamicFee:
        """As a swap at `now`, starting in the tick spacing `index`, finds it."""
        elapsed = max(0, now - self.last_update_timestamp)
        if elapsed < self.filter_period:
            return self
        decayed = self.volatility_accumulator * self.reduction_factor // REDUCTION
        return DynamicFee(
            self.filter_period,
            self.decay_period,
            self.reduction_factor,
            self.dynamic_fee_control,
            self.max_volatility_accumulator,
            index,
            decayed if elapsed < self.decay_period else 0,
            self.volatility_accumulator,
            now,
        )

    def accumulated(self, index: int) -> int:
        """The volatility accumulator in the tick spacing `index`."""
        crossed = abs(self.tick_spacing_index_reference - index)
        volatility = self.volatility_reference + crossed * VOLATILITY
        return min(volatility, self.max_volatility_accumulator)

    def rate(self, accumulator: int, tick_spacing: int) -> int:
        """What that adds to the fee rate, rounded up."""
        crossed = accumulator * tick_spacing
        return ceil_div(self.dynamic_fee_control * crossed * crossed, CONTROL * VOLATILITY**2)


@dataclass(frozen=True, slots=True)
class Pool:
    """PoolState with its AmmConfig's rates; `ticks` are the initialized ones, ascending."""

    tick_spacing: int
    trade_fee_rate: int
    protocol_fee_rate: int  # of the trade fee
    fund_fee_rate: int  # of the trade fee
    fee_on: int
    sqrt_price_x64: int
    tick_current: int
    liquidity: int
    ticks: tuple[tuple[int, int], ...]  # (tick, liquidity_net)
    dynamic_fee_info: DynamicFee | None = None
    protocol_fees_token_0: int = 0
    protocol_fees_token_1: int = 0
    fund_fees_token_0: int = 0
    fund_fees_token_1: int = 0

    def fee_on_input(self, zero_for_one: bool) -> bool:
        """Whether the fee is in the token paid in."""
        return self.fee_on == ON_INPUT or (self.fee_on == ON_TOKEN_0) is zero_for_one


@dataclass(frozen=True, slots=True)
class RangeSwap(Swap[Pool]):
    """A swap over ranges; with a price limit, `remaining` of the amount was not swapped."""

    remaining: int
    ticks_crossed: int


class Step(NamedTuple):
    """What happened within one range."""

    sqrt_price: int  # the price reached
    amount_in: int  # into the curve
    amount_out: int  # out of the curve, less a fee on the output
    fee: int


def load(data: Mapping[str, Any]) -> Pool:
    """A pool by the field names of PoolState and AmmConfig; `ticks` as [[tick, liquidity_net], …].

    Raises InvalidSnapshot.
    """
    fields = Fields(data)
    ticks = fields.rows("ticks", (MIN_TICK, MAX_TICK), (-(2**127), 2**127 - 1))
    return Pool(
        tick_spacing=fields.between(1, 2**16 - 1, "tick_spacing"),
        trade_fee_rate=fields.between(0, RATE - 1, "trade_fee_rate"),
        protocol_fee_rate=fields.between(0, RATE, "protocol_fee_rate"),
        fund_fee_rate=fields.between(0, RATE, "fund_fee_rate"),
        fee_on=fields.between(ON_INPUT, ON_TOKEN_1, "fee_on", default=ON_INPUT),
        sqrt_price_x64=fields.between(MIN_SQRT_PRICE, MAX_SQRT_PRICE - 1, "sqrt_price_x64"),
        tick_current=fields.between(MIN_TICK - 1, MAX_TICK, "tick_current"),
        liquidity=fields.unsigned(128, "liquidity"),
        ticks=tuple(sorted((tick, net) for tick, net in ticks)),
        dynamic_fee_info=_load_dynamic_fee(fields),
        **{
            f"{whose}_fees_token_{side}": fields.unsigned(
                64, f"{whose}_fees_token_{side}", default=0
            )
            for whose in ("protocol", "fund")
            for side in (0, 1)
        },
    )


def _load_dynamic_fee(fields: Fields) -> DynamicFee | None:
    if "dynamic_fee_info" not in fields and "dynamic_fee" not in fields:
        return None
    info = fields.inner("dynamic_fee_info", "dynamic_fee")
    dynamic_fee = DynamicFee(
        filter_period=info.unsigned(16, "filter_period"),
        decay_period=info.unsigned(16, "decay_period"),
        reduction_factor=info.unsigned(16, "reduction_factor"),
        dynamic_fee_control=info.unsigned(32, "dynamic_fee_control"),
        max_volatility_accumulator=info.unsigned(32, "max_volatility_accumulator"),
        tick_spacing_index_reference=info.signed(32, "tick_spacing_index_reference"),
        volatility_reference=info.unsigned(32, "volatility_reference"),
        volatility_accumulator=info.unsigned(32, "volatility_accumulator"),
        last_update_timestamp=info.unsigned(64, "last_update_timestamp"),
    )
    # The account of a pool without a dynamic fee holds zeros.
    return dynamic_fee if dynamic_fee.dynamic_fee_control else None


def quote_exact_in(
    pool: Pool, amount_in: int, zero_for_one: bool, now: int, sqrt_price_limit_x64: int = 0
) -> RangeSwap:
    """Pay exactly `amount_in` at `now` (unix seconds), or less of it down to a price limit.

    Without a limit (0) all of it must be swapped. Raises SwapFailed.
    """
    return _swap(pool, amount_in, zero_for_one, now, sqrt_price_limit_x64, exact_in=True)


def quote_exact_out(
    pool: Pool, amount_out: int, zero_for_one: bool, now: int, sqrt_price_limit_x64: int = 0
) -> RangeSwap:
    """Receive exactly `amount_out` at `now` (unix seconds), or less of it up to a price limit.

    Without a limit (0) all of it must be paid. Raises SwapFailed.
    """
    return _swap(pool, amount_out, zero_for_one, now, sqrt_price_limit_x64, exact_in=False)


def exact_in_curve(pool: Pool, zero_for_one: bool, now: int) -> Callable[[int], int]:
    """Amount out for any u64 amount in, 0 where the program refuses; for many quotes of one pool."""
    return Ladder(_rungs(pool, zero_for_one, now))


class _Walk:
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
        if not self.ended:
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


def _amount_in(start: int, end: int, liquidity: int) -> int:
    """To move the price from `start` to `end`, rounded up."""
    if end < start:
        return _amount_0(end, start, liquidity, up=True)
    return _amount_1(start, end, liquidity, up=True)


def _amount_out(start: int, end: int, liquidity: int) -> int:
    """Paid while the price moves from `start` to `end`, rounded down."""
    if end < start:
        return _amount_1(end, start, liquidity, up=False)
    return _amount_0(start, end, liquidity, up=False)


def _price_after_input(price: int, liquidity: int, amount: int, zero_for_one: bool) -> int:
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


def _step_in(walk: _Walk, target: int, amount: int, rate: int, on_input: bool) -> Step:
    """At most `amount` in, towards `target`: reached if the amount less its fee covers the way."""
    price, liquidity = walk.sqrt_price, walk.liquidity
    usable = amount * (RATE - rate) // RATE if on_input else amount
    amount_in = _amount_in(price, target, liquidity)
    # An amount beyond u64 makes the target unreachable.
    reached = amount_in <= min(usable, U64_MAX)
    if not reached:
        target = _price_after_input(price, liquidity, usable, walk.down)
        amount_in = require_u64("amount in", _amount_in(price, target, liquidity))
    amount_out = require_u64("amount out", _amount_out(price, target, liquidity))
    if not on_input:
        fee = ceil_div(amount_out * rate, RATE)
        return Step(target, amount_in if reached else amount, amount_out - fee, fee)
    fee = ceil_div(amount_in * rate, RATE - rate) if reached else amount - amount_in
    return Step(target, amount_in, amount_out, fee)


def _step_out(walk: _Walk, target: int, amount: int, rate: int, on_input: bool) -> Step:
    """At most `amount` out, towards `target`: reached if the amount with its fee is there."""
    price, liquidity = walk.sqrt_price, walk.liquidity
    wanted = amount if on_input else ceil_div(amount * RATE, RATE - rate)
    amount_out = _amount_out(price, target, liquidity)
    if amount_out > min(wanted, U64_MAX):
        target = _price_after_output(price, liquidity, wanted, walk.down)
        amount_out = require_u64("amount out", _amount_out(price, target, liquidity))
    amount_in = require_u64("amount in", _amount_in(price, target, liquidity))
    if on_input:
        fee = ceil_div(amount_in * rate, RATE - rate)
        return Step(target, amount_in, min(amount_out, amount), fee)
    # What rounding yields beyond the amount becomes fee.
    fee = max(ceil_div(amount_out * rate, RATE), amount_out - amount)
    return Step(target, amount_in, amount_out - fee, fee)


def _swap(
    pool: Pool, amount: int, zero_for_one: bool, now: int, limit: int, *, exact_in: bool
) -> RangeSwap:
    require_amount(amount)
    bound = _price_limit(pool, zero_for_one, limit)
    on_input = pool.fee_on_input(zero_for_one)
    step = _step_in if exact_in else _step_out
    walk = _Walk(pool, zero_for_one, now, bound)
    remaining, net_in, paid_out, fee, protocol_fee, fund_fee = amount, 0, 0, 0, 0, 0
    while remaining and walk.sqrt_price != bound:
        if walk.ended:
            no_liquidity()
        target, rate = walk.ahead()
        if target != walk.sqrt_price:
            target, amount_in, amount_out, step_fee = step(walk, target, remaining, rate, on_input)
            remaining -= amount_out if not exact_in else amount_in + (step_fee if on_input else 0)
            net_in += amount_in
            paid_out += amount_out
            fee += step_fee
            protocol_fee += step_fee * pool.protocol_fee_rate // RATE
            fund_fee += step_fee * pool.fund_fee_rate // RATE
        walk.move(target)
    if remaining and not limit:
        no_liquidity()
    amount_in = require_u64("amount in", net_in + (fee if on_input else 0))
    if require_u64("amount out", paid_out) == 0 or amount_in == 0:
        no_output()
    fee_on_0 = zero_for_one is on_input
    return RangeSwap(
        amount_in=amount_in,
        amount_out=paid_out,
        net_in=net_in,
        gross_out=paid_out + (0 if on_input else fee),
        spot=_spot(pool.sqrt_price_x64, zero_for_one),
        fee=fee,
        fee_on_input=on_input,
        protocol_fee=protocol_fee,
        fund_fee=fund_fee,
        lp_fee=fee - protocol_fee - fund_fee,
        creator_fee=0,
        pool=Pool(
            pool.tick_spacing,
            pool.trade_fee_rate,
            pool.protocol_fee_rate,
            pool.fund_fee_rate,
            pool.fee_on,
            walk.sqrt_price,
            walk.tick,
            walk.liquidity,
            pool.ticks,
            walk.dynamic and replace(walk.dynamic, volatility_accumulator=walk.accumulator),
            pool.protocol_fees_token_0 + (protocol_fee if fee_on_0 else 0),
            pool.protocol_fees_token_1 + (0 if fee_on_0 else protocol_fee),
            pool.fund_fees_token_0 + (fund_fee if fee_on_0 else 0),
            pool.fund_fees_token_1 + (0 if fee_on_0 else fund_fee),
        ),
        remaining=remaining,
        ticks_crossed=walk.crossed,
    )


def _price_limit(pool: Pool, zero_for_one: bool, limit: int) -> int:
    if limit == 0:
        return MIN_SQRT_PRICE + 1 if zero_for_one else MAX_SQRT_PRICE - 1
    price = pool.sqrt_price_x64
    if zero_for_one:
        allowed = MIN_SQRT_PRICE < limit < price
    else:
        allowed = price < limit < MAX_SQRT_PRICE
    if not allowed:
        raise SwapFailed("PRICE_LIMIT", f"the price limit {limit} is on the wrong side of {price}")
    return limit


def _spot(sqrt_price: int, zero_for_one: bool) -> tuple[int, int]:
    square = sqrt_price * sqrt_price
    return (square, 1 << 128) if zero_for_one else (1 << 128, square)


def _rungs(pool: Pool, zero_for_one: bool, now: int) -> Iterator[Rung]:
    bound = _price_limit(pool, zero_for_one, 0)
    on_input = pool.fee_on_input(zero_for_one)
    walk = _Walk(pool, zero_for_one, now, bound)
    while not walk.ended and walk.sqrt_price != bound:
        target, rate = walk.ahead()
        amount_in = _amount_in(walk.sqrt_price, target, walk.liquidity)
        if amount_in:
            amount_out = _amount_out(walk.sqrt_price, target, walk.liquidity)
            inside = partial(_inside, walk.sqrt_price, walk.liquidity, zero_for_one, rate, on_input)
            if on_input:
                # amount * (1 - rate) covers amount_in from exactly this amount on.
                yield Rung(ceil_div(amount_in * RATE, RATE - rate), amount_out, inside)
            else:
                yield Rung(amount_in, amount_out * (RATE - rate) // RATE, inside)
        walk.move(target)


def _inside(
    price: int, liquidity: int, zero_for_one: bool, rate: int, on_input: bool, amount: int
) -> int:
    usable = amount * (RATE - rate) // RATE if on_input else amount
    end = _price_after_input(price, liquidity, usable, zero_for_one)
    amount_out = _amount_out(price, end, liquidity)
    return amount_out if on_input else amount_out * (RATE - rate) // RATE
