"""The storm in small, and its checker: whatever is planted is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from oee.ports import Ports
from oee.stack import Stack
from tests.chaos.checker import check
from tests.chaos.facts import (
    Attempt,
    CancelAnswer,
    Event,
    Facts,
    Leg,
    Order,
    Stream,
    Swap,
    Told,
)
from tests.chaos.schedule import BLOWS, FAULTS, Verb, plan
from tests.chaos.soak import growth
from tests.chaos.storm import Report, storm

SEED = 1430
STORM_SECONDS = 12
ORDERS_PER_SECOND = 8

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BOUGHT = "01900000-0000-7000-8000-000000000001"
FAILED = "01900000-0000-7000-8000-000000000002"
CANCELLED = "01900000-0000-7000-8000-000000000003"

Plant = Callable[[Facts], Facts]


# A split: two thirds straight, one by way of a third token.
LEGS = (
    Leg("raydium", "one", "sol", "usdc", 1_000, 140),
    Leg("raydium", "two", "sol", "usdt", 500, 75),
    Leg("raydium", "three", "usdt", "usdc", 75, 70),
)


def _events(*steps: tuple[str, str], **facts: object) -> list[Event]:
    statuses = [None, *(status for _, status in steps)]
    return [
        Event(
            sequence=number,
            type=type_,
            previous_status=statuses[number - 1],
            status=status,
            settled=number == len(steps),
            **(facts if type_ in ("attempt_signed", "swap_confirmed") else {}),  # type: ignore[arg-type]
        )
        for number, (type_, status) in enumerate(steps, start=1)
    ]


def _order(order_id: str, status: str, log: Sequence[Event]) -> Order:
    return Order(
        order_id=order_id,
        client_order_id=f"key-{order_id[-1]}",
        status=status,
        settled=True,
        sequence=len(log),
        token_in="sol",
        token_out="usdc",
        amount_in=1_500,
        venues=("raydium",),
    )


def _told(order: Order, log: Sequence[Event], cancels: Sequence[CancelAnswer] = ()) -> Told:
    streams = [Stream(0, True, log, ended=True), Stream(1, True, log[1:], ended=True)]
    return Told(order.client_order_id or "", frozenset({order.order_id}), streams, cancels)


@pytest.fixture
def facts() -> Facts:
    """A swap; a failure whose one attempt expired; a cancel before anything was signed."""
    unsigned = [("order_accepted", "pending"), ("routing_started", "routing")]
    signed = [*unsigned, ("build_started", "building"), ("attempt_signed", "submitted")]
    swapped = [*signed, ("swap_confirmed", "confirmed"), ("swap_finalized", "confirmed")]
    bought_log = [
        replace(event, amount_in=1_500, amount_out=220) if event.type == "swap_confirmed" else event
        for event in _events(*swapped, signature="s1")
    ]
    failed_log = _events(*signed, ("attempt_resolved_failed", "failed"), signature="s2")
    cancelled_log = _events(*unsigned, ("order_cancelled", "cancelled"))
    bought = replace(
        _order(BOUGHT, "confirmed", bought_log),
        min_amount_out=210,
        filled_amount_in=1_500,
        amount_out=220,
        fill_signature="s1",
    )
    failed = replace(_order(FAILED, "failed", failed_log), min_amount_out=210)
    cancelled = _order(CANCELLED, "cancelled", cancelled_log)
    landed = Attempt(
        order_id=BOUGHT,
        number=1,
        legs=LEGS,
        signature="s1",
        last_valid_block_height=200,
        min_amount_out=210,
        sign_time=NOW,
        resolution="landed",
        slot=77,
        status_context_slot=80,
    )
    expired = replace(
        landed,
        order_id=FAILED,
        signature="s2",
        resolution="expired_unlanded",
        slot=0,
        finalized_block_height=201,
        height_context_slot=230,
        status_context_slot=230,
    )
    swaps = [
        Swap(number, "s1", 77, leg, amount_out, f"oee:{BOUGHT}:1:abcdef")
        for number, (leg, amount_out) in enumerate(zip(LEGS, (145, 80, 75), strict=True), start=1)
    ]
    return Facts(
        orders=[bought, failed, cancelled],
        attempts=[landed, expired],
        events={BOUGHT: bought_log, FAILED: failed_log, CANCELLED: cancelled_log},
        swaps=swaps,
        told=[
            _told(bought, bought_log, [CancelAnswer("too_late", 6)]),
            _told(failed, failed_log),
            _told(cancelled, cancelled_log, [CancelAnswer("cancelled_now", 3)]),
        ],
    )


def _with_order(order_id: str, **changes: object) -> Plant:
    return lambda facts: replace(
        facts,
        orders=[
            replace(o, **changes) if o.order_id == order_id else o  # type: ignore[arg-type]
            for o in facts.orders
        ],
    )


def _with_attempt(order_id: str, **changes: object) -> Plant:
    return lambda facts: replace(
        facts,
        attempts=[
            replace(a, **changes) if a.order_id == order_id else a  # type: ignore[arg-type]
            for a in facts.attempts
        ],
    )


def _with_swap(**changes: object) -> Plant:
    return lambda facts: replace(
        facts,
        swaps=[replace(facts.swaps[0], **changes), *facts.swaps[1:]],  # type: ignore[arg-type]
    )


def _with_leg(number: int, **changes: object) -> Plant:
    """Another leg on the chain."""

    def plant(facts: Facts) -> Facts:
        swaps = list(facts.swaps)
        leg = replace(swaps[number].leg, **changes)  # type: ignore[arg-type]
        swaps[number] = replace(swaps[number], leg=leg)
        return replace(facts, swaps=swaps)

    return plant


def _and_swap(**changes: object) -> Plant:
    return lambda facts: replace(
        facts,
        swaps=[*facts.swaps, replace(facts.swaps[0], **changes)],  # type: ignore[arg-type]
    )


def _with_stream(change: Callable[[Stream], Stream]) -> Plant:
    """The first stream of the first client, changed."""

    def plant(facts: Facts) -> Facts:
        [first, *others] = facts.told
        streams = [change(first.streams[0]), *first.streams[1:]]
        return replace(facts, told=[replace(first, streams=streams), *others])

    return plant


def _with_told(number: int, **changes: object) -> Plant:
    return lambda facts: replace(
        facts,
        told=[
            replace(told, **changes) if index == number else told  # type: ignore[arg-type]
            for index, told in enumerate(facts.told)
        ],
    )


def _without(stream: Stream, index: int) -> Stream:
    return replace(stream, events=[*stream.events[:index], *stream.events[index + 1 :]])


def _changed(stream: Stream, index: int, **changes: object) -> Stream:
    events = list(stream.events)
    events[index] = replace(events[index], **changes)  # type: ignore[arg-type]
    return replace(stream, events=events)


PLANTED: list[tuple[str, str, Plant]] = [
    ("a double swap, same signature", "swapped", _and_swap(number=2, slot=78)),
    (
        "a double swap under a signature of its own",
        "stray_swap",
        _and_swap(number=2, signature="s9"),
    ),
    (
        "a swap of a failed order",
        "swapped",
        _and_swap(number=2, signature="s2", memo=f"oee:{FAILED}:1:abcdef"),
    ),
    ("a confirmed order without a swap", "swapped", lambda f: replace(f, swaps=[])),
    ("a leg that did not happen", "swapped", lambda f: replace(f, swaps=f.swaps[:-1])),
    ("a leg in another pool", "swapped", _with_leg(1, pool="four")),
    ("a leg paid out of older holdings", "amounts", _with_leg(2, amount_in=81)),
    ("a swap without a memo", "stray_swap", _with_swap(memo="")),
    ("a memo of another attempt", "stray_swap", _with_swap(memo=f"oee:{BOUGHT}:2:abcdef")),
    ("a lost order", "lost", lambda f: replace(f, orders=f.orders[1:])),
    ("an order under another key", "lost", _with_order(BOUGHT, client_order_id="other")),
    (
        "two orders for one key",
        "one_key_one_order",
        _with_told(0, order_ids=frozenset({BOUGHT, FAILED})),
    ),
    (
        "a key twice in the database",
        "one_key_one_order",
        _with_order(FAILED, client_order_id="key-1"),
    ),
    ("an order that is not settled", "settled", _with_order(BOUGHT, settled=False)),
    ("an order that is not final", "settled", _with_order(FAILED, status="submitted")),
    ("a client that was sent away", "wrong_answer", _with_told(1, wrong_answers=["NOT_FOUND"])),
    ("a gap in a stream", "streams", _with_stream(lambda s: _without(s, 2))),
    (
        "an event twice in a stream",
        "streams",
        _with_stream(lambda s: replace(s, events=[s.events[0], *s.events])),
    ),
    ("a stream without its end", "streams", _with_stream(lambda s: _without(s, -1))),
    ("a stream that broke off", "streams", _with_stream(lambda s: replace(s, ended=False))),
    (
        "a stream that ended too early",
        "streams",
        _with_stream(lambda s: replace(s, until_settled=False, events=s.events[:2])),
    ),
    (
        "another amount in a stream",
        "streams",
        _with_stream(lambda s: _changed(s, 4, amount_out=221)),
    ),
    ("another word in a stream", "streams", _with_stream(lambda s: _changed(s, 1, text="?"))),
    (
        "an event that the log has not",
        "streams",
        lambda f: replace(f, events={**f.events, BOUGHT: f.events[BOUGHT][:-1]}),
    ),
    (
        "a gap in the log",
        "audit_log",
        lambda f: replace(f, events={**f.events, FAILED: f.events[FAILED][1:]}),
    ),
    (
        "a log that jumps",
        "audit_log",
        lambda f: replace(
            f,
            events={
                **f.events,
                FAILED: [replace(e, previous_status="routing") for e in f.events[FAILED]],
            },
        ),
    ),
    (
        "an attempt that the log has not",
        "audit_log",
        lambda f: replace(f, attempts=[*f.attempts, replace(f.attempts[1], number=2)]),
    ),
    ("another amount in the database", "amounts", _with_order(BOUGHT, amount_out=219)),
    ("another amount on the chain", "amounts", _with_swap(amount_out=219)),
    ("a swap of another amount", "amounts", _with_leg(0, amount_in=3_000)),
    ("a swap of another token", "amounts", _with_leg(0, mint_out="bonk")),
    ("a swap at another venue", "amounts", _with_leg(0, venue="meteora")),
    ("a failed order with an amount", "amounts", _with_order(FAILED, amount_out=220)),
    ("a swap below the floor", "floor", _with_order(BOUGHT, min_amount_out=221)),
    ("a swap signed below the floor", "floor", _with_leg(2, min_amount_out=69)),
    ("an attempt below the floor", "floor", _with_attempt(FAILED, min_amount_out=209)),
    ("another floor than asked for", "floor", _with_order(FAILED, requested_min_amount_out=211)),
    (
        "an attempt without a resolution",
        "evidence",
        _with_attempt(FAILED, resolution=None),
    ),
    (
        "a blockhash that had not expired",
        "evidence",
        _with_attempt(FAILED, finalized_block_height=200),
    ),
    (
        "a status from a node behind the height",
        "evidence",
        _with_attempt(FAILED, status_context_slot=229),
    ),
    (
        "a revert that was not seen",
        "evidence",
        _with_attempt(FAILED, resolution="landed_with_error"),
    ),
    ("a landed attempt of a failed order", "evidence", _with_attempt(FAILED, resolution="landed")),
    ("another slot on the chain", "evidence", _with_swap(slot=78)),
    (
        "an attempt signed after the order's end",
        "expiry",
        _with_order(FAILED, expire_time=NOW - timedelta(seconds=1)),
    ),
    (
        "a cancel that did not cancel",
        "cancels",
        _with_told(1, cancels=[CancelAnswer("cancelled_now", 5)]),
    ),
    (
        "an attempt after a cancel",
        "cancels",
        _with_told(1, cancels=[CancelAnswer("cancel_pending", 3)]),
    ),
    (
        "a cancel too late for an order that had not ended",
        "cancels",
        _with_told(1, cancels=[CancelAnswer("too_late", 3)]),
    ),
]


def test_the_checker_finds_nothing_where_nothing_is_wrong(facts: Facts) -> None:
    assert check(facts) == []


@pytest.mark.parametrize(
    ("rule", "plant"), [planted[1:] for planted in PLANTED], ids=[planted[0] for planted in PLANTED]
)
def test_the_checker_finds(facts: Facts, rule: str, plant: Plant) -> None:
    assert rule in {violation.rule for violation in check(plant(facts))}


def test_a_seed_repeats_its_storm_and_a_longer_one_begins_like_a_shorter() -> None:
    short, long = plan(1, 60), plan(1, 120)

    assert plan(1, 60) == short != plan(2, 60)
    assert long[: len(short)] == short


def test_two_minutes_have_every_blow_and_every_fault() -> None:
    dealt = plan(1, 120)

    blows = {(action.verb, action.target) for action in dealt}
    assert {(card.verb, card.target) for card in BLOWS} <= blows
    faults = {str(action.faults) for action in dealt if action.verb is Verb.INJECT}
    assert faults == {str(card.faults) for card in FAULTS}


def test_nothing_else_is_done_to_a_pair_of_which_one_sleeps() -> None:
    blows = [action for action in plan(1, 600) if action.verb is not Verb.INJECT]
    sleeps = [action for action in blows if action.verb is Verb.PAUSE]

    during = [
        (sleep, action)
        for sleep in sleeps
        for action in blows
        if action.target.removesuffix("-2") == sleep.target.removesuffix("-2")
        and sleep.at_seconds < action.at_seconds < sleep.at_seconds + sleep.lasts_seconds - 0.1
    ]
    assert during == []


def test_memory_that_still_grows_after_the_first_third_is_found() -> None:
    warming_up = [50.0 + second for second in range(60)]

    assert growth([*warming_up, *[110.0] * 120]).growth_percent == 0
    assert growth([*warming_up, *(110 + second / 4 for second in range(120))]).growth_percent > 10


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A real storm, in small."""
    directory = tmp_path_factory.mktemp("storm")
    with (directory / "services.log").open("w") as log:
        try:
            return await storm(
                directory,
                SEED,
                STORM_SECONDS,
                ORDERS_PER_SECOND,
                lambda source, line: print(source, line, file=log),
                measures_recovery=False,
            )
        finally:
            await Stack(directory, Ports.free(), {}).wipe()


@pytest.mark.asyncio(loop_scope="module")
async def test_every_promise_holds_in_a_storm(report: Report) -> None:
    assert report.violations == []
    assert len(report.facts.swaps) > ORDERS_PER_SECOND
    assert {"kill executor", "kill gateway", "wipe nats", "restart postgres"} <= set(
        report.disturbances.done
    )


@pytest.mark.asyncio(loop_scope="module")
async def test_the_checker_finds_what_is_planted_in_a_real_storm(report: Report) -> None:
    facts = report.facts
    told = next(told for told in facts.told if told.streams)
    torn = replace(told, streams=[_without(told.streams[0], 1)])

    twice = replace(facts, swaps=[*facts.swaps, facts.swaps[0]])
    lost = replace(facts, orders=facts.orders[:-1])
    gap = replace(facts, told=[torn])

    assert "swapped" in {violation.rule for violation in check(twice)}
    assert "lost" in {violation.rule for violation in check(lost)}
    assert [violation.rule for violation in check(gap)] == ["streams"]
