"""Pools of every kind that hypothesis makes up, in sizes that markets have."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from engine.amm import meteora_damm_v2, meteora_dlmm, raydium_amm_v4, raydium_clmm, raydium_cpmm
from engine.amm.swap import SwapFailed
from engine.amm.ticks import MAX_SQRT_PRICE, MIN_SQRT_PRICE, sqrt_price_at

NOW = 1_750_000_000

amounts = st.integers(1, 10**12) | st.integers(1, 10**4)
directions = st.booleans()


def outcome(quote: Any, *arguments: Any) -> Any:
    """The swap, or the reason why there is none."""
    try:
        return quote(*arguments)
    except SwapFailed as failure:
        return failure.reason


@st.composite
def cpmm_pools(draw: st.DrawFn) -> raydium_cpmm.Pool:
    accrued = {
        f"{whose}_fees_token_{side}": draw(st.integers(0, 1000))
        for whose in ("protocol", "fund", "creator")
        for side in (0, 1)
    }
    return raydium_cpmm.Pool(
        vault_0=draw(st.integers(10**4, 10**15)),
        vault_1=draw(st.integers(10**4, 10**15)),
        trade_fee_rate=draw(st.sampled_from((2500, 3000, 10_000, 40_000))),
        protocol_fee_rate=120_000,
        fund_fee_rate=40_000,
        creator_fee_rate=draw(st.sampled_from((0, 500, 2500))),
        enable_creator_fee=draw(st.booleans()),
        creator_fee_on=draw(st.integers(0, 2)),
        **accrued,
    )


@st.composite
def amm_v4_pools(draw: st.DrawFn) -> raydium_amm_v4.Pool:
    return raydium_amm_v4.Pool(
        vault_coin=draw(st.integers(10**4, 10**15)),
        vault_pc=draw(st.integers(10**4, 10**15)),
        swap_fee_numerator=25,
        swap_fee_denominator=10_000,
        need_take_pnl_coin=draw(st.integers(0, 1000)),
        need_take_pnl_pc=draw(st.integers(0, 1000)),
    )


@st.composite
def clmm_pools(draw: st.DrawFn, *, dynamic: bool | None = None) -> raydium_clmm.Pool:
    spacing = draw(st.sampled_from((1, 10, 60)))
    index = draw(st.integers(-200, 200))
    # One position over everything near, so that there always is liquidity; others inside it.
    nets: dict[int, int] = {}
    positions = [(index - 60, index + 60, draw(st.integers(10**6, 10**13)))]
    for _ in range(draw(st.integers(0, 5))):
        lower = index + draw(st.integers(-40, 40))
        upper = lower + draw(st.integers(1, 20))
        positions.append((lower, upper, draw(st.integers(10**4, 10**14))))
    for lower, upper, liquidity in positions:
        nets[lower * spacing] = nets.get(lower * spacing, 0) + liquidity
        nets[upper * spacing] = nets.get(upper * spacing, 0) - liquidity
    tick = index * spacing + draw(st.integers(0, spacing - 1))
    lowest, highest = sqrt_price_at(tick), sqrt_price_at(tick + 1) - 1
    fee = None
    if draw(st.booleans()) if dynamic is None else dynamic:
        fee = raydium_clmm.DynamicFee(
            filter_period=30,
            decay_period=300,
            reduction_factor=draw(st.integers(1, 9999)),
            dynamic_fee_control=draw(st.integers(1, 20_000)),
            max_volatility_accumulator=draw(st.sampled_from((50_000, 350_000))),
            tick_spacing_index_reference=index + draw(st.integers(-9, 9)),
            volatility_reference=draw(st.integers(0, 60_000)),
            volatility_accumulator=draw(st.integers(0, 350_000)),
            last_update_timestamp=NOW - draw(st.sampled_from((0, 29, 30, 299, 300))),
        )
    return raydium_clmm.Pool(
        tick_spacing=spacing,
        trade_fee_rate=draw(st.sampled_from((100, 2500, 10_000))),
        protocol_fee_rate=120_000,
        fund_fee_rate=40_000,
        fee_on=draw(st.integers(0, 2)),
        sqrt_price_x64=draw(st.integers(lowest, highest)),
        tick_current=tick,
        liquidity=sum(net for at, net in nets.items() if at <= tick),
        ticks=tuple(sorted(nets.items())),
        dynamic_fee_info=fee,
    )


@st.composite
def dlmm_pools(draw: st.DrawFn) -> meteora_dlmm.Pool:
    active = draw(st.integers(-300, 300))
    held = st.integers(0, 10**9)
    reach = draw(st.integers(1, 12))
    below = [(active - at, 0, draw(held)) for at in range(reach, 0, -1)]
    above = [(active + at, draw(held), 0) for at in range(1, reach + 1)]
    control = draw(st.sampled_from((0, 7500, 40_000)))
    return meteora_dlmm.Pool(
        bin_step=draw(st.sampled_from((1, 10, 25, 100))),
        active_id=active,
        parameters=meteora_dlmm.Parameters(
            base_factor=draw(st.sampled_from((4000, 10_000))),
            filter_period=30,
            decay_period=600,
            reduction_factor=5000,
            variable_fee_control=control,
            max_volatility_accumulator=350_000,
            protocol_share=draw(st.sampled_from((500, 2000))),
            collect_fee_mode=draw(st.integers(0, 1)),
        ),
        v_parameters=meteora_dlmm.Volatility(
            volatility_accumulator=draw(st.integers(0, 350_000)),
            volatility_reference=draw(st.integers(0, 100_000)),
            index_reference=active + draw(st.integers(-9, 9)),
            last_update_timestamp=NOW - draw(st.sampled_from((0, 29, 30, 599, 600))),
        ),
        bins=(*below, (active, draw(held), draw(held)), *above),
    )


@st.composite
def damm_v2_pools(draw: st.DrawFn, *, mode: int | None = None) -> meteora_damm_v2.Pool:
    if mode is None:
        mode = draw(st.integers(0, 2))
    price = draw(st.integers(10**18, 10**20))
    whole = draw(st.booleans())
    least, most = (MIN_SQRT_PRICE, MAX_SQRT_PRICE) if whole else (price * 9 // 10, price * 11 // 10)
    liquidity = draw(st.integers(10**25, 10**32))
    fee = None
    if draw(st.booleans()):
        fee = meteora_damm_v2.DynamicFee(
            max_volatility_accumulator=350_000,
            variable_fee_control=7500,
            bin_step=1,
            filter_period=10,
            decay_period=120,
            reduction_factor=5000,
            last_update_timestamp=NOW - draw(st.sampled_from((0, 9, 10, 119, 120))),
            bin_step_u128=1844674407370955,
            sqrt_price_reference=price * draw(st.integers(98, 102)) // 100,
            volatility_accumulator=draw(st.integers(0, 350_000)),
            volatility_reference=draw(st.integers(0, 100_000)),
        )
    return meteora_damm_v2.Pool(
        collect_fee_mode=mode,
        sqrt_price=price,
        sqrt_min_price=least,
        sqrt_max_price=most,
        liquidity=liquidity,
        token_a_amount=liquidity // price + 1,
        token_b_amount=(liquidity * price >> 128) + 1,
        fee_version=draw(st.integers(0, 1)),
        protocol_fee_percent=20,
        compounding_fee_bps=2500 if mode == 2 else 0,
        activation_point=NOW - draw(st.integers(0, 1000)),
        base_fee=meteora_damm_v2.BaseFee(
            mode=draw(st.integers(0, 1)),
            cliff_fee_numerator=draw(st.sampled_from((2_500_000, 20_000_000))),
            number_of_period=100,
            period_frequency=draw(st.sampled_from((0, 10))),
            reduction_factor=100,
        ),
        dynamic_fee=fee,
    )


# (kind, pool), for what is promised of all kinds.
any_pool = (
    cpmm_pools().map(lambda pool: ("raydium_cpmm", pool))
    | amm_v4_pools().map(lambda pool: ("raydium_amm_v4", pool))
    | clmm_pools().map(lambda pool: ("raydium_clmm", pool))
    | dlmm_pools().map(lambda pool: ("meteora_dlmm", pool))
    | damm_v2_pools().map(lambda pool: ("meteora_damm_v2", pool))
)
