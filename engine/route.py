"""Routes: what venues quote, the ways considered, and the one chosen. Amounts in base units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from engine.failures import Failure

JOINED: Final = "+"
# 10 bps: a venue's past never overrides a clearly better price.
MAX_SCORE_PPM: Final = 1_000


def venues_of(legs: Sequence[Leg]) -> str:
    """The venues of these legs, each once, in their order: "raydium", or "meteora+raydium"."""
    if len(legs) == 1:
        return legs[0].venue
    return JOINED.join(dict.fromkeys([leg.venue for leg in legs]))


class Hints(msgspec.Struct, frozen=True, omit_defaults=True):
    """What tells how the accounts of one swap derive, beside its terms.

    As in engine.instructions.terms.Parties, where they lead to nothing but addresses.
    """

    arrays: tuple[int, ...] = ()
    market: str | None = None
    config: int = 0
    zero_for_one: bool = True


class Leg(msgspec.Struct, frozen=True, omit_defaults=True):
    """One swap instruction of a route, in a pool of this kind ("raydium_cpmm", …).

    `min_amount_out` is the leg's own floor, which the program keeps; 0 until the route's floor
    is known. `hints`: all of them, for whoever signs; None: the venue is to be asked.
    """

    venue: str
    pool: str
    kind: str
    mint_in: str
    mint_out: str
    amount_in: int
    quoted_amount_out: int
    min_amount_out: int = 0
    hints: Hints | None = None


class Route(msgspec.Struct, frozen=True):
    """One transaction's swaps, which happen all together or not at all.

    Legs that pay token_in split the amount; a leg that pays another token follows the one that
    receives it, and pays no more than that one's floor.
    """

    legs: tuple[Leg, ...]
    quoted_amount_out: int

    @property
    def venue(self) -> str:
        """The venues of its legs, joined by "+"."""
        return venues_of(self.legs)

    @property
    def agreed_legs(self) -> tuple[Leg, ...]:
        """Its legs without hints, as attempts have them."""
        return tuple([leg if leg.hints is None else replace(leg, hints=None) for leg in self.legs])

    def least_changes(self) -> dict[str, int]:
        """By mint, the least that a wallet's balance changes by: floors received less what is
        paid."""
        changes: dict[str, int] = {}
        for leg in self.legs:
            changes[leg.mint_in] = changes.get(leg.mint_in, 0) - leg.amount_in
            changes[leg.mint_out] = changes.get(leg.mint_out, 0) + leg.min_amount_out
        return changes


class VenueQuote(msgspec.Struct, frozen=True, omit_defaults=True):
    """One venue's best single pool for the whole amount, or the refusal.

    `amount_out` is net of the pool's fee; `fee` is in token_in, 0 where the pool takes it from
    what it pays. `is_local`: computed here from the venue's pool stream, not asked for.
    """

    venue: str
    latency_microseconds: int
    pool: str = ""
    amount_out: int = 0
    fee: int = 0
    price_impact_ppm: int = 0
    slot: int = 0
    refusal: Failure | None = None
    # A refusal that time does not cure: no pool, not enough liquidity.
    permanent: bool = False
    kind: str = ""
    is_local: bool = False
    # The part of what the pool holds of token_out that it would pay; None: it is not known.
    pool_share_ppm: int | None = None


class Candidate(msgspec.Struct, frozen=True, omit_defaults=True):
    """One way to do the swap that was considered."""

    route: Route
    price_impact_ppm: int
    network_fee_lamports: int
    # The network fee in token_out; 0 where no pool tells what a lamport is worth there.
    network_cost: int
    # How much better than quoted (negative: worse) the venues' own past says it will turn out.
    score_ppm: int = 0

    @property
    def net_amount_out(self) -> int:
        """What is left after pool fees and network cost."""
        return self.route.quoted_amount_out - self.network_cost


class VenueScore(msgspec.Struct, frozen=True):
    """What a venue's attempts of late came to; only those that ended are counted."""

    venue: str
    attempts: int
    # Realised against quoted amounts, and attempts that landed without a swap, in parts a million.
    realised_ppm: int
    failed_ppm: int
    # From the choice of the route to the signature, on average.
    latency_microseconds: int
    # What it weighs when routes are compared; bounded, and 0 where too little is known.
    score_ppm: int


class RouteDecision(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was considered, what won (None: nothing), why, and the floor.

    `candidates` are the ways considered, the winner first; only the best few are kept.
    """

    quotes: tuple[VenueQuote, ...]
    why: str
    route: Route | None = None
    min_amount_out: int | None = None
    candidates: tuple[Candidate, ...] = ()
    scores: tuple[VenueScore, ...] = ()

    @property
    def venue(self) -> str | None:
        """The winner's venues, joined by "+"."""
        return self.route.venue if self.route else None

    @property
    def on_record(self) -> RouteDecision:
        """The decision without candidates that say no more than the quotes do: each is one of
        them, and the one that pays most has won."""
        if self.route is None or any(len(each.route.legs) > 1 for each in self.candidates):
            return self
        most = max([quote.amount_out for quote in self.quotes], default=0)
        return self if self.route.quoted_amount_out < most else replace(self, candidates=())


class ImpactPoint(msgspec.Struct, frozen=True):
    """What one amount would yield by its own best route.

    `price_impact_ppm`: what is lost against the price of the curve's smallest amount; negative
    where the price is better.
    """

    amount_in: int
    amount_out: int
    price_impact_ppm: int
    venue: str
