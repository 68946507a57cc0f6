"""The order's verbs: what each demands, what it decides, and walks through a whole life."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from engine.adoption import Landing, Swapped, adopt
from engine.attempt import Resolution
from engine.errors import IllegalTransition
from engine.lifecycle import FINAL, UNSIGNED, EventType, Status
from engine.order import Order, OrderRequest, Retry, Transition, first_difference
from engine.route import Hints, Route, RouteDecision, VenueQuote
from tests import builders
from tests.builders import EVIDENCE, FAILURE, SOL, USDC, in_status

EXPIRED_UNLANDED = Resolution.EXPIRED_UNLANDED
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def resolve(order: Order) -> Transition:
    return order.resolve(EXPIRED_UNLANDED, EVIDENCE, FAILURE)


# ── what each verb demands ────────────────────────────────────────────────────────────────────

Verb = Callable[[Order], Transition]

# Every verb, and the statuses it may be used in.
VERBS: dict[str, tuple[Verb, set[Status]]] = {
    "start_routing": (Order.start_routing, {Status.PENDING}),
    "choose_route": (lambda o: o.choose_route(builders.decision()), {Status.ROUTING}),
    "start_building": (
        lambda o: replace(o, route=in_status(Status.BUILDING).route).start_building(),
        {Status.ROUTING},
    ),
    "sign": (lambda o: o.sign(builders.attempt(o)), {Status.BUILDING}),
    "confirm": (
        lambda o: o.confirm(builders.fill(in_status(Status.SUBMITTED))),
        {Status.SUBMITTED},
    ),
    "finalize": (lambda o: o.finalize(EVIDENCE), {Status.CONFIRMED}),
    "reorg": (Order.reorg, {Status.CONFIRMED}),
    "request_cancel": (Order.request_cancel, {Status.SUBMITTED}),
    "resolve": (resolve, {Status.SUBMITTED}),
    "retry_or_fail": (lambda o: o.retry_or_fail(FAILURE), {Status.ROUTING, Status.BUILDING}),
    "fail": (lambda o: o.fail(FAILURE), set(UNSIGNED)),
    "cancel": (Order.cancel, set(UNSIGNED)),
    "expire": (Order.expire, set(UNSIGNED)),
}


@pytest.mark.parametrize(
    ("verb", "status"),
    [(verb, status) for verb, (_, used_in) in VERBS.items() for status in sorted(used_in)],
)
def test_a_verb_makes_one_event_and_the_next_version(verb: str, status: Status) -> None:
    order = in_status(status)

    moved = VERBS[verb][0](order)

    assert moved.order.sequence == moved.event.sequence == order.sequence + 1
    assert moved.event.order_id == moved.order.order_id == order.order_id
    assert (moved.event.previous_status, moved.event.status) == (status, moved.order.status)
    assert moved.event.settled is moved.order.settled


@pytest.mark.parametrize(
    ("verb", "status"),
    [(verb, s) for verb, (_, used_in) in VERBS.items() for s in Status if s not in used_in],
)
def test_a_verb_is_refused_in_every_other_status(verb: str, status: Status) -> None:
    with pytest.raises(IllegalTransition):
        VERBS[verb][0](in_status(status))


def test_the_first_event_of_an_order_says_that_it_was_accepted() -> None:
    order = builders.new_order()

    accepted = order.accept()

    assert accepted.order is order
    assert accepted.event.type is EventType.ORDER_ACCEPTED
    assert (accepted.event.sequence, accepted.event.previous_status) == (1, None)


def test_a_decision_without_a_winner_is_no_route() -> None:
    nothing = RouteDecision((VenueQuote("raydium", 1, refusal=FAILURE),), "nobody offered")

    with pytest.raises(IllegalTransition, match="without a winner"):
        in_status(Status.ROUTING).choose_route(nothing)


def test_a_decision_without_a_floor_is_no_route() -> None:
    with pytest.raises(IllegalTransition, match="without a winner"):
        in_status(Status.ROUTING).choose_route(replace(builders.decision(), min_amount_out=None))


def test_hints_go_with_the_order_until_it_is_signed_and_into_no_event() -> None:
    hinted = Route((replace(builders.leg(), hints=Hints(config=2)),), 225_000_000)

    chosen = in_status(Status.ROUTING).choose_route(builders.decision(), hinted)
    building = chosen.order.start_building()
    legs = hinted.agreed_legs
    signed = building.order.sign(replace(builders.attempt(building.order), legs=legs))

    assert chosen.order.route == building.order.route == hinted
    assert signed.order.route == builders.route() == Route(legs, 225_000_000)
    for step in (chosen, building, signed):
        assert b"hints" not in msgspec.json.encode(step.event.detail)


def test_an_attempt_that_is_adopted_has_no_hints() -> None:
    order = in_status(Status.ROUTING)
    hinted = Route((replace(builders.leg(), hints=Hints(config=2)),), 225_000_000)
    order = order.choose_route(builders.decision(), hinted).order
    swapped = Swapped(
        order.request.token_in, order.request.token_out, order.request.amount_in, 10**9, 5000
    )

    *_, settled = adopt(
        order, Landing(order.order_id, 1, order.key_hash, "a", 1, 1, "", (swapped,))
    )

    assert [attempt.legs for attempt in settled.order.attempts] == [(builders.leg(),)]


def test_nothing_is_built_without_a_route() -> None:
    with pytest.raises(IllegalTransition, match="without a route"):
        in_status(Status.ROUTING).start_building()


def test_a_second_attempt_is_refused_while_one_is_live() -> None:
    submitted = in_status(Status.SUBMITTED)
    building_again = replace(submitted, status=Status.BUILDING)

    with pytest.raises(IllegalTransition, match="at most one live attempt"):
        building_again.sign(builders.attempt(building_again))


def test_an_attempt_never_takes_the_number_of_an_earlier_one() -> None:
    first = in_status(Status.SUBMITTED)
    routing = resolve(first).order
    building = routing.choose_route(builders.decision()).order.start_building().order

    with pytest.raises(IllegalTransition, match="number of its own"):
        building.sign(replace(builders.attempt(building), number=1))


def test_an_attempt_is_not_signed_when_it_has_a_resolution_already() -> None:
    order = in_status(Status.BUILDING)

    with pytest.raises(IllegalTransition, match="live"):
        order.sign(replace(builders.attempt(order), resolution=EXPIRED_UNLANDED))


def test_no_attempt_takes_a_number_again() -> None:
    order = in_status(Status.SUBMITTED)
    order = order.resolve(Resolution.EXPIRED_UNLANDED, builders.EVIDENCE, builders.FAILURE).order
    order = order.choose_route(builders.decision()).order.start_building().order

    assert order.next_number == 2
    with pytest.raises(IllegalTransition, match="number of its own"):
        order.sign(replace(builders.attempt(order), number=1))


def test_an_attempt_below_the_floor_is_never_signed() -> None:
    order = in_status(Status.BUILDING)
    assert order.min_amount_out is not None

    with pytest.raises(IllegalTransition, match="floor"):
        order.sign(replace(builders.attempt(order), min_amount_out=order.min_amount_out - 1))


def test_an_attempt_may_promise_more_than_the_floor() -> None:
    order = in_status(Status.BUILDING)
    assert order.min_amount_out is not None
    better = replace(builders.attempt(order), min_amount_out=order.min_amount_out + 1)

    assert order.sign(better).order.live_attempt == better


def test_an_attempt_that_landed_cannot_be_called_dead() -> None:
    with pytest.raises(IllegalTransition, match="landed"):
        in_status(Status.SUBMITTED).resolve(Resolution.LANDED, EVIDENCE, FAILURE)


def test_a_finalized_swap_is_neither_finalized_again_nor_taken_back() -> None:
    settled = in_status(Status.CONFIRMED).finalize(EVIDENCE).order

    assert settled.settled
    with pytest.raises(IllegalTransition, match="no live attempt"):
        settled.finalize(EVIDENCE)
    with pytest.raises(IllegalTransition, match="not taken back"):
        settled.reorg()


# ── the floor (R6) ────────────────────────────────────────────────────────────────────────────


def test_the_first_route_pins_the_floor() -> None:
    routed = in_status(Status.ROUTING).choose_route(builders.decision(floor=222_750_000)).order

    assert routed.min_amount_out == 222_750_000
    for floor in (222_749_999, 222_750_001):
        with pytest.raises(IllegalTransition, match="pinned"):
            routed.choose_route(builders.decision(floor=floor))


def test_a_better_quote_later_leaves_the_floor_where_it_was() -> None:
    routed = in_status(Status.ROUTING).choose_route(builders.decision()).order

    again = routed.choose_route(builders.decision(amount_out=999_000_000)).order

    assert again.min_amount_out == routed.min_amount_out
    assert again.route is not None
    assert again.route.quoted_amount_out == 999_000_000


def test_the_floor_outlives_a_dead_attempt() -> None:
    submitted = in_status(Status.SUBMITTED)

    assert resolve(submitted).order.min_amount_out == submitted.min_amount_out is not None


@settings(deadline=None)
@given(st.integers(1, 2**64 - 1), st.integers(0, 5000))
def test_the_floor_is_the_quote_less_slippage_rounded_for_the_client(
    quoted: int, slippage_bps: int
) -> None:
    floor = OrderRequest(SOL, USDC, 1, slippage_bps=slippage_bps).floor(quoted)

    assert (floor - 1) * 10_000 < quoted * (10_000 - slippage_bps) <= floor * 10_000
    assert 1 <= floor <= quoted


@given(st.integers(1, 2**64 - 1))
def test_a_floor_given_by_the_client_does_not_depend_on_quotes(quoted: int) -> None:
    assert OrderRequest(SOL, USDC, 1, slippage_bps=None, min_amount_out=77).floor(quoted) == 77


# ── what follows a dead attempt ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("retries", [0, 3])
@pytest.mark.parametrize("read_time", [NOON - MINUTE, NOON + MINUTE])
def test_a_cancel_decides_before_expiry_and_before_the_tries_left(
    retries: int, read_time: datetime
) -> None:
    order = in_status(Status.SUBMITTED).request_cancel().order
    request = replace(order.request, expire_time=NOON)

    resolved = resolve(replace(order, retries=retries, request=request, read_time=read_time))

    assert resolved.event.type is EventType.ATTEMPT_RESOLVED_CANCELLED
    assert resolved.order.status is Status.CANCELLED


@pytest.mark.parametrize("retries", [0, 3])
@pytest.mark.parametrize("read_time", [NOON, NOON + MINUTE])
def test_expiry_decides_before_the_tries_left(retries: int, read_time: datetime) -> None:
    order = in_status(Status.SUBMITTED)
    request = replace(order.request, expire_time=NOON)

    resolved = resolve(replace(order, retries=retries, request=request, read_time=read_time))

    assert resolved.event.type is EventType.ATTEMPT_RESOLVED_EXPIRED
    assert resolved.order.status is Status.EXPIRED


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_while_tries_are_left_a_dead_attempt_leads_back_to_routing(retries: int) -> None:
    order = replace(in_status(Status.SUBMITTED), retries=retries)
    request = replace(order.request, expire_time=NOON)

    resolved = resolve(replace(order, request=request, read_time=NOON - MINUTE))

    assert resolved.event.type is EventType.ATTEMPT_RESOLVED
    assert resolved.order.status is Status.ROUTING
    assert resolved.order.route is None
    assert not resolved.order.settled


def test_when_no_try_is_left_a_dead_attempt_fails_the_order_with_its_reason() -> None:
    resolved = resolve(replace(in_status(Status.SUBMITTED), retries=3))

    assert resolved.event.type is EventType.ATTEMPT_RESOLVED_FAILED
    assert resolved.order.status is Status.FAILED
    assert resolved.order.failure == resolved.event.detail.failure == FAILURE


@pytest.mark.parametrize("resolution", [EXPIRED_UNLANDED, Resolution.LANDED_WITH_ERROR])
def test_a_resolution_keeps_its_evidence(resolution: Resolution) -> None:
    order = in_status(Status.SUBMITTED)

    resolved = order.resolve(resolution, EVIDENCE, FAILURE)

    [attempt] = resolved.order.attempts
    assert attempt == resolved.event.detail.attempt
    assert (attempt.resolution, attempt.evidence) == (resolution, EVIDENCE)
    assert replace(attempt, resolution=None, evidence=None) == order.live_attempt


# ── retries ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("retries", "seconds"), [(0, 1), (1, 2), (2, 4)])
@pytest.mark.parametrize("again", ["retry_or_fail", "resolve"])
def test_retries_back_off_one_two_and_four_seconds(again: str, retries: int, seconds: int) -> None:
    status = {"retry_or_fail": Status.ROUTING, "resolve": Status.SUBMITTED}[again]

    moved = VERBS[again][0](replace(in_status(status), retries=retries))

    assert moved.order.backoff == timedelta(seconds=seconds)
    assert moved.order.retries == retries + 1
    assert moved.event.detail.retry == Retry(retries + 1, seconds * 1000)


def test_the_fourth_transient_failure_ends_the_order() -> None:
    failed = replace(in_status(Status.ROUTING), retries=3).retry_or_fail(FAILURE)

    assert failed.event.type is EventType.ORDER_FAILED
    assert failed.order.failure == FAILURE
    assert failed.order.settled


def test_a_permanent_refusal_ends_the_order_at_once() -> None:
    failed = in_status(Status.BUILDING).fail(FAILURE)

    assert (failed.order.status, failed.order.retries) == (Status.FAILED, 0)


COUNTING = {"retry_or_fail", "resolve"}


@pytest.mark.parametrize(
    ("verb", "status"),
    [(v, s) for v, (_, used_in) in VERBS.items() if v not in COUNTING for s in sorted(used_in)],
)
def test_no_other_step_counts_as_a_retry_or_waits(verb: str, status: Status) -> None:
    order = replace(in_status(status), retries=2)

    moved = VERBS[verb][0](order)

    assert moved.order.retries == 2
    assert moved.order.backoff is None


@pytest.mark.parametrize(
    ("not_before", "waits"),
    [(None, False), (NOON, False), (NOON - MINUTE, False), (NOON + MINUTE, True)],
)
def test_an_order_backs_off_until_its_time_by_the_clock_it_was_read_with(
    not_before: datetime | None, waits: bool
) -> None:
    order = replace(builders.new_order(), not_before=not_before, read_time=NOON)

    assert order.backing_off is waits


@pytest.mark.parametrize(
    ("expire_time", "past"),
    [(None, False), (NOON + MINUTE, False), (NOON, True), (NOON - MINUTE, True)],
)
def test_an_order_expires_at_its_time_by_the_clock_it_was_read_with(
    expire_time: datetime | None, past: bool
) -> None:
    order = replace(builders.new_order(expire_time=expire_time), read_time=NOON)

    assert order.past_expiry is past


@pytest.mark.parametrize(
    ("field", "value"),
    [("token_in", "x"), ("amount_in", 2), ("slippage_bps", 50), ("venues", ("raydium",))],
)
def test_the_first_difference_between_two_requests_has_a_name(field: str, value: object) -> None:
    one = OrderRequest(SOL, USDC, 1)
    other = OrderRequest(**{"token_in": SOL, "token_out": USDC, "amount_in": 1} | {field: value})  # type: ignore[arg-type]

    assert first_difference(one, one) is None
    assert first_difference(one, other) == field


# ── whole lives ───────────────────────────────────────────────────────────────────────────────


def among(*statuses: Status) -> Callable[[OrderLife], bool]:
    return lambda life: life.order.status in statuses and not life.order.settled


class OrderLife(RuleBasedStateMachine):
    """An order that any allowed thing may happen to, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.order = replace(builders.new_order(expire_time=NOON), read_time=NOON - MINUTE)
        self.floors: list[int] = []
        self.counted = 0

    def take(self, moved: Transition) -> None:
        assert moved.order.sequence == moved.event.sequence == self.order.sequence + 1
        assert moved.event.previous_status is self.order.status
        self.order = moved.order
        self.floors += [self.order.min_amount_out] if self.order.min_amount_out else []
        self.counted += moved.event.type in (EventType.RETRY_SCHEDULED, EventType.ATTEMPT_RESOLVED)

    @precondition(among(Status.PENDING))
    @rule()
    def start_routing(self) -> None:
        self.take(self.order.start_routing())

    @precondition(among(Status.ROUTING))
    @rule(better=st.integers(0, 10**9))
    def choose_route(self, better: int) -> None:
        floor = self.order.min_amount_out or 222_750_000 + better
        self.take(self.order.choose_route(builders.decision(floor + better, floor)))

    @precondition(lambda life: among(Status.ROUTING)(life) and life.order.route is not None)
    @rule()
    def start_building(self) -> None:
        self.take(self.order.start_building())

    @precondition(among(Status.BUILDING))
    @rule()
    def sign(self) -> None:
        self.take(self.order.sign(builders.attempt(self.order)))

    @precondition(among(Status.SUBMITTED))
    @rule()
    def confirm(self) -> None:
        self.take(self.order.confirm(builders.fill(self.order)))

    @precondition(among(Status.SUBMITTED))
    @rule()
    def request_cancel(self) -> None:
        self.take(self.order.request_cancel())

    @precondition(among(Status.SUBMITTED))
    @rule(resolution=st.sampled_from([EXPIRED_UNLANDED, Resolution.LANDED_WITH_ERROR]))
    def resolve(self, resolution: Resolution) -> None:
        self.take(self.order.resolve(resolution, EVIDENCE, FAILURE))

    @precondition(among(Status.CONFIRMED))
    @rule()
    def reorg(self) -> None:
        self.take(self.order.reorg())

    @precondition(among(Status.CONFIRMED))
    @rule()
    def finalize(self) -> None:
        self.take(self.order.finalize(EVIDENCE))

    @precondition(among(Status.ROUTING, Status.BUILDING))
    @rule()
    def retry_or_fail(self) -> None:
        self.take(self.order.retry_or_fail(FAILURE))

    @precondition(among(*UNSIGNED))
    @rule(verb=st.sampled_from(["cancel", "expire", "fail"]))
    def end(self, verb: str) -> None:
        self.take(VERBS[verb][0](self.order))

    @rule()
    def time_passes(self) -> None:
        self.order = replace(self.order, read_time=NOON + MINUTE)

    @rule()
    def whatever_the_status_does_not_allow_is_refused(self) -> None:
        for verb in (verb for verb, used_in in VERBS.values() if self.order.status not in used_in):
            with pytest.raises(IllegalTransition):
                verb(self.order)

    @invariant()
    def the_floor_never_changes_once_set(self) -> None:
        assert len(set(self.floors)) <= 1

    @invariant()
    def at_most_one_attempt_is_live(self) -> None:
        live = [attempt for attempt in self.order.attempts if attempt.resolution is None]
        assert len(live) <= 1
        assert live == [] or live[0] is self.order.attempts[-1]

    @invariant()
    def a_live_attempt_means_that_the_swap_may_happen_or_has(self) -> None:
        may = self.order.status in (Status.SUBMITTED, Status.CONFIRMED) and not self.order.settled
        assert (self.order.live_attempt is not None) is may

    @invariant()
    def there_are_at_most_three_retries_and_they_are_those_counted(self) -> None:
        assert self.order.retries == self.counted <= 3
        assert len(self.order.attempts) <= 4

    @invariant()
    def settled_means_final_and_nothing_is_live(self) -> None:
        ended = self.order.status in FINAL and self.order.live_attempt is None
        assert self.order.settled is ended

    @invariant()
    def filled_means_confirmed(self) -> None:
        assert (self.order.fill is not None) is (self.order.status is Status.CONFIRMED)


OrderLife.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestOrderLife = OrderLife.TestCase


def test_only_a_step_from_the_very_version_can_follow_in_one_commit() -> None:
    order = builders.new_order()
    started = order.start_routing()
    chosen = started.order.choose_route(builders.decision())

    both = started.then(chosen)
    assert (both.order, both.replaces) == (chosen.order, order.sequence)
    assert both.events == (*started.events, *chosen.events)
    with pytest.raises(IllegalTransition, match="version"):
        started.then(started)
    with pytest.raises(IllegalTransition, match="version"):
        started.then(chosen.order.start_building())
