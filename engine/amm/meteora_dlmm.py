"""Meteora DLMM: bins of constant price, each sold empty before the next.

Program LBUZKhRxPF3XUpBCjp4YzTKgLccjZhTSDM9YuVaPwxo, as in dlmm-sdk
`commons/src/{quote.rs,extensions/{lb_pair,bin}.rs,math}`. A price is token Y per token X as
Q64.64 u128, amounts are u64, intermediates u256, fee rates parts per thousand million. Input and
fees round up, output down; the liquidity providers' fee stays outside the bins. Limit orders in
bins are not computed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator

from engine.amm.dlmm_bin import Fill, Offer, price_of
from engine.amm.dlmm_pool import BASIS_POINTS, RATE, Parameters, Pool, Volatility, load
from engine.amm.fixed_point import ONE
from engine.amm.ladder import Ladder
from engine.amm.swap import (
    Margin,
    Paid,
    Swap,
    no_liquidity,
    no_output,
    require_amount,
    require_step,
    require_u64,
)

__all__ = [
    "BinSwap",
    "Parameters",
    "Pool",
    "Volatility",
    "exact_in_curve",
    "fill_exact_in",
    "load",
    "margin",
    "pay_exact_in",
    "quote_exact_in",
    "quote_exact_out",
]


class BinSwap(Swap[Pool], frozen=True):
    """A swap through bins, with what each of them contributed."""

    fills: tuple[Fill, ...]


def quote_exact_in(pool: Pool, amount_in: int, zero_for_one: bool, now: int) -> BinSwap:
    """Pay exactly `amount_in` of X (zero_for_one), or of Y, at `now` (unix seconds).

    Raises SwapFailed.
    """
    swap = fill_exact_in(pool, amount_in, zero_for_one, now)
    if swap.amount_out == 0:
        no_output()
    return swap


def pay_exact_in(pool: Pool, amount_in: int, zero_for_one: bool, now: int) -> Paid:
    """quote_exact_in without the pool afterwards. Raises SwapFailed."""
    paid = _paid(pool, zero_for_one, _fills(pool, amount_in, zero_for_one, now))
    if paid.amount_out == 0:
        no_output()
    return paid


def fill_exact_in(pool: Pool, amount_in: int, zero_for_one: bool, now: int) -> BinSwap:
    """What quote_exact_in computes, before the program refuses an output of zero."""
    return _swap(pool, zero_for_one, now, _fills(pool, amount_in, zero_for_one, now))


def _fills(pool: Pool, amount_in: int, zero_for_one: bool, now: int) -> list[Fill]:
    require_amount(amount_in)
    remaining = amount_in
    fills = []
    for offer in _offers(pool, zero_for_one, now):
        fill = offer.take(remaining)
        fills.append(fill)
        remaining -= fill.amount_in
        if remaining == 0:
            return fills
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
    """Amount out for any u64 amount in, 0 where the program refuses; made for many amounts."""
    return Ladder(offer.rung() for offer in _offers(pool, zero_for_one, now))


def margin(pool: Pool, zero_for_one: bool, now: int) -> Margin:
    """The prices that swaps start from. Raises SwapFailed."""
    first = next(_offers(pool, zero_for_one, now), None)
    if first is None:
        no_liquidity()
    # On its way the price may pass what volatility is counted from.
    _, least = pool.referred(now)
    rate = pool.fee_rate(min(least, pool.parameters.max_volatility_accumulator))
    numerator, denominator = spot = _spot(first.price, zero_for_one)
    return Margin(spot, (numerator * (RATE - rate), denominator * RATE))


def _spot(price: int, swap_for_y: bool) -> tuple[int, int]:
    return (price, ONE) if swap_for_y else (ONE, price)


def _offers(pool: Pool, swap_for_y: bool, now: int) -> Iterator[Offer]:
    """The bins that hold the token asked for, from the active one on."""
    index, volatility = pool.referred(now)
    most = pool.parameters.max_volatility_accumulator
    bins, side = pool.bins, 2 if swap_for_y else 1
    on_input = pool.fee_on_input(swap_for_y)
    first = bisect_left(bins, (pool.active_id + 1,) if swap_for_y else (pool.active_id,))
    order = range(first - 1, -1, -1) if swap_for_y else range(first, len(bins))
    steps = 0
    for at in order:
        held = bins[at]
        available = held[side]
        if available == 0:
            continue
        steps += 1
        require_step(steps)
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


def _paid(pool: Pool, swap_for_y: bool, fills: list[Fill]) -> Paid:
    amount_in = require_u64("amount in", sum([fill.amount_in for fill in fills]))
    amount_out = require_u64("amount out", sum([fill.amount_out for fill in fills]))
    fee, spot = (
        sum([fill.fee for fill in fills]),
        _spot(price_of(fills[0].bin_id, pool.bin_step), swap_for_y),
    )
    if pool.fee_on_input(swap_for_y):
        return Paid(amount_in, amount_out, amount_in - fee, amount_out, spot)
    return Paid(amount_in, amount_out, amount_in, amount_out + fee, spot)


def _swap(pool: Pool, swap_for_y: bool, now: int, fills: list[Fill]) -> BinSwap:
    amount_in, amount_out, net_in, gross_out, spot = _paid(pool, swap_for_y, fills)
    fee = amount_in - net_in + gross_out - amount_out
    protocol_fee = sum([fill.protocol_fee for fill in fills])
    on_input = pool.fee_on_input(swap_for_y)
    fee_in_x = on_input and swap_for_y
    return BinSwap(
        amount_in=amount_in,
        amount_out=amount_out,
        net_in=net_in,
        gross_out=gross_out,
        spot=spot,
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
