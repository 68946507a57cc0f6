"""Meteora DAMM v2 (cp-amm): one price range of concentrated liquidity, or x * y = k.

Program cpamdpZCGKUy5JxQXB4dcpGPiikHawvSWAd6mEn1sGG, as in damm-v2
`programs/cp-amm/src/{state/{pool,fee}.rs,liquidity_handler,base_fee,math}`. Prices are
sqrt(B / A) as Q64.64 u128, liquidity is u128 scaled by 2^64, amounts are u64, intermediates u256
and u512, fee rates parts per thousand million. Input and fees round up, output down. Of the base
fees, the constant one and the two time schedulers are computed.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import NamedTuple

from engine.amm.damm_v2_pool import (
    BASIS_POINTS,
    COMPOUNDING,
    RATE,
    BaseFee,
    DynamicFee,
    Pool,
    load,
)
from engine.amm.fixed_point import ceil_div
from engine.amm.swap import (
    Margin,
    Paid,
    Swap,
    SwapFailed,
    no_liquidity,
    overflow,
    require_amount,
    require_u64,
)

__all__ = [
    "BaseFee",
    "DynamicFee",
    "Pool",
    "RangeSwap",
    "exact_in_curve",
    "load",
    "margin",
    "pay_exact_in",
    "quote_exact_in",
    "quote_exact_out",
    "quote_partial",
]


class RangeSwap(Swap[Pool], frozen=True):
    """A swap in one range; lp_fee is claiming_fee + compounding_fee."""

    fee_rate: int
    claiming_fee: int
    compounding_fee: int
    amount_left: int  # of a partial fill: what did not fit into the range


class Curve(NamedTuple):
    """The pool's curve before fees, in one direction."""

    price: int
    liquidity: int
    edge: int  # the price at which the range ends
    a_to_b: bool
    reserves: tuple[int, int] | None  # in and out, where x * y = k

    def spot(self) -> tuple[int, int]:
        """Output per input at the margin: numerator, denominator."""
        if self.reserves is not None:
            reserve_in, reserve_out = self.reserves
            return reserve_out, reserve_in
        square = self.price * self.price
        return (square, 1 << 128) if self.a_to_b else (1 << 128, square)

    def out_for(self, amount_in: int) -> tuple[int, int]:
        """Amount out, rounded down, and the price afterwards."""
        if self.reserves is not None:
            reserve_in, reserve_out = self.reserves
            return reserve_out * amount_in // (reserve_in + amount_in), 0
        end = self._price_after_input(amount_in)
        if end < self.edge if self.a_to_b else end > self.edge:
            raise SwapFailed("PRICE_RANGE_VIOLATION", "the price would leave the pool's range")
        return self._amount_out(end), end

    def part_for(self, amount_in: int) -> tuple[int, int, int]:
        """As out_for, but at most up to the end of the range; and how much was left."""
        if self.reserves is None:
            most = self._amount_in(self.edge)
            if amount_in >= most:
                return self._amount_out(self.edge), self.edge, amount_in - most
        return *self.out_for(amount_in), 0

    def in_for(self, amount_out: int) -> tuple[int, int]:
        """Amount in, rounded up, and the price afterwards."""
        if self.reserves is not None:
            reserve_in, reserve_out = self.reserves
            if amount_out >= reserve_out:
                no_liquidity()
            return ceil_div(reserve_in * amount_out, reserve_out - amount_out), 0
        end = self._price_after_output(amount_out)
        if end is None or (end < self.edge if self.a_to_b else end > self.edge):
            raise SwapFailed("PRICE_RANGE_VIOLATION", "the price would leave the pool's range")
        return self._amount_in(end), end

    def _price_after_input(self, amount: int) -> int:
        price, liquidity = self.price, self.liquidity
        if self.a_to_b:
            return ceil_div(liquidity * price, liquidity + amount * price)
        return price + (amount << 128) // liquidity

    def _price_after_output(self, amount: int) -> int | None:
        price, liquidity = self.price, self.liquidity
        if self.a_to_b:
            return price - ceil_div(amount << 128, liquidity)
        if amount * price >= liquidity:
            return None
        return ceil_div(liquidity * price, liquidity - amount * price)

    def _amount_in(self, end: int) -> int:
        if self.a_to_b:
            return ceil_div(self.liquidity * (self.price - end), self.price * end)
        return ceil_div(self.liquidity * (end - self.price), 1 << 128)

    def _amount_out(self, end: int) -> int:
        if self.a_to_b:
            return self.liquidity * (self.price - end) >> 128
        return self.liquidity * (end - self.price) // (self.price * end)


def quote_exact_in(pool: Pool, amount_in: int, zero_for_one: bool, now: int) -> RangeSwap:
    """Pay exactly `amount_in` of A (zero_for_one), or of B, at `now` (unix seconds).

    An output of zero is not refused, as the program does not. Raises SwapFailed.
    """
    paid, fee, price = _pay(pool, amount_in, zero_for_one, now)
    return _swap(pool, zero_for_one, now, paid.net_in, paid.gross_out, fee, price)


def pay_exact_in(pool: Pool, amount_in: int, zero_for_one: bool, now: int) -> Paid:
    """quote_exact_in without the pool afterwards. Raises SwapFailed."""
    return _pay(pool, amount_in, zero_for_one, now)[0]


def _pay(pool: Pool, amount_in: int, zero_for_one: bool, now: int) -> tuple[Paid, int, int]:
    """With the fee and the price afterwards."""
    require_amount(amount_in)
    rate, curve = pool.fee_rate(now), _curve(pool, zero_for_one)
    if pool.fee_on_input(zero_for_one):
        fee = ceil_div(amount_in * rate, RATE)
        gross, price = curve.out_for(amount_in - fee)
        return Paid(amount_in, gross, amount_in - fee, gross, curve.spot()), fee, price
    gross, price = curve.out_for(amount_in)
    fee = ceil_div(gross * rate, RATE)
    return Paid(amount_in, gross - fee, amount_in, gross, curve.spot()), fee, price


def quote_partial(pool: Pool, amount_in: int, zero_for_one: bool, now: int) -> RangeSwap:
    """Pay at most `amount_in`: what does not fit into the range is left. Raises SwapFailed."""
    require_amount(amount_in)
    rate, curve = pool.fee_rate(now), _curve(pool, zero_for_one)
    on_input = pool.fee_on_input(zero_for_one)
    fee = ceil_div(amount_in * rate, RATE) if on_input else 0
    gross, price, left = curve.part_for(amount_in - fee)
    net = amount_in - fee - left
    if left and on_input:
        fee = ceil_div(net * RATE, RATE - rate) - net
    if not on_input:
        fee = ceil_div(gross * rate, RATE)
    return _swap(pool, zero_for_one, now, net, gross, fee, price, left)


def quote_exact_out(pool: Pool, amount_out: int, zero_for_one: bool, now: int) -> RangeSwap:
    """Receive exactly `amount_out` of B (zero_for_one), or of A, at `now` (unix seconds).

    Raises SwapFailed.
    """
    require_amount(amount_out)
    rate, curve = pool.fee_rate(now), _curve(pool, zero_for_one)
    on_input = pool.fee_on_input(zero_for_one)
    gross = amount_out if on_input else ceil_div(amount_out * RATE, RATE - rate)
    net, price = curve.in_for(gross)
    fee = ceil_div(net * RATE, RATE - rate) - net if on_input else gross - amount_out
    return _swap(pool, zero_for_one, now, net, gross, fee, price)


def exact_in_curve(pool: Pool, zero_for_one: bool, now: int) -> Callable[[int], int]:
    """Amount out for any u64 amount in, 0 where the program refuses; made for many amounts."""
    curve, kept = _curve(pool, zero_for_one), RATE - pool.fee_rate(now)
    on_input = pool.fee_on_input(zero_for_one)

    def amount_out(amount_in: int) -> int:
        try:
            gross, _ = curve.out_for(amount_in * kept // RATE if on_input else amount_in)
        except SwapFailed:
            return 0
        return gross if on_input else gross * kept // RATE

    return amount_out


def margin(pool: Pool, zero_for_one: bool, now: int) -> Margin:
    """The prices that swaps start from. Raises SwapFailed."""
    numerator, denominator = spot = _curve(pool, zero_for_one).spot()
    return Margin(spot, (numerator * (RATE - pool.fee_rate(now)), denominator * RATE))


def _curve(pool: Pool, a_to_b: bool) -> Curve:
    reserves = None
    if pool.collect_fee_mode == COMPOUNDING:
        if not pool.token_a_amount or not pool.token_b_amount:
            no_liquidity()
        a, b = pool.token_a_amount, pool.token_b_amount
        reserves = (a, b) if a_to_b else (b, a)
    edge = pool.sqrt_min_price if a_to_b else pool.sqrt_max_price
    return Curve(pool.sqrt_price, pool.liquidity, edge, a_to_b, reserves)


def _swap(
    pool: Pool,
    a_to_b: bool,
    now: int,
    net: int,
    gross: int,
    fee: int,
    price: int,
    left: int = 0,
) -> RangeSwap:
    on_input = pool.fee_on_input(a_to_b)
    protocol_fee = fee * pool.protocol_fee_percent // 100
    lp_fee = fee - protocol_fee
    compounding_fee = lp_fee * pool.compounding_fee_bps // BASIS_POINTS
    a, b = (net, -gross) if a_to_b else (-gross, net)
    token_a = require_u64("token A", pool.token_a_amount + a)
    token_b = require_u64("token B", pool.token_b_amount + b + compounding_fee)
    if pool.collect_fee_mode == COMPOUNDING:
        if token_a == 0:
            overflow("the price of an empty reserve")
        price = isqrt((token_b << 128) // token_a)
    dynamic_fee = pool.dynamic_fee
    if dynamic_fee is not None:
        dynamic_fee = dynamic_fee.before(pool.sqrt_price, now)
        dynamic_fee = dynamic_fee.after(pool.sqrt_price, price, now)
    fee_in_a = not a_to_b and not on_input
    return RangeSwap(
        amount_in=require_u64("amount in", net + (fee if on_input else 0)),
        amount_out=gross - (0 if on_input else fee),
        net_in=net,
        gross_out=gross,
        spot=_curve(pool, a_to_b).spot(),
        fee=fee,
        fee_on_input=on_input,
        protocol_fee=protocol_fee,
        fund_fee=0,
        lp_fee=lp_fee,
        creator_fee=0,
        pool=Pool(
            pool.collect_fee_mode,
            price,
            pool.sqrt_min_price,
            pool.sqrt_max_price,
            pool.liquidity,
            token_a,
            token_b,
            pool.fee_version,
            pool.protocol_fee_percent,
            pool.compounding_fee_bps,
            pool.activation_point,
            pool.base_fee,
            dynamic_fee,
            pool.protocol_a_fee + (protocol_fee if fee_in_a else 0),
            pool.protocol_b_fee + (0 if fee_in_a else protocol_fee),
        ),
        fee_rate=pool.fee_rate(now),
        claiming_fee=lp_fee - compounding_fee,
        compounding_fee=compounding_fee,
        amount_left=left,
    )
