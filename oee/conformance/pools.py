"""What ListPools and WatchPools promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import grpc

from engine.fractions import PPM
from engine.v1 import venue_pb2 as pb
from oee.conformance.check import Broken, Check, NoAnswer, checks
from oee.conformance.venue import Venue
from oee.conformance.written import amount_of, is_address

# A message a second is promised; what it takes to arrive comes on top.
PULSE_SECONDS: Final = 1.5
# Enough to have waited for one at least, however many tell the pools at first.
PULSES: Final = 3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every pool by its address, and the chain's clock when the last of them was told."""

    pools: Mapping[str, pb.Pool]
    time: int


async def pools_are_listed(venue: Venue) -> None:
    """ListPools names all pools of the venue, at least one."""
    if not await venue.pools():
        raise Broken("at least one pool", "an empty list", "list every pool that quotes may name")


async def pools_are_in_order(venue: Venue) -> None:
    """Every pool is listed once, by address."""
    addresses = [pool.address for pool in await venue.pools()]
    if twice := sorted({address for address in addresses if addresses.count(address) > 1}):
        raise Broken("every pool once", f"{twice[0]} more than once", "list a pool once")
    for one, next_one in pairwise(addresses):
        if one > next_one:
            raise Broken(
                "pools by address", f"{next_one} after {one}", "sort the list by address, as text"
            )


async def pools_are_well_formed(venue: Venue) -> None:
    """A pool has an address, two different mints, reserves, a fee and the slot of all that."""
    for pool in await venue.pools():
        _require_well_formed(pool)


async def watch_begins_with_every_pool(venue: Venue) -> None:
    """WatchPools begins with every pool that ListPools names, each in its whole."""
    for pool in (await snapshot(venue)).pools.values():
        _require_well_formed(pool)


async def a_watch_is_never_silent(venue: Venue) -> None:
    """A watch tells something every second, even when nothing changed: silence means stale."""
    last = 0
    async with aclosing(watch(venue)) as messages:
        for _ in range(PULSES):
            try:
                async with asyncio.timeout(PULSE_SECONDS):
                    told = await anext(messages)
            except TimeoutError:
                raise Broken(
                    f"a message within {PULSE_SECONDS:g} s of the one before",
                    "silence",
                    "send one a second, without pools where nothing changed",
                ) from None
            if not told.slot or not told.time:
                raise Broken(
                    "the slot of each message, and the chain's clock at it",
                    f"slot {told.slot}, time {told.time}",
                    "set both; fees that decay are computed with that time",
                )
            if told.slot < last:
                raise Broken(
                    f"slot {last} or a later one",
                    f"slot {told.slot}",
                    "tell states in the order of their slots; drop one that comes late",
                )
            last = told.slot


async def snapshot(venue: Venue) -> Snapshot:
    """What a new watch tells before it has told of every pool; raises Broken when it does not."""
    missing = {pool.address for pool in await venue.pools()}
    pools: dict[str, pb.Pool] = {}
    told = pb.WatchPoolsResponse()
    try:
        async with asyncio.timeout(venue.listen_seconds):
            async with aclosing(watch(venue)) as messages:
                async for told in messages:
                    pools |= {pool.address: pool for pool in told.pools}
                    if missing <= pools.keys():
                        break
    except TimeoutError:
        raise Broken(
            f"every listed pool within {venue.listen_seconds:g} s of a watch",
            f"not a word about {min(missing - pools.keys(), default='any')}",
            "send the state of every pool first, then what changes",
        ) from None
    return Snapshot(pools, told.time)


async def watch(venue: Venue) -> AsyncGenerator[pb.WatchPoolsResponse, None]:
    """What a watch tells; raises NoAnswer or Broken when it ends by itself."""
    call = venue.stub.WatchPools(pb.WatchPoolsRequest())
    try:
        async for response in call:
            yield response
    except grpc.aio.AioRpcError as error:
        raise NoAnswer("WatchPools", error.code(), error.details() or "") from None
    finally:
        call.cancel()
    raise Broken("a watch that goes on", "its end", "keep the stream open; pools will change")


def _require_well_formed(pool: pb.Pool) -> None:
    for name in ("address", "mint_a", "mint_b"):
        if not is_address(getattr(pool, name)):
            raise _wrong(pool, name, "an address: 32 bytes in base58")
    if pool.mint_a == pool.mint_b:
        raise _wrong(pool, "mint_b", "another mint than mint_a")
    for name in ("reserve_a", "reserve_b"):
        if amount_of(getattr(pool, name)) is None:
            raise _wrong(pool, name, "base units as a decimal string")
    if pool.fee_ppm >= PPM:
        raise _wrong(pool, "fee_ppm", "less than 1000000, which is all of the amount")
    if not pool.slot:
        raise _wrong(pool, "slot", "the slot that this state was read at")


def _wrong(pool: pb.Pool, field: str, right: str) -> Broken:
    return Broken(
        f"a pool with its {field}",
        f"{field} {getattr(pool, field)!r} of pool {pool.address!r}",
        f"{field} must be {right}",
    )


CHECKS: Final[tuple[Check[Venue], ...]] = checks(
    pools_are_listed,
    pools_are_in_order,
    pools_are_well_formed,
    watch_begins_with_every_pool,
    a_watch_is_never_silent,
)
