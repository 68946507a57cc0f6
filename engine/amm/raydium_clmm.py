"""Raydium CLMM: liquidity in ranges of ticks, x * y = k within each.

Program CAMMCzo5YL8w4VFF8KVHrK22GGUsp5VTaW7grrKgrWqK, as in raydium-clmm
`libraries/{sqrt_price_math,liquidity_math,swap_math}.rs`, `instructions/swap.rs` and
`states/pool_fee.rs`. Prices are sqrt(token1 / token0) as Q64.64 u128, liquidity is u128, amounts
are u64, intermediates u256, rates parts per million. Input and fees round up, output down. Limit
orders on ticks are not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from engine.amm.clmm_pool import MAX_RATE, RATE, DynamicFee, Pool, load
from engine.amm.clmm_walk import (
    Walk,
    amount_in_between,
    amount_out_between,
    price_after_input,
    step_in,
    step_out,
)
from engine.amm.fixed_point import ceil_div
from engine.amm.ladder import Ladder, Rung
from engine.amm.swap import (
    Margin,
    Paid,
    Swap,
    SwapFailed,
    no_liquidity,
    no_output,
    require_amount,
    require_u64,
)
from engine.amm.ticks import MAX_SQRT_PRICE, MIN_SQRT_PRICE

__all__ = [
    "DynamicFee",
    "Pool",
    "RangeSwap",
    "exact_in_curve",
    "load",
    "margin",
    "pay_exact_in",
    "quote_exact_in",
    "quote_exact_out",
]


class RangeSwap(Swap[Pool], frozen=True):
    """A swap over ranges; with a price limit, `remaining` of the amount was not swapped."""

    remaining: int
    ticks_crossed: int


def quote_exact_in(
    pool: Pool, amount_in: int, zero_for_one: bool, now: int, sqrt_price_limit_x64: int = 0
) -> RangeSwap:
    """Pay exactly `amount_in` at `now` (unix seconds), or less of it down to a price limit.

    Without a limit (0) all of it must be swapped. Raises SwapFailed.
    """
    return _swap(pool, amount_in, zero_for_one, now, sqrt_price_limit_x64, exact_in=True)


def pay_exact_in(pool: Pool, amount_in: int, zero_for_one: bool, now: int) -> Paid:
    """quote_exact_in without the pool afterwards. Raises SwapFailed."""
    bound = _price_limit(pool, zero_for_one, 0)
    return _walk(pool, amount_in, zero_for_one, now, bound, 0, exact_in=True).paid


def quote_exact_out(
    pool: Pool, amount_out: int, zero_for_one: bool, now: int, sqrt_price_limit_x64: int = 0
) -> RangeSwap:
    """Receive exactly `amount_out` at `now` (unix seconds), or less of it up to a price limit.

    Without a limit (0) all of it must be paid. Raises SwapFailed.
    """
    return _swap(pool, amount_out, zero_for_one, now, sqrt_price_limit_x64, exact_in=False)


def exact_in_curve(pool: Pool, zero_for_one: bool, now: int) -> Callable[[int], int]:
    """Amount out for any u64 amount in, 0 where the program refuses; made for many amounts."""
    return Ladder(_rungs(pool, zero_for_one, now))


def margin(pool: Pool, zero_for_one: bool, now: int) -> Margin:
    """The prices that swaps start from. Raises SwapFailed."""
    if not pool.ticks:
        no_liquidity()
    rate, dynamic = pool.trade_fee_rate, pool.dynamic_fee_info
    if dynamic is not None:
        dynamic = dynamic.referred_to(pool.tick_current // pool.tick_spacing, now)
        # On its way the price may pass what volatility is counted from.
        least = min(dynamic.volatility_reference, dynamic.max_volatility_accumulator)
        rate = min(rate + dynamic.rate(least, pool.tick_spacing), MAX_RATE)
    numerator, denominator = spot = _spot(pool.sqrt_price_x64, zero_for_one)
    return Margin(spot, (numerator * (RATE - rate), denominator * RATE))


class Walked(NamedTuple):
    """Where a swap has come to, and what it paid on its way."""

    walk: Walk
    paid: Paid
    fee: int
    protocol_fee: int
    fund_fee: int
    remaining: int


def _walk(
    pool: Pool, amount: int, zero_for_one: bool, now: int, bound: int, limit: int, *, exact_in: bool
) -> Walked:
    require_amount(amount)
    on_input = pool.fee_on_input(zero_for_one)
    step = step_in if exact_in else step_out
    walk = Walk(pool, zero_for_one, now, bound)
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
    gross_out = paid_out + (0 if on_input else fee)
    paid = Paid(amount_in, paid_out, net_in, gross_out, _spot(pool.sqrt_price_x64, zero_for_one))
    return Walked(walk, paid, fee, protocol_fee, fund_fee, remaining)


def _swap(
    pool: Pool, amount: int, zero_for_one: bool, now: int, limit: int, *, exact_in: bool
) -> RangeSwap:
    bound = _price_limit(pool, zero_for_one, limit)
    walk, paid, fee, protocol_fee, fund_fee, remaining = _walk(
        pool, amount, zero_for_one, now, bound, limit, exact_in=exact_in
    )
    on_input = pool.fee_on_input(zero_for_one)
    fee_on_0 = zero_for_one is on_input
    return RangeSwap(
        amount_in=paid.amount_in,
        amount_out=paid.amount_out,
        net_in=paid.net_in,
        gross_out=paid.gross_out,
        spot=paid.spot,
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
    least, most = (MIN_SQRT_PRICE, price) if zero_for_one else (price, MAX_SQRT_PRICE)
    if not least < limit < most:
        raise SwapFailed("PRICE_LIMIT", f"the price limit {limit} is not within {least} … {most}")
    return limit


def _spot(sqrt_price: int, zero_for_one: bool) -> tuple[int, int]:
    square = sqrt_price * sqrt_price
    return (square, 1 << 128) if zero_for_one else (1 << 128, square)


def _rungs(pool: Pool, zero_for_one: bool, now: int) -> Iterator[Rung]:
    bound = _price_limit(pool, zero_for_one, 0)
    on_input = pool.fee_on_input(zero_for_one)
    walk = Walk(pool, zero_for_one, now, bound)
    while not walk.ended and walk.sqrt_price != bound:
        target, rate = walk.ahead()
        amount_in = amount_in_between(walk.sqrt_price, target, walk.liquidity)
        if amount_in:
            amount_out = amount_out_between(walk.sqrt_price, target, walk.liquidity)
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
    end = price_after_input(price, liquidity, usable, zero_for_one)
    amount_out = amount_out_between(price, end, liquidity)
    return amount_out if on_input else amount_out * (RATE - rate) // RATE
