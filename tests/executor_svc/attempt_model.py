"""An explicit-state model of the attempt protocol, driven by the executor's own `judge`.

World: a chain whose blocks above the finalized height may be taken back by a fork, nodes that
lag and fail, two executors on one order that may crash or stand still at every step, sends that
are lost or repeated. The search visits every interleaving within the bounds.

A swap that happens twice, a FAILED order that swapped and a settled one that did not are the
violations. Assumptions: finalization is irreversible, a node at slot S knows every finalized
transaction up to S, nobody else signs with the wallet. Slot and height are the same here.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from msgspec.structs import replace

from engine.chain import Commitment, HeightReading, StatusReading
from executor_svc.evidence import Verdict, judge

Decide = Callable[[int, int | None, HeightReading, StatusReading], Verdict]

EXECUTORS = 2


@dataclass(frozen=True)
class Bounds:
    """How far the search goes; all in blocks but the attempts."""

    height: int
    validity: int
    finality: int
    node_lag: int
    attempts: int


@dataclass(frozen=True)
class Protocol:
    """The rules as they are, or with one of them broken."""

    decide: Decide = judge
    sends_before_persisting: bool = False
    status_before_height: bool = False
    unanswered_means_absent: bool = False
    many_live_attempts: bool = False
    fails_by_timeout: bool = False


class Landing(NamedTuple):
    """A transaction in a block."""

    height: int
    ok: bool


class Recorded(NamedTuple):
    """A row of the attempts table; `resolution` None: live."""

    attempt: int
    last_valid: int
    resolution: str | None


class Hand(NamedTuple):
    """One executor: where it stands, and what it remembers."""

    at: str
    attempt: int = -1
    number: int = 0  # last valid height, or the slot of the first reading
    reading: HeightReading | StatusReading | None = None
    confirmed: int | None = None
    verdict: Verdict | None = None


IDLE = Hand("idle")


class World(NamedTuple):
    """One state; transactions are numbered in the order of signing."""

    height: int
    last_valid: tuple[int, ...]
    landed: tuple[Landing | None, ...]
    in_flight: frozenset[int]
    record: tuple[Recorded, ...]
    order: str  # ACTIVE, CONFIRMED, SETTLED or FAILED
    confirmed: int | None
    hands: tuple[Hand, ...]

    @property
    def live(self) -> Recorded | None:
        return next((row for row in self.record if row.resolution is None), None)

    def with_hand(self, number: int, hand: Hand) -> World:
        """The executors are alike: worlds that differ only in which is which are one."""
        others = self.hands[:number] + self.hands[number + 1 :]
        return self._replace(hands=tuple(sorted((*others, hand), key=hash)))


@dataclass(frozen=True)
class Result:
    """What the search found: the first violation or None, and how many states it saw."""

    violation: str | None
    states: int
    orders_seen: frozenset[str]


def explore(protocol: Protocol, bounds: Bounds) -> Result:
    """Search all states breadth first, up to the first violation."""
    first = World(0, (), (), frozenset(), (), "ACTIVE", None, (IDLE,) * EXECUTORS)
    seen, queue = {first}, deque([first])
    orders: set[str] = set()
    while queue:
        world = queue.popleft()
        orders.add(world.order)
        violation = _violation(world)
        if violation:
            return Result(violation, len(seen), frozenset(orders))
        for following in _following(world, protocol, bounds):
            if following not in seen:
                seen.add(following)
                queue.append(following)
    return Result(None, len(seen), frozenset(orders))


def _violation(world: World) -> str | None:
    swaps = sum(1 for landing in world.landed if landing and landing.ok)
    if swaps > 1:
        return "DOUBLE_SWAP"
    if world.order == "FAILED" and swaps:
        return "FAILED_BUT_SWAPPED"
    if world.order == "SETTLED" and not swaps:
        return "SETTLED_WITHOUT_SWAP"
    return None


def _following(world: World, protocol: Protocol, bounds: Bounds) -> Iterator[World]:
    yield from _chain_moves(world, bounds)
    for number, hand in enumerate(world.hands):
        if hand.at != "idle":
            yield world.with_hand(number, IDLE)  # a crash
        yield from _STEPS[hand.at](world, number, hand, protocol, bounds)
    if protocol.fails_by_timeout and world.order == "ACTIVE" and world.height >= 3:
        yield world._replace(order="FAILED")


def _chain_moves(world: World, bounds: Bounds) -> Iterator[World]:
    finalized = world.height - bounds.finality
    if world.height < bounds.height:
        yield world._replace(height=world.height + 1)
    for attempt in world.in_flight:
        current = world.landed[attempt]
        if current is None:
            # Into the newest block, or found in another one after a fork switch.
            for height in range(max(finalized + 1, 0), world.height + 1):
                if height <= world.last_valid[attempt]:
                    yield _land(world, attempt, Landing(height, True))
                    yield _land(world, attempt, Landing(height, False))
        elif current.height > finalized:
            yield _land(world, attempt, None)
            if current.height <= world.last_valid[attempt]:
                yield _land(world, attempt, Landing(current.height, not current.ok))


def _land(world: World, attempt: int, landing: Landing | None) -> World:
    landed = (*world.landed[:attempt], landing, *world.landed[attempt + 1 :])
    return world._replace(landed=landed)


def _heads(world: World, bounds: Bounds) -> range:
    """The slots a node may answer from."""
    return range(max(0, world.height - bounds.node_lag), world.height + 1)


def _idle(
    world: World, number: int, hand: Hand, protocol: Protocol, bounds: Bounds
) -> Iterator[World]:
    if world.order not in ("ACTIVE", "CONFIRMED"):
        return
    live = world.live
    if live is not None:
        yield world._replace(in_flight=world.in_flight | {live.attempt})
        yield world.with_hand(number, Hand("first", live.attempt, confirmed=world.confirmed))
    if live is None or protocol.many_live_attempts:
        if len(world.last_valid) < bounds.attempts:
            attempt = len(world.last_valid)
            for head in _heads(world, bounds):
                last_valid = head + bounds.validity
                at = "send_first" if protocol.sends_before_persisting else "persist"
                yield world._replace(
                    last_valid=(*world.last_valid, last_valid), landed=(*world.landed, None)
                ).with_hand(number, Hand(at, attempt, last_valid))
        elif live is None and len(world.record) >= bounds.attempts:
            yield world._replace(order="FAILED")


def _persist(
    world: World, number: int, hand: Hand, protocol: Protocol, bounds: Bounds
) -> Iterator[World]:
    if world.order == "ACTIVE" and (world.live is None or protocol.many_live_attempts):
        row = Recorded(hand.attempt, hand.number, None)
        yield world._replace(record=(*world.record, row)).with_hand(
            number, Hand("send", hand.attempt)
        )
    else:
        yield world.with_hand(number, IDLE)


def _send(
    world: World, number: int, hand: Hand, protocol: Protocol, bounds: Bounds
) -> Iterator[World]:
    following = Hand("persist", hand.attempt, hand.number) if hand.at == "send_first" else IDLE
    yield world._replace(in_flight=world.in_flight | {hand.attempt}).with_hand(number, following)


def _height_at(head: int, bounds: Bounds) -> HeightReading:
    return HeightReading(head - bounds.finality, head)


def _status_at(world: World, attempt: int, head: int, bounds: Bounds) -> StatusReading:
    landing = world.landed[attempt]
    if landing is None or landing.height > head:
        return StatusReading(head, "")
    final = landing.height <= head - bounds.finality
    commitment = Commitment.FINALIZED if final else Commitment.CONFIRMED
    return StatusReading(head, "", commitment, landing.height, "" if landing.ok else "reverted")


def _first(
    world: World, number: int, hand: Hand, protocol: Protocol, bounds: Bounds
) -> Iterator[World]:
    for head in _heads(world, bounds):
        reading = (
            _status_at(world, hand.attempt, head, bounds)
            if protocol.status_before_height
            else _height_at(head, bounds)
        )
        yield world.with_hand(number, hand._replace(at="second", reading=reading))


def _second(
    world: World, number: int, hand: Hand, protocol: Protocol, bounds: Bounds
) -> Iterator[World]:
    row = next(row for row in world.record if row.attempt == hand.attempt)
    for height, status in _readings(world, hand, protocol, bounds):
        verdict = protocol.decide(row.last_valid, hand.confirmed, height, status)
        if verdict is Verdict.WAIT:
            yield world.with_hand(number, IDLE)
        elif verdict is Verdict.RESEND:
            yield world._replace(in_flight=world.in_flight | {hand.attempt}).with_hand(number, IDLE)
        else:
            act = hand._replace(at="act", number=status.slot, reading=None, verdict=verdict)
            yield world.with_hand(number, act)


def _readings(
    world: World, hand: Hand, protocol: Protocol, bounds: Bounds
) -> Iterator[tuple[HeightReading, StatusReading]]:
    first = hand.reading
    if isinstance(first, StatusReading):
        for head in _heads(world, bounds):
            if head >= first.context_slot:  # the height, read later, is taken as recent enough
                yield _height_at(head, bounds), replace(first, context_slot=head)
        return
    assert first is not None
    for head in _heads(world, bounds):
        yield first, _status_at(world, hand.attempt, head, bounds)
    if protocol.unanswered_means_absent:
        yield first, StatusReading(first.context_slot, "")


def _act(
    world: World, number: int, hand: Hand, protocol: Protocol, bounds: Bounds
) -> Iterator[World]:
    """The guarded write: it holds only if the order is still as it was read."""
    done = world.with_hand(number, IDLE)
    row = next(row for row in world.record if row.attempt == hand.attempt)
    confirmed = hand.confirmed is not None
    as_read = world.order == ("CONFIRMED" if confirmed else "ACTIVE")
    if row.resolution is not None or not as_read or world.confirmed != hand.confirmed:
        yield done
        return
    match hand.verdict:
        case Verdict.CONFIRM:
            yield done._replace(order="CONFIRMED", confirmed=hand.number)
        case Verdict.REORG:
            yield done._replace(order="ACTIVE", confirmed=None)
        case Verdict.FINALIZE:
            yield _resolved(done, row, "LANDED")._replace(order="SETTLED")
        case Verdict.REVERTED:
            yield _resolved(done, row, "LANDED_WITH_ERROR")
        case Verdict.EXPIRED:
            yield _resolved(done, row, "EXPIRED_UNLANDED")


def _resolved(world: World, row: Recorded, resolution: str) -> World:
    changed = row._replace(resolution=resolution)
    return world._replace(record=tuple(changed if r == row else r for r in world.record))


_STEPS = {
    "idle": _idle,
    "persist": _persist,
    "send": _send,
    "send_first": _send,
    "first": _first,
    "second": _second,
    "act": _act,
}


@lru_cache(maxsize=100_000)
def cached_judge(
    last_valid: int, confirmed: int | None, height: HeightReading, status: StatusReading
) -> Verdict:
    """`judge`, remembered: the search asks the same questions very often."""
    return judge(last_valid, confirmed, height, status)


# Exhausted by `make chaos`, in about a minute; the tests use smaller ones.
FULL = (
    Bounds(height=5, validity=1, finality=1, node_lag=1, attempts=2),
    Bounds(height=4, validity=1, finality=2, node_lag=1, attempts=2),
    Bounds(height=4, validity=1, finality=1, node_lag=3, attempts=2),
)


if __name__ == "__main__":
    for full in FULL:
        found = explore(Protocol(decide=cached_judge), full)
        sys.stdout.write(f"{full}: {found.states} states, {found.violation or 'holds'}\n")
        if found.violation:
            sys.exit(1)
