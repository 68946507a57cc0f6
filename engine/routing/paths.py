"""The ways from one mint to another: through one pool, or through two by way of a third mint."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from engine import network_cost
from engine.fractions import BASIS_POINTS
from engine.mints import SOL, USDC, USDT
from engine.routing.market import Market, Offer

# What routes may go by way of, unless told otherwise.
INTERMEDIATES: Final = {"SOL": SOL, "USDC": USDC, "USDT": USDT}


@dataclass(frozen=True, slots=True)
class Rules:
    """What routes may be made of."""

    max_legs: int = 3
    # Mints that a route may go by way of.
    intermediates: tuple[str, ...] = tuple(INTERMEDIATES.values())
    # What the first pool of two may pay less than quoted before the transaction fails. The second
    # is paid no more than that, so what the first yields beyond it stays in the wallet.
    hop_reserve_bps: int = 20
    # What a leg more must gain beyond its network cost: it is one more thing that may fail.
    least_gain_ppm: int = 10


class Step(NamedTuple):
    """One pool's part in a path, for some amount."""

    offer: Offer
    amount_in: int
    # What the next pool is paid; 0 for the last.
    carried: int


class Path(NamedTuple):
    """One or two pools, one after the other: a curve like that of a single pool.

    `price` is Q64.64 with fees and the reserve taken: no amount is paid better.
    """

    offers: tuple[Offer, ...]
    kinds: tuple[str, ...]
    addresses: tuple[str, ...]
    amount_out: Callable[[int], int]
    price: int
    kept: int = BASIS_POINTS

    @property
    def is_long(self) -> bool:
        """Whether it goes through more than one pool."""
        return len(self.offers) > 1

    def steps(self, amount_in: int) -> list[Step]:
        """What each of its pools is paid of this amount."""
        if not self.is_long:
            return [Step(self.offers[0], amount_in, 0)]
        first, second = self.offers
        carried = first.amount_out(amount_in) * self.kept // BASIS_POINTS
        return [Step(first, amount_in, carried), Step(second, carried, 0)]


def direct(offer: Offer) -> Path:
    """Through that pool alone."""
    pool = offer.pool
    return Path((offer,), (pool.kind,), (pool.address,), offer.amount_out, offer.price)


def by_way_of(first: Offer, second: Offer, reserve_bps: int) -> Path:
    """Through both: the second is paid what the first pays surely, a reserve below its quote."""
    kept = BASIS_POINTS - reserve_bps
    first_out, second_out = first.amount_out, second.amount_out

    def amount_out(amount_in: int) -> int:
        return second_out(first_out(amount_in) * kept // BASIS_POINTS)

    one, other = first.pool, second.pool
    return Path(
        (first, second),
        (one.kind, other.kind),
        (one.address, other.address),
        amount_out,
        _price(first, second, kept),
        kept,
    )


def allowed(offers: Sequence[Offer], venues: Collection[str]) -> Sequence[Offer]:
    """Those of these venues; all of them where none is named."""
    return [offer for offer in offers if offer.pool.venue in venues] if venues else offers


def hops(
    market: Market,
    mint_in: str,
    mint_out: str,
    rules: Rules,
    venues: Collection[str],
    above: int,
) -> list[Path]:
    """The paths through two pools that fit into a transaction, with a price above this one."""
    kept = BASIS_POINTS - rules.hop_reserve_bps
    found: list[Path] = []
    for firsts, seconds in _connections(market, mint_in, mint_out, rules, venues):
        # Both with the best price first, so what follows a price too low is too low as well.
        for first in firsts:
            if _price(first, seconds[0], kept) <= above:
                break
            for second in seconds:
                if _price(first, second, kept) <= above:
                    break
                if fits((first.pool.kind, second.pool.kind), 3):
                    found.append(by_way_of(first, second, rules.hop_reserve_bps))
    return found


@lru_cache(maxsize=1024)
def fits(kinds: tuple[str, ...], tokens: int) -> bool:
    """Whether swaps in pools of these kinds, between so many tokens, fit into one transaction."""
    return network_cost.fits(kinds, tokens)


def _connections(
    market: Market, mint_in: str, mint_out: str, rules: Rules, venues: Collection[str]
) -> list[tuple[Sequence[Offer], Sequence[Offer]]]:
    if rules.max_legs < 2:
        return []
    connections = []
    for mint in rules.intermediates:
        if mint in (mint_in, mint_out):
            continue
        firsts = allowed(market.offers(mint_in, mint), venues)
        seconds = allowed(market.offers(mint, mint_out), venues) if firsts else ()
        if seconds:
            connections.append((firsts, seconds))
    return connections


def _price(first: Offer, second: Offer, kept: int) -> int:
    """Rounded up, as theirs are."""
    return -(-first.price * second.price * kept // (BASIS_POINTS << 64))
