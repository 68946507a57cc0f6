"""Every promise, held against what database, chain and clients say. Pure: facts in, violations out.

Nothing of the engine is used here: what it claims is what is checked.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tests.chaos.facts import Attempt, Event, Facts, Order, Swap, Told

T = TypeVar("T")

# What the last event of an ended order may be.
ENDINGS: Final[Mapping[str, frozenset[str]]] = {
    "confirmed": frozenset({"swap_finalized"}),
    "failed": frozenset({"attempt_resolved_failed", "order_failed"}),
    "cancelled": frozenset({"attempt_resolved_cancelled", "order_cancelled"}),
    "expired": frozenset({"attempt_resolved_expired", "order_expired"}),
}
MEMO: Final = re.compile(r"oee:([0-9a-f-]{36}):([0-9]+):[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise; `order_id` is empty when no order is to be named."""

    rule: str
    order_id: str
    what: str


@dataclass(frozen=True, slots=True)
class Life:
    """One order with all that belongs to it."""

    order: Order
    attempts: Sequence[Attempt]
    events: Sequence[Event]
    swaps: Sequence[Swap]
    told: Sequence[Told] = field(default_factory=list)

    @property
    def is_confirmed(self) -> bool:
        return self.order.status == "confirmed"


def check(facts: Facts) -> list[Violation]:
    """Every broken promise."""
    return [*_lost(facts), *_stray_swaps(facts), *_all_of(_lives(facts))]


def _lives(facts: Facts) -> list[Life]:
    attempts = _grouped((attempt.order_id, attempt) for attempt in facts.attempts)
    swaps = _grouped((_order_id(swap), swap) for swap in facts.swaps)
    told = _grouped((order_id, told) for told in facts.told for order_id in told.order_ids)
    return [
        Life(
            order,
            attempts.get(order.order_id, []),
            facts.events.get(order.order_id, []),
            swaps.get(order.order_id, []),
            told.get(order.order_id, []),
        )
        for order in facts.orders
    ]


def _all_of(lives: Iterable[Life]) -> Iterator[Violation]:
    for life in lives:
        for rule in RULES:
            for what in rule(life):
                yield Violation(rule.__name__.strip("_"), life.order.order_id, what)


def _lost(facts: Facts) -> Iterator[Violation]:
    """No accepted order is lost, and a key has one order."""
    keys = {order.order_id: order.client_order_id for order in facts.orders}
    for told in facts.told:
        for answer in told.wrong_answers:
            yield Violation("wrong_answer", ",".join(told.order_ids), answer)
        if len(told.order_ids) > 1:
            ids = ", ".join(sorted(told.order_ids))
            yield Violation("one_key_one_order", "", f"{told.client_order_id} is {ids}")
        for order_id in told.order_ids:
            if keys.get(order_id) != told.client_order_id:
                what = f"accepted as {told.client_order_id}, on record as {keys.get(order_id)}"
                yield Violation("lost", order_id, what)
    for key, count in Counter(filter(None, keys.values())).items():
        if count > 1:
            yield Violation("one_key_one_order", "", f"{key} has {count} orders")


def _stray_swaps(facts: Facts) -> Iterator[Violation]:
    """Every swap on the chain is one of an order's recorded attempts."""
    attempts = {attempt.signature: attempt for attempt in facts.attempts}
    for swap in facts.swaps:
        attempt, memo = attempts.get(swap.signature), MEMO.fullmatch(swap.memo)
        if attempt is None or memo is None:
            yield Violation("stray_swap", _order_id(swap), f"no attempt is {swap}")
        elif (memo[1], int(memo[2])) != (attempt.order_id, attempt.number):
            yield Violation("stray_swap", attempt.order_id, f"its memo is {swap.memo}")


# ── what must hold of each order ──────────────────────────────────────────────────────────────


def _settled(life: Life) -> Iterator[str]:
    """Every order reaches its end, and says how."""
    if life.order.status not in ENDINGS or not life.order.settled:
        yield f"is {life.order.status}, settled: {life.order.settled}"
    elif life.events and life.events[-1].type not in ENDINGS[life.order.status]:
        yield f"is {life.order.status} after {life.events[-1].type}"


def _swapped(life: Life) -> Iterator[str]:
    """One transaction's swaps where CONFIRMED, each leg of it once; none elsewhere."""
    landed = [a.legs for a in life.attempts if life.is_confirmed and a.resolution == "landed"]
    legs = sorted(swap.leg for swap in life.swaps)
    if len({swap.signature for swap in life.swaps}) > 1 or legs != sorted(sum(landed, ())):
        swaps = ", ".join(f"{swap.signature} at {swap.slot}: {swap.leg}" for swap in life.swaps)
        yield f"is {life.order.status} with {len(life.swaps)} swaps: {swaps}"


def _amounts(life: Life) -> Iterator[str]:
    """Database, stream and chain tell the same amounts, of the swap that was ordered."""
    order = life.order
    told = [e for e in life.events if e.type == "swap_confirmed"]
    if not life.is_confirmed:
        if order.amount_out is not None:
            yield f"is {order.status} with an amount_out of {order.amount_out}"
        return
    recorded = (order.fill_signature, order.filled_amount_in, order.amount_out)
    if not told or (told[-1].signature, told[-1].amount_in, told[-1].amount_out) != recorded:
        yield f"recorded {recorded}, told {told[-1:]}"
    paid = sum(s.leg.amount_in for s in life.swaps if s.leg.mint_in == order.token_in)
    received = sum(s.amount_out for s in life.swaps if s.leg.mint_out == order.token_out)
    for swap in life.swaps:
        if (swap.signature, paid, received) != recorded:
            yield f"recorded {recorded}, the chain has {paid} for {received} by {swap.signature}"
        if paid != order.amount_in:
            yield f"ordered to pay {order.amount_in} of {order.token_in}, the chain has {swap}"
        if order.venues and swap.leg.venue not in order.venues:
            yield f"swapped at {swap.leg.venue}, allowed are {order.venues}"
    yield from _between(life)


def _between(life: Life) -> Iterator[str]:
    """What a route pays of a third token, it received before."""
    order, held = life.order, Counter[str]()
    for swap in sorted(life.swaps, key=lambda swap: swap.number):
        held[swap.leg.mint_out] += swap.amount_out
        if swap.leg.mint_in != order.token_in:
            held[swap.leg.mint_in] -= swap.leg.amount_in
            if held[swap.leg.mint_in] < 0:
                yield f"paid {swap.leg} out of what was there before"


def _floor(life: Life) -> Iterator[str]:
    """Nothing is signed, received or promised below the floor."""
    order = life.order
    asked = order.requested_min_amount_out
    if asked is not None and order.min_amount_out not in (None, asked):
        yield f"asked for at least {asked}, the floor is {order.min_amount_out}"
    floor = order.min_amount_out or asked or 1
    for attempt in life.attempts:
        if attempt.min_amount_out < floor:
            yield f"attempt {attempt.number} carries {attempt.min_amount_out}, not {floor}"
    last = [s.leg.min_amount_out for s in life.swaps if s.leg.mint_out == order.token_out]
    if life.swaps and sum(last) < floor:
        yield f"the floor is {floor}, the chain has {last}"
    for swap in life.swaps:
        if swap.amount_out < swap.leg.min_amount_out:
            yield f"received less than its floor: {swap}"


def _evidence(life: Life) -> Iterator[str]:
    """Every attempt is resolved, on readings that prove it."""
    landed = [attempt for attempt in life.attempts if attempt.resolution == "landed"]
    if len(landed) != (1 if life.is_confirmed else 0):
        yield f"is {life.order.status} with {len(landed)} landed attempts"
    if [attempt.number for attempt in life.attempts] != list(range(1, len(life.attempts) + 1)):
        yield f"has attempts {[attempt.number for attempt in life.attempts]}"
    for attempt in life.attempts:
        if not _proves(attempt):
            yield f"proves nothing: {attempt}"
    for attempt in landed:
        if any(swap.slot != attempt.slot for swap in life.swaps):
            yield f"landed at {attempt.slot}, the chain has {life.swaps}"


def _proves(attempt: Attempt) -> bool:
    match attempt.resolution:
        case "landed":
            return attempt.status_context_slot >= attempt.slot > 0 and not attempt.error
        case "landed_with_error":
            return attempt.status_context_slot >= attempt.slot > 0 and bool(attempt.error)
        case "expired_unlanded":
            return (
                attempt.finalized_block_height > attempt.last_valid_block_height
                and attempt.status_context_slot >= attempt.height_context_slot > 0
                and not attempt.slot
                and not attempt.error
            )
        case _:
            return False


def _expiry(life: Life) -> Iterator[str]:
    """Nothing is signed after expire_time."""
    end = life.order.expire_time
    for attempt in life.attempts:
        if end is not None and attempt.sign_time > end:
            yield f"attempt {attempt.number} was signed at {attempt.sign_time}, after {end}"


def _audit_log(life: Life) -> Iterator[str]:
    """The log has no gap, each event begins where the one before ended, the last is the order."""
    order, events = life.order, life.events
    if [event.sequence for event in events] != list(range(1, order.sequence + 1)):
        yield f"is at {order.sequence}, its log has {[event.sequence for event in events]}"
        return
    before = [None, *(event.status for event in events[:-1])]
    if [event.previous_status for event in events] != before:
        yield "has a log whose statuses do not follow each other"
    if events and (events[-1].status, events[-1].settled) != (order.status, order.settled):
        yield f"is {order.status}, its log ends with {events[-1]}"
    signed = [event.signature for event in events if event.type == "attempt_signed"]
    if signed != [attempt.signature for attempt in life.attempts]:
        yield f"has a log with the attempts {signed}"


def _streams(life: Life) -> Iterator[str]:
    """Each stream is the audit log from its start on, without a gap, to the end."""
    for told in life.told:
        for stream in told.streams:
            seen = [event.sequence for event in stream.events]
            if seen != list(range(stream.after + 1, stream.after + 1 + len(seen))):
                yield f"a stream after {stream.after} has {seen}"
                continue
            end = stream.after + len(seen)
            logged = life.events[stream.after : end]
            for event, original in zip(stream.events, logged, strict=False):
                if event != original:
                    yield f"a stream told {event}, the log has {original}"
            if len(logged) != len(seen):
                yield f"a stream told {len(seen) - len(logged)} events that the log has not"
            elif not stream.ended:
                yield f"a stream came to {end} and to no end"
            elif stream.until_settled and end != life.order.sequence:
                yield f"a stream ended at {end}, the order at {life.order.sequence}"
            elif end and life.events[end - 1].status not in ENDINGS:
                yield f"a stream ended at {end}, which is {life.events[end - 1].status}"


def _cancels(life: Life) -> Iterator[str]:
    """What a cancel was answered is what happened."""
    for answer in (answer for told in life.told for answer in told.cancels):
        later = [e.type for e in life.events if e.sequence > answer.sequence]
        then = next((e for e in life.events if e.sequence == answer.sequence), None)
        match answer.outcome:
            case "cancelled_now":
                if life.order.status != "cancelled" or later:
                    yield f"was CANCELLED_NOW at {answer.sequence} and is {life.order.status}"
            case "cancel_pending":
                asked = any(e.type == "cancel_requested" for e in life.events)
                if not asked or "attempt_signed" in later:
                    yield f"was CANCEL_PENDING at {answer.sequence}; then came {later}"
            case _:
                if then is None or then.status not in ENDINGS:
                    yield f"was TOO_LATE at {answer.sequence}, which is {then}"


RULES: Final = (
    _settled,
    _swapped,
    _amounts,
    _floor,
    _evidence,
    _expiry,
    _audit_log,
    _streams,
    _cancels,
)


def _order_id(swap: Swap) -> str:
    memo = MEMO.fullmatch(swap.memo)
    return memo[1] if memo else ""


def _grouped(pairs: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for key, item in pairs:
        groups[key].append(item)
    return dict(groups)
