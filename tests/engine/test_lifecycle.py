"""The transition table: what it allows is written out here a second time, from the design."""

from __future__ import annotations

import itertools

import pytest

from engine.errors import IllegalTransition
from engine.lifecycle import FINAL, TRANSITIONS, EventType, Status, next_status

# The design's table, arc by arc, in its own words.
DESIGN = """
none      -order_accepted-> pending
pending   -routing_started-> routing
routing   -route_chosen-> routing
routing   -retry_scheduled-> routing
routing   -build_started-> building
building  -retry_scheduled-> routing
building  -attempt_signed-> submitted
submitted -cancel_requested-> submitted
submitted -swap_confirmed-> confirmed
submitted -attempt_resolved-> routing
submitted -attempt_resolved_failed-> failed
submitted -attempt_resolved_cancelled-> cancelled
submitted -attempt_resolved_expired-> expired
confirmed -swap_finalized-> confirmed
confirmed -swap_reorged-> submitted
pending   -order_failed-> failed
routing   -order_failed-> failed
building  -order_failed-> failed
pending   -order_cancelled-> cancelled
routing   -order_cancelled-> cancelled
building  -order_cancelled-> cancelled
pending   -order_expired-> expired
routing   -order_expired-> expired
building  -order_expired-> expired
"""

STATUSES: list[Status | None] = [None, *Status]
ARCS = {
    (status, event.strip("->")): to
    for status, event, to in (line.split() for line in DESIGN.strip().splitlines())
}


def name(status: Status | None) -> str:
    return status.value if status else "none"


EVERY_PAIR = list(itertools.product(STATUSES, EventType))
ALLOWED = [(s, e) for s, e in EVERY_PAIR if (name(s), e.value) in ARCS]
REFUSED = [(s, e) for s, e in EVERY_PAIR if (name(s), e.value) not in ARCS]


def test_the_design_has_twenty_four_arcs() -> None:
    assert len(ARCS) == len(ALLOWED) == len(TRANSITIONS) == 24


@pytest.mark.parametrize(("status", "event"), ALLOWED)
def test_an_arc_of_the_design_leads_where_the_design_says(
    status: Status | None, event: EventType
) -> None:
    assert next_status(status, event).value == ARCS[name(status), event.value]


@pytest.mark.parametrize(("status", "event"), REFUSED)
def test_a_move_outside_the_design_is_refused_by_name(
    status: Status | None, event: EventType
) -> None:
    with pytest.raises(IllegalTransition, match=f"^{event} cannot follow status {name(status)}$"):
        next_status(status, event)


def test_every_status_is_reached_from_the_first() -> None:
    reached: set[Status | None] = {None}
    for _ in Status:
        reached |= {to for (status, _), to in TRANSITIONS.items() if status in reached}

    assert reached == {None, *Status}


def test_every_event_happens_somewhere() -> None:
    assert {event for _, event in TRANSITIONS} == set(EventType)


def test_four_statuses_are_final() -> None:
    assert {"confirmed", "failed", "cancelled", "expired"} == FINAL


def test_only_a_confirmed_order_may_move_on_after_a_final_status() -> None:
    left = {(status, event.value) for status, event in TRANSITIONS if status in FINAL}

    assert left == {("confirmed", "swap_finalized"), ("confirmed", "swap_reorged")}


def test_nothing_that_was_signed_ends_but_by_resolving_its_attempt() -> None:
    ends = {e for (s, e), to in TRANSITIONS.items() if s is Status.SUBMITTED and to in FINAL}

    assert ends == {
        EventType.SWAP_CONFIRMED,
        EventType.ATTEMPT_RESOLVED_FAILED,
        EventType.ATTEMPT_RESOLVED_CANCELLED,
        EventType.ATTEMPT_RESOLVED_EXPIRED,
    }
