"""Whatever the market: a route pays what it promises, and nothing else would pay more."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bench.pools import market, market_of
from engine import network_cost
from engine.amm import raydium_amm_v4
from engine.amm.kinds import KINDS
from engine.mints import RAY, USDT
from engine.network_cost import fits
from engine.order import OrderRequest
from engine.route import Candidate, Leg, RouteDecision
from engine.routing import NoOffer, Rules, choose
from engine.routing.market import MAX_SHARE_BPS, Market, Pool
from engine.routing.paths import direct, hops
from engine.routing.split import best_split
from tests.builders import SOL, USDC
from tests.engine.routing.ways import ALIKE, chosen, large, quote, routed

seeds = st.integers(0, 2**32)
sizes = st.integers(0, 2).flatmap(lambda more: st.integers(10**4, 10 ** (10 + 2 * more)))
spreads = st.sampled_from((0.0005, 0.01))
several = st.sampled_from(((SOL, USDC), (USDC, SOL), (SOL, RAY), (USDT, SOL), (RAY, USDT)))
any_venues = st.sampled_from(((), (), ("raydium",), ("meteora",), ("meteora", "orca")))
in_any_market = settings(max_examples=80, deadline=None)


@in_any_market
@given(seeds, spreads, sizes, several, any_venues, st.integers(1, 3), st.integers(0, 5000))
def test_a_route_pays_what_it_promises_when_its_legs_are_swapped(
    seed: int,
    spread: float,
    amount: int,
    mints: tuple[str, str],
    venues: tuple[str, ...],
    max_legs: int,
    slippage_bps: int,
) -> None:
    everything = market(Random(seed), spread)
    request = OrderRequest(*mints, amount, slippage_bps=slippage_bps, venues=venues)
    rules = Rules(max_legs=max_legs, intermediates=(SOL, USDC, USDT, RAY))
    decision = choose(request, None, everything, [quote("orca", 1)], rules)
    assert decision == choose(
        request, None, market(Random(seed), spread), [quote("orca", 1)], rules
    )
    if isinstance(decision, NoOffer):
        return
    route, floor = chosen(decision), decision.min_amount_out
    assert floor is not None
    assert decision.candidates[0].route == route
    assert len(decision.candidates) <= 4
    if decision.venue == "orca":
        return

    assert len(route.legs) <= max_legs
    tokens = {leg.mint_in for leg in route.legs} | {leg.mint_out for leg in route.legs}
    assert fits([leg.kind for leg in route.legs], len(tokens))
    assert len({leg.pool for leg in route.legs}) == len(route.legs)
    assert {leg.venue for leg in route.legs} <= set(venues or ("raydium", "meteora"))
    assert sum(leg.amount_in for leg in route.legs if leg.mint_in == mints[0]) == amount
    last = [leg for leg in route.legs if leg.mint_out == mints[1]]
    assert sum(leg.quoted_amount_out for leg in last) == route.quoted_amount_out
    assert sum(leg.min_amount_out for leg in last) >= floor
    wallet = {mints[0]: amount}
    for leg in route.legs:
        swapped_leg(everything, leg, wallet)
    assert wallet[mints[1]] == route.quoted_amount_out
    assert min(wallet.values()) >= 0


def swapped_leg(everything: Market, leg: Leg, wallet: dict[str, int]) -> None:
    """Swap it in the pool as it is in the market: no pool is in two legs."""
    pool = everything.pools[leg.venue, leg.pool]
    assert {leg.mint_in, leg.mint_out} == pool.pair
    forward = leg.mint_in == pool.mint_a
    held = pool.reserve_b if forward else pool.reserve_a
    assert leg.quoted_amount_out <= held * MAX_SHARE_BPS // 10_000
    swap = KINDS[pool.kind].quote_exact_in(
        pool.state, leg.amount_in, forward, everything.clocks[leg.venue]
    )
    assert swap.amount_out == leg.quoted_amount_out >= leg.min_amount_out > 0
    wallet[leg.mint_in] -= leg.amount_in
    # What a leg carries to the next one is its floor; the rest counts as nothing.
    wallet[leg.mint_out] = wallet.get(leg.mint_out, 0) + swap.amount_out


@in_any_market
@given(seeds, spreads, sizes, several)
def test_nothing_that_was_not_searched_would_have_been_better(
    seed: int, spread: float, amount: int, mints: tuple[str, str]
) -> None:
    everything = market(Random(seed), spread, max_share_bps=10_000)
    rules = Rules(intermediates=(SOL, USDC, USDT, RAY))
    decision = choose(OrderRequest(*mints, amount), None, everything, [], rules)
    if isinstance(decision, NoOffer):
        return
    winner = decision.candidates[0]

    paths = [*map(direct, everything.offers(*mints)), *hops(everything, *mints, rules, (), -1)]
    paths.sort(key=lambda path: -path.amount_out(amount))
    paths = paths[:12]

    def cost(indexes: Sequence[int]) -> int | None:
        kinds = [kind for index in indexes for kind in paths[index].kinds]
        pools = [address for index in indexes for address in paths[index].addresses]
        if len(kinds) > 3 or len(set(pools)) < len(pools) or not fits(kinds, len(kinds) + 1):
            return None
        return costs(winner, kinds)

    best = best_split([path.amount_out for path in paths], amount, 3, cost)
    assert best is not None
    # Rounding, and what a leg more must gain.
    allowance = 3 + best.amount_out * 2 * rules.least_gain_ppm // 1_000_000
    assert winner.net_amount_out >= best.net - allowance


def costs(winner: Candidate, kinds: Sequence[str]) -> int:
    """What another way costs, by what the winner does."""
    lamports = network_cost.fee_lamports(list(kinds))
    return -(-winner.network_cost * lamports // winner.network_fee_lamports)


def test_what_is_recorded_of_a_decision_repeats_no_quote() -> None:
    plain = routed([ALIKE[0]], quote("orca", 1))
    split = routed(ALIKE, request=large())
    heavy = replace(quote("heavy", 1_000_002), kind="meteora_dlmm")
    light = replace(quote("light", 1_000_000), kind="raydium_amm_v4")
    far = replace(ALIKE[0], mint_a=USDC, mint_b=SOL)
    dear = routed([far], heavy, light, request=OrderRequest(RAY, SOL, 10**6))

    assert plain.candidates
    assert plain.on_record == replace(plain, candidates=())
    # What a split pays, and what a network fee decided, no quote tells.
    assert split.on_record == split
    assert dear.on_record == dear


def test_pools_that_would_pay_more_together_than_an_amount_can_be_are_no_split() -> None:
    most = 2**64 - 1
    state = raydium_amm_v4.Pool(10**9, most, 25, 10_000)
    pools = [Pool("raydium", at, "raydium_amm_v4", SOL, USDC, state, 1) for at in ("a", "b")]

    decision = choose(OrderRequest(SOL, USDC, 10**12), None, market_of(pools), [])

    assert isinstance(decision, RouteDecision)
    assert decision.route is not None
    assert len(decision.route.legs) == 1
    assert most // 2 < decision.route.quoted_amount_out <= most
