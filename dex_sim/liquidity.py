"""What a new pool of each kind looks like: its fees, and its liquidity laid out around a price."""

from __future__ import annotations

from collections import defaultdict
from math import floor, isqrt, log
from typing import Final, NamedTuple

from engine.amm import (
    meteora_damm_v2,
    meteora_dlmm,
    raydium_amm_v4,
    raydium_clmm,
    raydium_cpmm,
)
from engine.amm.clmm_walk import amount_in_between
from engine.amm.damm_v2_pool import RATE as DAMM_RATE
from engine.amm.damm_v2_pool import VARIABLE_SCALE
from engine.amm.fixed_point import ONE, ceil_div
from engine.amm.ticks import MAX_SQRT_PRICE, MIN_SQRT_PRICE, sqrt_price_at, tick_at
from engine.fractions import PPM

PERCENT: Final = 100

# Trade fee in parts per million by the index of raydium_cpmm's amm_config.
CPMM_TIERS: Final = {0: 2_500, 5: 3_000}
# Trade fee in parts per million and tick spacing by the index of raydium_clmm's amm_config.
CLMM_TIERS: Final = {1: (2_500, 60), 2: (500, 10), 4: (100, 1)}
WIDE_SPACING: Final = 60
# Of the trade fee, in parts per million.
PROTOCOL_SHARE: Final = 120_000
FUND_SHARE: Final = 40_000

# Ranges of a raydium_clmm pool: so many ticks to either side, with so many percent of it. The
# widest reaches further than prices go by themselves.
_CLMM_RANGES: Final = ((300, 40), (1_000, 40), (7_000, 20))
# What volatility adds to the fee of a raydium_clmm pool that has a dynamic one.
_CLMM_DYNAMIC_FEE: Final = raydium_clmm.DynamicFee(
    filter_period=30,
    decay_period=600,
    reduction_factor=5_000,
    dynamic_fee_control=10_000,
    max_volatility_accumulator=150_000,
    tick_spacing_index_reference=0,
    volatility_reference=0,
    volatility_accumulator=0,
    last_update_timestamp=0,
)
# How far the bins of a meteora_dlmm pool reach to either side, and the most of them there.
_DLMM_REACH_BPS: Final = 700
_DLMM_MAX_BINS: Final = 100
# The most that volatility adds to a meteora_damm_v2 pool's fee, of that fee.
_DAMM_DYNAMIC_PERCENT: Final = 20
_DAMM_MAX_ACCUMULATOR: Final = 14_460_000


class Liquidity(NamedTuple):
    """A pool's state, and what its vaults hold."""

    state: object
    reserve_a: int
    reserve_b: int


def constant_product(amount_a: int, amount_b: int, trade_fee_rate: int) -> Liquidity:
    """A raydium_cpmm pool."""
    state = raydium_cpmm.Pool(amount_a, amount_b, trade_fee_rate, PROTOCOL_SHARE, FUND_SHARE)
    return Liquidity(state, amount_a, amount_b)


def without_order_book(amount_a: int, amount_b: int) -> Liquidity:
    """A raydium_amm_v4 pool; its fee is the program's own."""
    state = raydium_amm_v4.Pool(
        amount_a, amount_b, swap_fee_numerator=25, swap_fee_denominator=10_000
    )
    return Liquidity(state, amount_a, amount_b)


def in_ticks(amount_a: int, amount_b: int, trade_fee_rate: int, tick_spacing: int) -> Liquidity:
    """A raydium_clmm pool: most around the price, a little far away.

    Volatility adds to the fee where the ticks are wide apart.
    """
    price = isqrt((amount_b << 128) // amount_a)
    tick = tick_at(price)
    nets: defaultdict[int, int] = defaultdict(int)
    liquidity, reserve_a, reserve_b = 0, 0, 0
    for reach, percent in _CLMM_RANGES:
        lower = (tick - reach) // tick_spacing * tick_spacing
        upper = -((-tick - reach) // tick_spacing) * tick_spacing
        low, high = sqrt_price_at(lower), sqrt_price_at(upper)
        held = amount_a * percent // PERCENT
        added = held * price * high // ((high - price) << 64)
        nets[lower] += added
        nets[upper] -= added
        liquidity += added
        reserve_a += amount_in_between(high, price, added)
        reserve_b += amount_in_between(low, price, added)
    state = raydium_clmm.Pool(
        tick_spacing=tick_spacing,
        trade_fee_rate=trade_fee_rate,
        protocol_fee_rate=PROTOCOL_SHARE,
        fund_fee_rate=FUND_SHARE,
        fee_on=0,
        sqrt_price_x64=price,
        tick_current=tick,
        liquidity=liquidity,
        ticks=tuple(sorted(nets.items())),
        dynamic_fee_info=_CLMM_DYNAMIC_FEE if tick_spacing >= WIDE_SPACING else None,
    )
    return Liquidity(state, reserve_a, reserve_b)


def in_bins(amount_a: int, amount_b: int, bin_step: int) -> Liquidity:
    """A meteora_dlmm pool: the same in every bin, a base fee of one bin step."""
    active = floor(log(amount_b / amount_a) / log(1 + bin_step / 10_000))
    reach = min(_DLMM_REACH_BPS // bin_step, _DLMM_MAX_BINS)
    share_a, share_b = amount_a // (reach + 1), amount_b // (reach + 1)
    bins = tuple(
        (
            active + distance,
            share_a if distance >= 0 else 0,
            share_b if distance <= 0 else 0,
        )
        for distance in range(-reach, reach + 1)
    )
    state = meteora_dlmm.Pool(
        bin_step=bin_step,
        active_id=active,
        parameters=meteora_dlmm.Parameters(
            base_factor=10_000,
            filter_period=30,
            decay_period=600,
            reduction_factor=5_000,
            variable_fee_control=40_000,
            max_volatility_accumulator=350_000,
            protocol_share=500,
        ),
        v_parameters=meteora_dlmm.Volatility(0, 0, active, 0),
        bins=bins,
    )
    return Liquidity(state, share_a * (reach + 1), share_b * (reach + 1))


def in_one_range(amount_a: int, amount_b: int, fee_ppm: int) -> Liquidity:
    """A meteora_damm_v2 pool over all prices, its fee taken from what is paid out."""
    price = isqrt((amount_b << 128) // amount_a)
    liquidity = amount_a * price * MAX_SQRT_PRICE // (MAX_SQRT_PRICE - price)
    token_b = ceil_div(liquidity * (price - MIN_SQRT_PRICE), 1 << 128)
    numerator = fee_ppm * (DAMM_RATE // PPM)
    most = numerator * _DAMM_DYNAMIC_PERCENT // PERCENT
    state = meteora_damm_v2.Pool(
        collect_fee_mode=0,
        sqrt_price=price,
        sqrt_min_price=MIN_SQRT_PRICE,
        sqrt_max_price=MAX_SQRT_PRICE,
        liquidity=liquidity,
        token_a_amount=amount_a,
        token_b_amount=token_b,
        fee_version=1,
        protocol_fee_percent=20,
        compounding_fee_bps=0,
        activation_point=0,
        base_fee=meteora_damm_v2.BaseFee(mode=0, cliff_fee_numerator=numerator),
        dynamic_fee=meteora_damm_v2.DynamicFee(
            max_volatility_accumulator=_DAMM_MAX_ACCUMULATOR,
            variable_fee_control=most * VARIABLE_SCALE // _DAMM_MAX_ACCUMULATOR**2,
            bin_step=1,
            filter_period=10,
            decay_period=120,
            reduction_factor=5_000,
            last_update_timestamp=0,
            bin_step_u128=ONE // 10_000,
            sqrt_price_reference=price,
            volatility_accumulator=0,
            volatility_reference=0,
        ),
    )
    return Liquidity(state, amount_a, token_b)
