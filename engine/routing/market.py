"""The pools of the venues that stream them, at one moment, and what each offers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from engine.amm.fixed_point import ceil_div
from engine.amm.kinds import KINDS
from engine.amm.swap import Paid, SwapFailed
from engine.fractions import BASIS_POINTS, PPM

# What part of all that a pool holds a swap may take, unless told otherwise: half of it is left.
MAX_SHARE_BPS: Final = 5000
# What a swap yields there does not depend on the time; elsewhere fees decay by the second.
TIMELESS: Final = frozenset({"raydium_cpmm", "raydium_amm_v4"})
NO_CLOCKS: Final[Mapping[str, int]] = MappingProxyType({})

# Of a pool: its venue and its address.
Key = tuple[str, str]


class Pool(msgspec.Struct, frozen=True):
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
    # What its swaps' accounts follow from beside its state; None where the venue has not told it.
    market: str | None = None
    config: int | None = None

    @property
    def key(self) -> Key:
        """Venue and address."""
        return self.venue, self.address

    @property
    def pair(self) -> frozenset[str]:
        """Both mints."""
        return frozenset((self.mint_a, self.mint_b))


class Offer(msgspec.Struct, frozen=True, eq=False):
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
    """Pools at one moment, of the venues that have a clock here, and of those all of them.

    A clock is the chain's as that venue told it, in unix seconds. What a venue tells of clocks and
    addresses concerns its own pools alone: none is priced by another's clock, or hidden by another.

    No pool is offered for more than `max_share_bps` of what it holds of the token received.

    It never changes, but remembers what it worked out: what an order asked for costs the next one
    little. `after` gives the next moment's market, which knows all of that for the pools that
    stayed as they were, if it holds at the new time.
    """

    def __init__(
        self,
        pools: Iterable[Pool] = (),
        clocks: Mapping[str, int] = NO_CLOCKS,
        max_share_bps: int = BASIS_POINTS,
    ) -> None:
        self.clocks = clocks
        self.max_share_bps = max_share_bps
        self._pools = {pool.key: pool for pool in pools}
        self._pairs: dict[frozenset[str], tuple[Key, ...]] = {}
        for pool in self._pools.values():
            self._pairs[pool.pair] = (*self._pairs.get(pool.pair, ()), pool.key)
        # By pool and direction; and by mint paid and mint received, the best price first.
        self._offer: dict[tuple[Key, bool], Offer | None] = {}
        self._offers: dict[tuple[str, str], tuple[Offer, ...]] = {}
        # What others worked out from these pools alone, to be looked up by what it is.
        self.worked_out: dict[tuple[str, ...], int | None] = {}

    @property
    def venues(self) -> Collection[str]:
        """Those of which all pools are here."""
        return self.clocks.keys()

    @property
    def pools(self) -> Mapping[Key, Pool]:
        """By venue and address."""
        return MappingProxyType(self._pools)

    def between(self, mint_in: str, mint_out: str) -> list[Pool]:
        """The pair's pools, those without liquidity too."""
        return [self._pools[key] for key in self._pairs.get(frozenset((mint_in, mint_out)), ())]

    def offers(self, mint_in: str, mint_out: str) -> tuple[Offer, ...]:
        """Those of the pair's pools that have liquidity, the best price first."""
        offers = self._offers.get((mint_in, mint_out))
        if offers is None:
            made = (self._offer_of(p, p.mint_a == mint_in) for p in self.between(mint_in, mint_out))
            standing = [offer for offer in made if offer is not None]
            standing.sort(key=lambda offer: (-offer.price, offer.pool.address, offer.pool.venue))
            offers = self._offers[mint_in, mint_out] = tuple(standing)
        return offers

    def after(self, changed: Iterable[Pool], clocks: Mapping[str, int] | None = None) -> Market:
        """The market once these pools are as given, by these clocks (None: the same time)."""
        new = {pool.key: pool for pool in changed}
        pools, clocks = self._pools | new, clocks or self.clocks
        if new.keys() <= self._pools.keys():
            following = Market((), clocks, self.max_share_bps)
            following._pools, following._pairs = pools, self._pairs
        else:
            following = Market(pools.values(), clocks, self.max_share_bps)
        stopped = {venue for venue, time in clocks.items() if time == self.clocks.get(venue)}
        following._offer = {
            (key, zero_for_one): offer
            for (key, zero_for_one), offer in self._offer.items()
            if key not in new and (key[0] in stopped or pools[key].kind in TIMELESS)
        }
        if stopped == clocks.keys():
            moved = {pool.pair for pool in new.values()}
            following._offers = {
                mints: offers
                for mints, offers in self._offers.items()
                if frozenset(mints) not in moved
            }
        return following

    def without(self, keys: Collection[Key]) -> Market:
        """The market as if these pools were not there."""
        left = [pool for key, pool in self._pools.items() if key not in keys]
        return Market(left, self.clocks, self.max_share_bps)

    def _offer_of(self, pool: Pool, zero_for_one: bool) -> Offer | None:
        key = (pool.key, zero_for_one)
        if key not in self._offer:
            now = self.clocks[pool.venue]
            self._offer[key] = _offer(pool, zero_for_one, now, self.max_share_bps)
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
