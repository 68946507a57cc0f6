"""That a venue's quotes are what the engine computes from the states it tells."""

from __future__ import annotations

import json
from typing import Any, Final

from engine.amm.kinds import KINDS
from engine.amm.snapshot import InvalidSnapshot
from engine.amm.swap import SwapFailed
from engine.v1 import venue_pb2 as pb
from oee.conformance.check import Broken, Check, NotChecked, checks
from oee.conformance.pools import Snapshot, snapshot
from oee.conformance.venue import Venue

# Shares of the usual amount, which is a thousandth of a pool.
LADDER: Final = ((1, 10), (1, 1), (100, 1))
TRIES: Final = 8
# A pool may be asked for a second that the chain's clock has not told; more is another clock.
MOST_SECONDS: Final = 10


async def states_can_be_read(venue: Venue) -> None:
    """A pool with a kind has its whole state, which the engine reads; one without has neither."""
    pools = await venue.pools()
    for pool in pools:
        if pool.kind:
            _loaded(pool)
        elif pool.state:
            raise Broken(
                f"a kind of pool {pool.address}, which has a state",
                "none",
                f"say which state it is: one of {', '.join(KINDS)}",
            )
    if not any(pool.kind for pool in pools):
        raise NotChecked("no pool has a kind and a state; then the engine must ask for each quote")


async def quotes_are_what_the_engine_computes(venue: Venue) -> None:
    """Of the same state, the venue quotes what the engine's own arithmetic gives, unit for unit."""
    open_markets = [market for market in await venue.markets() if market.pool.kind]
    if not open_markets:
        raise NotChecked("no pool has a kind and a state")
    compared = 0
    for market in open_markets:
        for _ in range(TRIES):
            amounts = [max(1, market.amount * times // parts) for times, parts in LADDER]
            before = await snapshot(venue)
            results = await venue.results([market.query(amount) for amount in amounts])
            after = await snapshot(venue)
            judged = [_judge(before, result.quote, after) for result in results]
            if any(judged):
                compared += 1
                break
    if not compared:
        raise NotChecked(f"the pools changed with every one of {TRIES} quotes")


def _judge(before: Snapshot, quote: pb.Quote, after: Snapshot) -> bool:
    """Whether the quote was of a state that stood before and after it; then it must be exact."""
    pool, later = before.pools.get(quote.pool), after.pools.get(quote.pool)
    if pool is None or later is None or not pool.kind or pool.state != later.state:
        return False
    if not pool.slot <= quote.slot <= later.slot:
        return False
    if quote.kind != pool.kind:
        raise Broken(
            f"kind {pool.kind} of a quote of pool {pool.address}",
            repr(quote.kind),
            "say the pool's kind in its quotes as well",
        )
    loaded = _loaded(pool)
    computed = [
        _computed(pool, loaded, quote, now)
        for now in range(before.time, min(after.time, before.time + MOST_SECONDS) + 1)
    ]
    if str(quote.amount_out) not in computed:
        raise Broken(
            f"{computed[0]} for {quote.amount_in} of {quote.mint_in} in pool {pool.address}, as "
            f"{pool.kind} computes from its state of slot {pool.slot}",
            f"{quote.amount_out}, of slot {quote.slot}",
            "tell the whole state, the chain's clock with it, and compute in whole base units "
            "as the program does; `oee quote --pool` shows each figure",
        )
    return True


def _computed(pool: pb.Pool, loaded: Any, quote: pb.Quote, now: int) -> str:
    zero_for_one = quote.mint_in == pool.mint_a
    try:
        swap = KINDS[pool.kind].quote_exact_in(loaded, quote.amount_in, zero_for_one, now)
    except SwapFailed as failed:
        return failed.reason
    return str(swap.amount_out)


def _loaded(pool: pb.Pool) -> Any:
    if pool.kind not in KINDS:
        raise Broken(
            f"a kind out of {', '.join(KINDS)}, or none",
            f"{pool.kind!r} of pool {pool.address}",
            "leave kind and state empty where the arithmetic is the venue's own",
        )
    try:
        data = json.loads(pool.state)
        return KINDS[pool.kind].load(data)
    except (ValueError, RecursionError):
        came = f"{pool.state[:60]!r}"
    except InvalidSnapshot as invalid:
        came = str(invalid)
    raise Broken(
        f"the state of a {pool.kind} pool, as JSON, of pool {pool.address}",
        came,
        "write the account's fields as a JSON object; `oee quote --pool` reads the same",
    )


CHECKS: Final[tuple[Check[Venue], ...]] = checks(
    states_can_be_read, quotes_are_what_the_engine_computes
)
