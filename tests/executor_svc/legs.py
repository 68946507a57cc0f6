"""Legs of routes to execute, and a venue that takes its time."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec.structs import replace

from engine.errors import Refused
from engine.instructions.swap import VENUE_OF_KIND
from engine.order import Order
from engine.route import Leg
from engine.v1 import venue_pb2
from engine.venue import BuiltSwap
from tests import builders, swaps
from tests.executor_svc.desk import FLOOR, Desk
from tests.fakes import FakeVenue


def leg(kind: str, mints: str, amount_in: int, floor: int) -> Leg:
    """A leg in a pool of this kind; mints as "SOL USDC"."""
    mint_in, mint_out = (getattr(builders, symbol) for symbol in mints.split())
    pool = str(swaps.pool_of(kind)[0])
    return Leg(VENUE_OF_KIND[kind], pool, kind, mint_in, mint_out, amount_in, floor + 9, floor)


SPLIT = (
    leg("raydium_cpmm", "SOL USDC", 900_000_000, 130_000_000),
    leg("meteora_damm_v2", "SOL USDC", 600_000_000, 70_000_000),
)
TWO_HOPS = (
    leg("raydium_cpmm", "SOL RAY", 1_500_000_000, 80_000_000),
    leg("meteora_damm_v2", "RAY USDC", 80_000_000, FLOOR),
)


def hinted(leg: Leg, **changes: Any) -> Leg:
    """The leg with the hints of its pool, but for the changes."""
    return replace(leg, hints=replace(swaps.hints(swaps.parties(leg.kind)), **changes))


def silence(desk: Desk, *venues: FakeVenue) -> None:
    """These venues build nothing."""
    for venue in venues or (desk.venue, desk.other):
        venue.refusal = Refused("VENUE_UNAVAILABLE", f"{venue.name} is not available")


class SlowVenue(FakeVenue):
    """Builds once it is let."""

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(name, kind=kind)
        self.asked, self.let = asyncio.Event(), asyncio.Event()
        self.order: Order

    async def build(self, swap: venue_pb2.SwapOrder) -> BuiltSwap:
        self.asked.set()
        await self.let.wait()
        return await super().build(swap)
