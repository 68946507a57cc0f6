"""The venues' pools, kept current by their streams, and which of the streams may be trusted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from engine.amm.kinds import KINDS
from engine.amm.snapshot import InvalidSnapshot
from engine.errors import Refused
from engine.instructions.hints import hints_of
from engine.instructions.swap import KINDS_OF_VENUE
from engine.route import Hints, Leg
from engine.routing.market import Market, Pool
from engine.v1 import venue_pb2 as pb
from engine.venue import SILENCE_SECONDS, Venue

logger = structlog.get_logger()

RECONNECT_SECONDS: Final = 0.5
# What one venue may have; a venue with more is asked for its quotes.
MAX_POOLS: Final = 20_000
# Of what a pool holds.
MAX_DIGITS: Final = 40

Pair = frozenset[str]


@dataclass(slots=True)
class Stream:
    """What one venue's stream has told since it was opened."""

    pools: dict[str, pb.Pool] = field(default_factory=dict)
    # Told, and not looked at yet.
    unread: dict[Pair, set[str]] = field(default_factory=dict)
    # Pools whose arithmetic is not known here, of each pair that has some.
    opaque: dict[Pair, set[str]] = field(default_factory=dict)
    slot: int = 0
    time: int = 0
    heard: float = 0.0
    complete: bool = False

    def hear(self, message: pb.WatchPoolsResponse, now: float) -> None:
        """Take over what a message tells; raises Refused when it cannot be so."""
        if message.HasField("complete"):
            self.complete |= message.complete
        else:
            # Then nothing tells "that was all of them" but a message without a pool that is new;
            # of a venue that has told none yet, that says only that it is there.
            nothing_new = all(pool.address in self.pools for pool in message.pools)
            self.complete |= bool(self.pools) and nothing_new
        self.slot, self.time, self.heard = message.slot, message.time, now
        for pool in message.pools:
            known = self.pools.get(pool.address)
            if known is not None and (known.mint_a, known.mint_b) != (pool.mint_a, pool.mint_b):
                raise Refused("VENUE_ANSWER_INVALID", f"pool {pool.address} changed its mints")
            self.pools[pool.address] = pool
            self.unread.setdefault(_pair(pool), set()).add(pool.address)
        if len(self.pools) > MAX_POOLS:
            raise Refused("VENUE_ANSWER_INVALID", f"there are more than {MAX_POOLS} pools")

    def forget_what_was_read(self) -> None:
        """All is news again."""
        for pool in self.pools.values():
            self.unread.setdefault(_pair(pool), set()).add(pool.address)

    def read(self, venue: str, mints: frozenset[str]) -> Iterable[tuple[str, Pool | None]]:
        """What is news of pools between these mints, by address; None: not to be computed here."""
        for pair in [pair for pair in self.unread if pair <= mints]:
            opaque = self.opaque.pop(pair, set())
            for address in self.unread.pop(pair):
                known = _decoded(venue, self.pools[address])
                (opaque.add if known is None else opaque.discard)(address)
                yield address, known
            if opaque:
                self.opaque[pair] = opaque


@dataclass(slots=True)
class Span:
    """Amounts between which all swaps in one direction of a pool have the same hints."""

    pool: Pool
    now: int
    least: int
    most: int
    hints: Hints

    def has(self, pool: Pool, now: int, amount_in: int) -> bool:
        """Whether this swap is one of them: a larger one goes through as many arrays or more."""
        return self.of(pool, now) and self.least <= amount_in <= self.most

    def of(self, pool: Pool, now: int) -> bool:
        """Whether it tells of this very state at this time."""
        return self.pool is pool and self.now == now


class PoolBook:
    """Pools of many venues as one market; states are decoded when somebody wants them.

    A stream is trusted once it has told every pool, while it speaks, and while its slot is at most
    `max_slot_lag` behind the newest that any stream has shown. The market has no other pools, and
    offers at most `max_pool_share_bps` of what a pool holds.
    """

    def __init__(
        self, venues: Mapping[str, Venue], max_slot_lag: int, max_pool_share_bps: int
    ) -> None:
        self._venues = venues
        self._max_slot_lag = max_slot_lag
        self._max_pool_share_bps = max_pool_share_bps
        self._streams: dict[str, Stream] = {}
        self._market = Market(max_share_bps=max_pool_share_bps)
        self._of: frozenset[str] = frozenset()
        self._broken = False
        # By venue, pool and mint paid; no more than pools have directions.
        self._spans: dict[tuple[str, str, str], Span] = {}
        # What the market was last given for, if nothing was heard since.
        self._given: tuple[float, frozenset[str]] | None = None

    async def follow(self) -> None:
        """Keep every venue's stream open, until cancelled."""
        async with asyncio.TaskGroup() as following:
            for name, venue in self._venues.items():
                following.create_task(self._follow(name, venue))

    def trusted(self) -> frozenset[str]:
        """The venues whose pools are known as they are now."""
        newest = max([stream.slot for stream in self._streams.values()], default=0)
        since = asyncio.get_running_loop().time() - SILENCE_SECONDS
        return frozenset(
            [
                name
                for name, stream in self._streams.items()
                if stream.complete
                and stream.heard >= since
                and newest - stream.slot <= self._max_slot_lag
            ]
        )

    def market(self, mints: Collection[str]) -> Market:
        """The trusted venues' pools, current as far as these mints are concerned."""
        wanted = frozenset(mints)
        # Orders that come together are answered from one look; the loop's clock stands meanwhile.
        moment = (asyncio.get_running_loop().time(), wanted)
        if moment == self._given:
            return self._market
        trusted = self.trusted()
        if trusted != self._of or self._broken:
            self._market = Market((), self._clocks(trusted), self._max_pool_share_bps)
            self._spans.clear()
            self._of, self._broken = trusted, False
            for name in trusted:
                self._streams[name].forget_what_was_read()
        streams = [(name, self._streams[name]) for name in trusted]
        news = [(name, *each) for name, stream in streams for each in stream.read(name, wanted)]
        gone = {(name, at) for name, at, pool in news if pool is None} & self._market.pools.keys()
        if gone:
            self._market = self._market.without(gone)
        changed = [pool for _, _, pool in news if pool is not None]
        clocks = self._clocks(trusted)
        if changed or clocks != self._market.clocks:
            self._market = self._market.after(changed, clocks)
        self._given = moment
        return self._market

    def _clocks(self, trusted: Iterable[str]) -> Mapping[str, int]:
        return {name: self._streams[name].time for name in trusted}

    def beyond(self, market: Market, venues: Iterable[str], pair: Collection[str]) -> list[str]:
        """Those of the venues that have to be asked, as a market just given lacks their pools, or
        one of the pair whose arithmetic is not known here."""
        wanted = frozenset(pair)
        return [
            name
            for name in venues
            if name not in market.venues or wanted in self._streams[name].opaque
        ]

    def depth(self, venue: str, pool: str, mint: str) -> int:
        """What a pool holds of this token, as its venue's stream has told; 0: it has not."""
        stream = self._streams.get(venue)
        told = stream.pools.get(pool) if stream is not None else None
        if told is None or mint not in (told.mint_a, told.mint_b):
            return 0
        return _amount(told.reserve_a if mint == told.mint_a else told.reserve_b)

    def hints(self, leg: Leg) -> Hints | None:
        """What the leg's swap is built from, if its pool is in the market last given and tells
        all of it."""
        pool = self._market.pools.get((leg.venue, leg.pool))
        if pool is None:
            return None
        now, amount = self._market.clocks[pool.venue], leg.amount_in
        span = self._spans.get((*pool.key, leg.mint_in))
        if span is not None and span.has(pool, now, amount):
            return span.hints
        hints = hints_of(pool, leg, now)
        if span is not None and span.of(pool, now) and span.hints == hints:
            span.least, span.most = min(span.least, amount), max(span.most, amount)
        elif hints is not None:
            self._spans[*pool.key, leg.mint_in] = Span(pool, now, amount, amount, hints)
        return hints

    async def _follow(self, name: str, venue: Venue) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async for message in venue.pools():
                    stream = self._streams.setdefault(name, Stream())
                    stream.hear(message, loop.time())
                    self._given = None
            except Refused as refused:
                logger.debug("no pools from the venue", venue=name, why=str(refused))
            # What it told is not worth anything any more: it may miss what comes next.
            if self._streams.pop(name, None):
                self._broken, self._given = True, None
            await asyncio.sleep(RECONNECT_SECONDS * random.uniform(0.8, 1.2))


def _pair(pool: pb.Pool) -> Pair:
    return frozenset((pool.mint_a, pool.mint_b))


def _decoded(venue: str, pool: pb.Pool) -> Pool | None:
    """The pool with its state; None when its arithmetic is not known here."""
    # The executor signs no swap in another venue's kind of pool.
    if pool.kind not in KINDS_OF_VENUE.get(venue, ()):
        return None
    kind = KINDS[pool.kind]
    try:
        state = kind.load(msgspec.json.decode(pool.state))
    except (InvalidSnapshot, msgspec.DecodeError, RecursionError) as error:
        logger.warning("a pool's state is not one", venue=venue, pool=pool.address, why=str(error))
        return None
    return Pool(
        venue,
        pool.address,
        pool.kind,
        pool.mint_a,
        pool.mint_b,
        state,
        pool.slot,
        _amount(pool.reserve_a),
        _amount(pool.reserve_b),
        pool.market or None,
        pool.config if pool.HasField("config") else None,
    )


def _amount(text: str) -> int:
    """0 for what is no amount: then it is not known."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else 0
