"""The price impact curve: which amounts are tried, and what their routes say of the price."""

from __future__ import annotations

import pytest

from engine.failures import Failure
from engine.route import ImpactPoint, RouteDecision
from engine.routing import NoOffer
from engine.token import MAX_AMOUNT
from gateway.curve import LEAST_AMOUNT_OUT, amounts, curve, points
from tests import builders

NONE = NoOffer(RouteDecision((), "none"), Failure("NO_ROUTE", "none"), permanent=True)


def yields(amount_out: int, venue: str = "raydium") -> RouteDecision:
    return RouteDecision((), "", builders.route(amount_out, 1, venue), 1)


def test_the_amounts_go_from_a_hundredth_to_a_hundredfold() -> None:
    assert amounts(3000) == [30, 100, 300, 1000, 3000, 9000, 30_000, 90_000, 300_000]


@pytest.mark.parametrize("asked", [1, 2, 99, MAX_AMOUNT // 50, MAX_AMOUNT])
def test_every_amount_is_one_that_an_order_may_have(asked: int) -> None:
    tried = amounts(asked)

    assert asked in tried
    assert tried == sorted(set(tried))
    assert min(tried) >= 1
    assert max(tried) <= MAX_AMOUNT


def test_the_impact_is_what_is_lost_against_the_price_of_the_smallest_amount() -> None:
    found = points([100, 300, 900], [yields(20_000), yields(59_994, "meteora"), yields(90_000)])

    assert found == [
        ImpactPoint(100, 20_000, 0, "raydium"),
        ImpactPoint(300, 59_994, 100, "meteora"),
        ImpactPoint(900, 90_000, 500_000, "raydium"),
    ]


def test_a_better_price_is_a_negative_impact() -> None:
    assert points([10, 20], [yields(10_000), yields(20_002)])[1].price_impact_ppm == -100


def test_what_has_no_route_or_yields_too_little_to_tell_a_price_has_no_point() -> None:
    little = yields(LEAST_AMOUNT_OUT - 1)
    found = points([1, 2, 3, 4], [little, yields(20_000), NONE, yields(39_000)])

    assert [(point.amount_in, point.price_impact_ppm) for point in found] == [
        (2, 0),
        (4, 25_000),
    ]


async def test_without_any_route_there_is_no_curve() -> None:
    async def decide(amount_in: int) -> NoOffer:
        return NONE

    assert await curve(5, decide) == []
