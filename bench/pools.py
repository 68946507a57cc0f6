"""Pools of every kind around a price, drawn from a seeded generator: a market to route in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any, Final

from engine.amm import meteora_damm_v2, meteora_dlmm, raydium_amm_v4, raydium_clmm, raydium_cpmm
from engine.amm.kinds import KINDS
from engine.amm.ticks import MAX_SQRT_PRICE, MIN_SQRT_PRICE, tick_at
from engine.fractions import BASIS_POINTS
from engine.mints import RAY, SOL, USDC, USDT
from engine.routing.market import MAX_SHARE_BPS, Market, Pool

NOW: Final = 1_750_000_000
# In USDC's base units a base unit.
PRICES: Final = {SOL: 0.15, USDC: 1.0, USDT: 1.0, RAY: 2.0}
# Of the first mint, in base units, and how many pools.
PAIRS: Final = (
    (SOL, USDC, 10**13, 10),
    (SOL, USDT, 10**13, 8),
    (USDT, USDC, 10**12, 8),
    (SOL, RAY, 10**13, 7),
    (RAY, USDC, 10**12, 7),
)


def market(
    random: Random,
    spread: float = 0.0005,
    pairs: Sequence[Any] = PAIRS,
    max_share_bps: int = MAX_SHARE_BPS,
) -> Market:
    """Pools of these pairs, with prices no further than `spread` from those of the market."""
    pools: list[Pool] = []
    for mint_a, mint_b, usual_depth, count in pairs:
        for _ in range(count):
            kind = random.choice(list(KINDS))
            price = PRICES[mint_a] / PRICES[mint_b] * random.uniform(1 - spread, 1 + spread)
            depth = int(usual_depth * random.uniform(0.2, 3))
            state = pool(kind, price, depth, random)
            address = f"pool-{len(pools):03d}"
            venue = kind.partition("_")[0]
            held = depth, int(depth * price)
            pools.append(Pool(venue, address, kind, mint_a, mint_b, state, 1, *held))
    return market_of(pools, max_share_bps=max_share_bps)


def market_of(pools: Sequence[Pool], now: int = NOW, max_share_bps: int = BASIS_POINTS) -> Market:
    """Of these pools, whose venues all have the same clock and no other pools."""
    return Market(pools, {pool.venue: now for pool in pools}, max_share_bps)


def pool(kind: str, price: float, depth: int, random: Random) -> Any:
    """About `depth` of the first token, and as much of the second as the price says."""
    return _MAKERS[kind](price, depth, random)


def _cpmm(price: float, depth: int, random: Random) -> raydium_cpmm.Pool:
    return raydium_cpmm.Pool(
        vault_0=depth,
        vault_1=int(depth * price),
        trade_fee_rate=random.choice((500, 2500, 10_000)),
        protocol_fee_rate=120_000,
        fund_fee_rate=40_000,
        creator_fee_rate=random.choice((0, 500)),
        enable_creator_fee=True,
        creator_fee_on=random.choice((0, 1, 2)),
    )


def _amm_v4(price: float, depth: int, random: Random) -> raydium_amm_v4.Pool:
    return raydium_amm_v4.Pool(depth, int(depth * price), 25, 10_000)


def _clmm(price: float, depth: int, random: Random) -> raydium_clmm.Pool:
    sqrt_price = int(math.sqrt(price) * 2**64)
    tick = tick_at(sqrt_price)
    base, liquidity = tick // 10 * 10, int(depth * math.sqrt(price)) * 10
    positions = [(base - 5000, base + 5000, liquidity)]
    for _ in range(3):
        lower, upper = base - 10 * random.randint(1, 50), base + 10 * random.randint(1, 50)
        positions.append((lower, upper, liquidity * random.randint(1, 5)))
    nets: dict[int, int] = {}
    for lower, upper, amount in positions:
        nets[lower] = nets.get(lower, 0) + amount
        nets[upper] = nets.get(upper, 0) - amount
    fee = raydium_clmm.DynamicFee(
        filter_period=30,
        decay_period=300,
        reduction_factor=5000,
        dynamic_fee_control=random.randint(1, 20_000),
        max_volatility_accumulator=350_000,
        tick_spacing_index_reference=tick // 10 + random.randint(-9, 9),
        volatility_reference=random.randint(0, 60_000),
        volatility_accumulator=random.randint(0, 350_000),
        last_update_timestamp=NOW - random.choice((0, 50, 400)),
    )
    return raydium_clmm.Pool(
        tick_spacing=10,
        trade_fee_rate=random.choice((400, 2500)),
        protocol_fee_rate=120_000,
        fund_fee_rate=40_000,
        fee_on=random.choice((0, 1, 2)),
        sqrt_price_x64=sqrt_price,
        tick_current=tick,
        liquidity=sum(net for at, net in nets.items() if at <= tick),
        ticks=tuple(sorted(nets.items())),
        dynamic_fee_info=random.choice((None, fee)),
    )


def _dlmm(price: float, depth: int, random: Random) -> meteora_dlmm.Pool:
    step = random.choice((1, 10, 25))
    active = round(math.log(price) / math.log1p(step / 10_000))
    per_bin = depth // 20
    return meteora_dlmm.Pool(
        bin_step=step,
        active_id=active,
        parameters=meteora_dlmm.Parameters(
            base_factor=10_000,
            filter_period=30,
            decay_period=600,
            reduction_factor=5000,
            variable_fee_control=random.choice((0, 7500, 40_000)),
            max_volatility_accumulator=350_000,
            protocol_share=500,
            collect_fee_mode=random.choice((0, 1)),
        ),
        v_parameters=meteora_dlmm.Volatility(
            volatility_accumulator=random.randint(0, 200_000),
            volatility_reference=random.randint(0, 60_000),
            index_reference=active + random.randint(-9, 9),
            last_update_timestamp=NOW - random.choice((0, 100, 1000)),
        ),
        bins=tuple(
            (
                active + at,
                int(per_bin * random.random()) if at >= 0 else 0,
                int(per_bin * price * random.random()) if at <= 0 else 0,
            )
            for at in range(-40, 41)
        ),
    )


def _damm_v2(price: float, depth: int, random: Random) -> meteora_damm_v2.Pool:
    return meteora_damm_v2.Pool(
        collect_fee_mode=random.choice((0, 1, 2)),
        sqrt_price=int(math.sqrt(price) * 2**64),
        sqrt_min_price=MIN_SQRT_PRICE,
        sqrt_max_price=MAX_SQRT_PRICE,
        liquidity=int(depth * math.sqrt(price)) << 64,
        token_a_amount=depth,
        token_b_amount=int(depth * price),
        fee_version=0,
        protocol_fee_percent=20,
        compounding_fee_bps=0,
        activation_point=0,
        base_fee=meteora_damm_v2.BaseFee(0, random.choice((500_000, 2_500_000))),
    )


_MAKERS: Final = {
    "raydium_cpmm": _cpmm,
    "raydium_amm_v4": _amm_v4,
    "raydium_clmm": _clmm,
    "meteora_dlmm": _dlmm,
    "meteora_damm_v2": _damm_v2,
}
