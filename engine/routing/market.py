"""The pools of the venues that stream them, at one moment, and what each offers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from engine.amm.fixed_point import ceil_div
from engine.amm.kinds import KINDS
from engine.amm.swap import Paid, SwapFailed
from engine.fractions import BASIS_POINTS, PPM

# What part of all that a pool holds a swap may take, unless told otherwise: half of it is left.
MAX_SHARE_BPS: Final = 5000
# What a swap yields there does not depend on the time; elsewhere fees decay by the second.
TIMELESS: Final = frozenset({"raydium_cpmm", "raydium_amm_v4"})


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool as its venue streamed it: `state` is its kind's own, with mint_a as first token."""

    venue: str
    address: str
    kind: str
    mint_a: str
    mint_b: str
    state: Any
    slot: int
    # What it holds of either token, as its venue says; 0 where that is not known.
    reserve_a: int = 0
    reserve_b: int = 0

    @property
    def pair(self) -> frozenset[str]:
        """Both mints."""
        return frozenset((self.mint_a, self.mint_b))


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """A pool in one direction at one time.

    `amount_out` answers 0 where the program would refuse, and where it would be more than may be
    taken of what the pool holds of the token received, its `depth` (0: not known). `spot` is
    output per input before fees; `price` is Q64.64 with fees taken, rounded up: no amount is paid
    better.
    """

    pool: Pool
    zero_for_one: bool
    now: int
    amount_out: Callable[[int], int]
    spot: tuple[int, int]
    price: int
    depth: int

    def pay(self, amount_in: int) -> Paid:
        """What this amount comes to; raises SwapFailed where the program would."""
        pool = self.pool
        return KINDS[pool.kind].pay_exact_in(pool.state, amount_in, self.zero_for_one, self.now)


def share_ppm(amount_out: int, depth: int) -> int | None:
    """The part of what a pool holds that it would pay, rounded up; None if that is not known."""
    return ceil_div(amount_out * PPM, depth) if depth else None


class Market:
    """Pools at one moment, of `venues`, all of whose pools are here; `now` is the chain's clock.

    No pool is offered for more than `max_share_bps` of what it holds of the token received.

    It never changes, but remembers what it worked out: what an order asked for costs the next one
    little. `after` gives the next moment's market, which knows all of that for the pools that
    stayed as they were, if it holds at the new time.
    """

    def __init__(
        self,
        pools: Iterable[Pool] = (),
        now: int = 0,
        venues: Collection[str] = (),
        max_share_bps: int = BASIS_POINTS,
    ) -> None:
        self.now = now
        self.max_share_bps = max_share_bps
        self._pools = {pool.address: pool for pool in pools}
        self.venues = frozenset(venues) | {pool.venue for pool in self._pools.values()}
        self._pairs: dict[frozenset[str], tuple[str, ...]] = {}
        for pool in self._pools.values():
            self._pairs[pool.pair] = (*self._pairs.get(pool.pair, ()), pool.address)
        # By address and direction; and by mint paid and mint received, the best price first.
        self._offer: dict[tuple[str, bool], Offer | None] = {}
        self._offers: dict[tuple[str, str], tuple[Offer, ...]] = {}

    @property
    def pools(self) -> Mapping[str, Pool]:
        """By address."""
        return MappingProxyType(self._pools)

    def between(self, mint_in: str, mint_out: str) -> list[Pool]:
        """The pair's pools, those without liquidity too."""
        return [self._pools[at] for at in self._pairs.get(frozenset((mint_in, mint_out)), ())]

    def offers(self, mint_in: str, mint_out: str) -> tuple[Offer, ...]:
        """Those of the pair's pools that have liquidity, the best price first."""
        offers = self._offers.get((mint_in, mint_out))
        if offers is None:
            made = (self._offer_of(p, p.mint_a == mint_in) for p in self.between(mint_in, mint_out))
            standing = [offer for offer in made if offer is not None]
            standing.sort(key=lambda offer: (-offer.price, offer.pool.address))
            offers = self._offers[mint_in, mint_out] = tuple(standing)
        return offers

    def after(self, changed: Iterable[Pool], now: int | None = None) -> Market:
        """The market once these pools are as given, at `now` (None: the same time)."""
        new = {pool.address: pool for pool in changed}
        pools = self._pools | new
        if new.keys() <= self._pools.keys():
            following = Market((), self.now, self.venues, self.max_share_bps)
            following._pools, following._pairs = pools, self._pairs
        else:
            following = Market(pools.values(), self.now, self.venues, self.max_share_bps)
        same_time = now is None or now == self.now
        if now is not None:
            following.now = now
        following._offer = {
            key: offer
            for key, offer in self._offer.items()
            if key[0] not in new and (same_time or pools[key[0]].kind in TIMELESS)
        }
        if same_time:
            moved = {pool.pair for pool in new.values()}
            following._offers = {
                mints: offers
                for mints, offers in self._offers.items()
                if frozenset(mints) not in moved
            }
        return following

    def without(self, addresses: Collection[str]) -> Market:
        """The market as if these pools were not there."""
        left = [pool for address, pool in self._pools.items() if address not in addresses]
        return Market(left, self.now, self.venues, self.max_share_bps)

    def _offer_of(self, pool: Pool, zero_for_one: bool) -> Offer | None:
        key = (pool.address, zero_for_one)
        if key not in self._offer:
            self._offer[key] = _offer(pool, zero_for_one, self.now, self.max_share_bps)
        return self._offer[key]


def _offer(pool: Pool, zero_for_one: bool, now: int, max_share_bps: int) -> Offer | None:
    kind = KINDS[pool.kind]
    try:
        curve = kind.exact_in_curve(pool.state, zero_for_one, now)
        spot, (numerator, denominator) = kind.margin(pool.state, zero_for_one, now)
    except SwapFailed:
        return None
    price = ceil_div(numerator << 64, denominator)
    depth = pool.reserve_b if zero_for_one else pool.reserve_a
    if depth and max_share_bps < BASIS_POINTS:
        curve = _at_most(depth * max_share_bps // BASIS_POINTS, curve)
    return Offer(pool, zero_for_one, now, curve, spot, price, depth)


def _at_most(most: int, curve: Callable[[int], int]) -> Callable[[int], int]:
    def amount_out(amount_in: int) -> int:
        paid = curve(amount_in)
        return paid if paid <= most else 0

    return amount_out
