"""The price impact curve: what amounts around an asked one would yield now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from engine.fractions import PPM
from engine.route import ImpactPoint, RouteDecision
from engine.routing import NoOffer
from engine.token import MAX_AMOUNT

# Two a decade: from the price of next to nothing to far more than was asked for.
FACTORS: Final = ((1, 100), (1, 30), (1, 10), (1, 3), (1, 1), (3, 1), (10, 1), (30, 1), (100, 1))
# What yields less tells no price: its last base unit would be more than a basis point of it.
LEAST_AMOUNT_OUT: Final = 10_000

Decide = Callable[[int], Awaitable[RouteDecision | NoOffer]]


async def curve(asked: int, decide: Decide) -> list[ImpactPoint]:
    """The points around `asked`, ascending: each by the route that `decide` chooses for it.

    An amount without a route, or with too little to tell a price, has no point. All amounts are
    decided at once, so that venues which have to be asked are asked in one call.
    """
    tried = amounts(asked)
    return points(tried, await asyncio.gather(*map(decide, tried)))


def amounts(asked: int) -> list[int]:
    """The amounts to try, ascending, `asked` among them; each is one that an order may have."""
    return sorted({max(1, min(asked * up // down, MAX_AMOUNT)) for up, down in FACTORS})


def points(tried: Sequence[int], offers: Sequence[RouteDecision | NoOffer]) -> list[ImpactPoint]:
    """The curve through these amounts, ascending, and what was decided for each."""
    priced = [
        (amount_in, offer.route.quoted_amount_out, offer.route.venue)
        for amount_in, offer in zip(tried, offers, strict=True)
        if isinstance(offer, RouteDecision)
        and offer.route is not None
        and offer.route.quoted_amount_out >= LEAST_AMOUNT_OUT
    ]
    if not priced:
        return []
    first_in, first_out, _ = priced[0]
    return [
        ImpactPoint(
            amount_in,
            amount_out,
            _rounded((first_out * amount_in - amount_out * first_in) * PPM, first_out * amount_in),
            venue,
        )
        for amount_in, amount_out, venue in priced
    ]


def _rounded(part: int, whole: int) -> int:
    return (2 * part + whole) // (2 * whole)
