"""How long it takes to choose a route, in this process alone: no stack, no wire."""

from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random
from typing import Final

import msgspec

from bench.job import Spread, spread
from bench.pools import market
from engine.mints import SOL, USDC
from engine.order import OrderRequest
from engine.route import RouteDecision
from engine.routing import choose
from engine.routing.market import Market
from engine.runtime import collect_seldom

MARKETS: Final = 12
# Lamports: what most orders are, and what moves every price.
AMOUNTS: Final = {"small": 1_500_000_000, "large": 5_000_000_000_000}
ROUNDS: Final = {"small": 400, "large": 12}


class Choosing(msgspec.Struct, frozen=True, kw_only=True):
    """How long routes for one amount took, by CPU of this process, in markets of 40 pools.

    `first`: when the market knows nothing yet; `again`: when it does. `several_legs` is the part
    of the routes that have more than one.
    """

    name: str
    amount_in: int
    pools: int
    first: Spread
    again: Spread
    several_legs: float


def measure_routing() -> list[Choosing]:
    """Each amount, in markets that are the same at every run; garbage collected as in a service."""
    collect_seldom()
    return [_measured(name, amount) for name, amount in AMOUNTS.items()]


def _measured(name: str, amount: int) -> Choosing:
    request = OrderRequest(SOL, USDC, amount)
    first: list[float] = []
    again: list[float] = []
    several = pools = 0
    for seed in range(MARKETS):
        moment = market(Random(seed))
        pools = len(moment.pools)
        took, decision = _timed(request, moment)
        first.append(took)
        several += decision.route is not None and len(decision.route.legs) > 1
        again.extend(took for took, _ in _repeated(request, moment, ROUNDS[name]))
    spreads = spread(first), spread(again)
    assert spreads[0] is not None
    assert spreads[1] is not None
    return Choosing(
        name=name,
        amount_in=amount,
        pools=pools,
        first=spreads[0],
        again=spreads[1],
        several_legs=round(several / MARKETS, 3),
    )


def _repeated(
    request: OrderRequest, moment: Market, times: int
) -> Iterator[tuple[float, RouteDecision]]:
    for _ in range(times):
        yield _timed(request, moment)


def _timed(request: OrderRequest, moment: Market) -> tuple[float, RouteDecision]:
    started = time.thread_time_ns()
    decision = choose(request, None, moment, [])
    took = (time.thread_time_ns() - started) / 1e9
    assert isinstance(decision, RouteDecision)
    return took, decision
