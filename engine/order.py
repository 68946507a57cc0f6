"""The order and its verbs: each returns the transition to the next version, or refuses."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec
from msgspec.structs import replace

from engine.attempt import Attempt, Evidence, Fill, Resolution
from engine.errors import IllegalTransition
from engine.failures import Failure
from engine.lifecycle import FINAL, EventType, Status, next_status
from engine.route import Route, RouteDecision

DEFAULT_SLIPPAGE_BPS: Final = 100
MAX_SLIPPAGE_BPS: Final = 5000
KEY_HASH_DIGITS: Final = 16

# The wait before each retry: the first try and at most three more.
RETRY_DELAYS: Final = (timedelta(seconds=1), timedelta(seconds=2), timedelta(seconds=4))


class OrderType(StrEnum):
    """How an order is executed."""

    MARKET = "market"


class Retry(msgspec.Struct, frozen=True):
    """Which retry follows, and after how long."""

    number: int
    delay_milliseconds: int


class Detail(msgspec.Struct, frozen=True, omit_defaults=True):
    """The facts of one event."""

    route: RouteDecision | None = None
    retry: Retry | None = None
    attempt: Attempt | None = None
    fill: Fill | None = None
    failure: Failure | None = None


NO_DETAIL: Final = Detail()


class OrderEvent(msgspec.Struct, frozen=True):
    """One step of an order's life. `time` is the database's, None until committed."""

    order_id: UUID
    sequence: int
    type: EventType
    previous_status: Status | None
    status: Status
    settled: bool
    detail: Detail
    venue: str | None = None  # the one that it concerns, once one was chosen
    time: datetime | None = None


class OrderRequest(msgspec.Struct, frozen=True):
    """What the client asked for, normalised: two equal requests are the same intent.

    Exactly one of slippage_bps and min_amount_out is set; amounts are base units.
    """

    token_in: str
    token_out: str
    amount_in: int
    order_type: OrderType = OrderType.MARKET
    slippage_bps: int | None = DEFAULT_SLIPPAGE_BPS
    min_amount_out: int | None = None
    venues: tuple[str, ...] = ()
    expire_time: datetime | None = None

    def floor(self, quoted_amount_out: int) -> int:
        """The least to receive if this quote is the first chosen; rounded against slippage."""
        if self.min_amount_out is not None:
            return self.min_amount_out
        assert self.slippage_bps is not None
        kept = quoted_amount_out * (10_000 - self.slippage_bps)
        return max(1, -(-kept // 10_000))


class Transition(msgspec.Struct, frozen=True):
    """One version of an order taking the place of an earlier one, and the events between them."""

    order: Order
    events: tuple[OrderEvent, ...]

    @property
    def event(self) -> OrderEvent:
        """The last event: the one that led to this version."""
        return self.events[-1]

    @property
    def replaces(self) -> int:
        """The version whose place it takes."""
        return self.order.sequence - len(self.events)

    def then(self, following: Transition) -> Transition:
        """Both steps as one: committed together or not at all, each with its own event."""
        if following.replaces != self.order.sequence:
            raise IllegalTransition("a step follows the version that it was taken from")
        return Transition(following.order, (*self.events, *following.events))


class Order(msgspec.Struct, frozen=True):
    """One version of an order. `sequence` is the version and the number of its last event.

    Times are the database's: `read_time` is its clock when this version was read, so that
    deadlines are judged by one clock whatever the hosts' clocks say.
    """

    order_id: UUID
    account: str
    client_order_id: str | None
    request: OrderRequest
    status: Status = Status.PENDING
    settled: bool = False
    sequence: int = 1
    min_amount_out: int | None = None
    route: Route | None = None
    retries: int = 0
    cancel_requested: bool = False
    fill: Fill | None = None
    failure: Failure | None = None
    attempts: tuple[Attempt, ...] = ()
    # How long from the commit until the order may be, and should be, looked at again.
    not_before: datetime | None = None
    backoff: timedelta | None = None
    create_time: datetime | None = None
    update_time: datetime | None = None
    complete_time: datetime | None = None
    read_time: datetime | None = None

    @property
    def key_hash(self) -> str:
        """A short hash of what the client calls this order: on chain with every attempt.

        By it an engine whose record was lost recognises a resubmitted order.
        """
        key = f"{self.account}:{self.client_order_id or self.order_id}"
        return hashlib.sha256(key.encode()).hexdigest()[:KEY_HASH_DIGITS]

    @property
    def next_number(self) -> int:
        """The number of the next attempt: none is used twice."""
        return self.attempts[-1].number + 1 if self.attempts else 1

    @property
    def live_attempt(self) -> Attempt | None:
        """The attempt that may still land; at most one (rule R2)."""
        return next((a for a in self.attempts if a.resolution is None), None)

    @property
    def backing_off(self) -> bool:
        """A retry is waiting for its time: whoever looks now leaves the order alone."""
        return self._passed(self.not_before) is False

    @property
    def past_expiry(self) -> bool:
        """expire_time has passed: nothing more is signed (rule R7)."""
        return self._passed(self.request.expire_time) is True

    def _passed(self, time: datetime | None) -> bool | None:
        return None if time is None or self.read_time is None else time <= self.read_time

    # ── verbs ──────────────────────────────────────────────────────────────────────────────

    def accept(self) -> Transition:
        """The first event of a new order."""
        event = OrderEvent(
            self.order_id, 1, EventType.ORDER_ACCEPTED, None, Status.PENDING, False, NO_DETAIL
        )
        return Transition(self, (event,))

    def start_routing(self) -> Transition:
        return self._after(EventType.ROUTING_STARTED)

    def choose_route(self, decision: RouteDecision, hinted: Route | None = None) -> Transition:
        """Take the decision's winner; the first time, its floor becomes the order's (R6).

        `hinted` is that route with hints: it goes with the order, and into no event.
        """
        route, floor = decision.route, decision.min_amount_out
        if route is None or floor is None:
            raise IllegalTransition("a route decision without a winner chooses nothing")
        if self.min_amount_out is not None and floor != self.min_amount_out:
            raise IllegalTransition("the floor is pinned")
        if self.request.min_amount_out not in (None, floor):
            raise IllegalTransition("the client's own floor is the floor")
        return self._after(
            EventType.ROUTE_CHOSEN,
            Detail(route=decision),
            route=hinted or route,
            min_amount_out=floor,
        )

    def start_building(self) -> Transition:
        if self.route is None:
            raise IllegalTransition("nothing can be built without a route")
        return self._after(EventType.BUILD_STARTED)

    def sign(self, attempt: Attempt) -> Transition:
        """Record the signed transaction, before its first byte is sent (R1)."""
        if self.live_attempt is not None:
            raise IllegalTransition("an order has at most one live attempt")
        if attempt.resolution is not None or attempt.number < self.next_number:
            raise IllegalTransition("a new attempt is live and has a number of its own")
        if self.min_amount_out is None or attempt.min_amount_out < self.min_amount_out:
            raise IllegalTransition("an attempt never carries less than the order's floor")
        return self._after(
            EventType.ATTEMPT_SIGNED,
            Detail(attempt=attempt),
            attempts=(*self.attempts, attempt),
            # What was signed; hints have done their service.
            route=self.route and Route(attempt.legs, self.route.quoted_amount_out),
            failure=None,
        )

    def confirm(self, fill: Fill) -> Transition:
        """The swap landed at the wanted commitment; its attempt stays live until finalized."""
        return self._after(EventType.SWAP_CONFIRMED, Detail(fill=fill), fill=fill.on_order)

    def finalize(self, evidence: Evidence) -> Transition:
        """The swap can no longer be undone: the order is settled."""
        attempt = self._resolved(Resolution.LANDED, evidence)
        return self._after(
            EventType.SWAP_FINALIZED,
            Detail(attempt=attempt),
            attempts=(*self.attempts[:-1], attempt),
            settled=True,
        )

    def reorg(self) -> Transition:
        """A fork took the swap back; the attempt is still live and may land again."""
        if self.live_attempt is None:
            raise IllegalTransition("a finalized swap is not taken back")
        return self._after(EventType.SWAP_REORGED, fill=None)

    def request_cancel(self) -> Transition:
        return self._after(EventType.CANCEL_REQUESTED, cancel_requested=True)

    def resolve(self, resolution: Resolution, evidence: Evidence, failure: Failure) -> Transition:
        """The live attempt is proven to have swapped nothing: try again, or end.

        What follows is decided here alone: a cancel first, then expiry, then the tries left.
        """
        resolved, detail = self._without_swap(resolution, evidence, failure)
        if self.cancel_requested:
            return resolved._after(EventType.ATTEMPT_RESOLVED_CANCELLED, detail)
        if self.past_expiry:
            return resolved._after(EventType.ATTEMPT_RESOLVED_EXPIRED, detail)
        if self.retries >= len(RETRY_DELAYS):
            return resolved._after(EventType.ATTEMPT_RESOLVED_FAILED, detail)
        return resolved._again(EventType.ATTEMPT_RESOLVED, detail)

    def supersede(self, resolution: Resolution, evidence: Evidence, failure: Failure) -> Transition:
        """The live attempt is proven dead, and the chain shows a later one: on to that one.

        Whether there was to be a later one was decided when it was signed; the record of it is
        lost, so neither cancel nor expiry nor the tries left are asked again.
        """
        resolved, detail = self._without_swap(resolution, evidence, failure)
        tries = min(self.retries + 1, len(RETRY_DELAYS))
        return resolved._after(EventType.ATTEMPT_RESOLVED, detail, retries=tries)

    def adopt_failed(self, attempt: Attempt, evidence: Evidence, failure: Failure) -> Transition:
        """An attempt that was not on record failed on chain: its number and its try are used up."""
        if self.live_attempt is not None or attempt.number < self.next_number:
            raise IllegalTransition("an attempt is adopted after the ones on record")
        failed = replace(attempt, resolution=Resolution.LANDED_WITH_ERROR, evidence=evidence)
        adopted = replace(self, attempts=(*self.attempts, failed), failure=failure, route=None)
        detail = Detail(attempt=failed, failure=failure)
        if self.retries >= len(RETRY_DELAYS):
            return adopted._after(EventType.ORDER_FAILED, detail)
        return adopted._again(EventType.RETRY_SCHEDULED, detail)

    def retry_or_fail(self, failure: Failure, route: RouteDecision | None = None) -> Transition:
        """A transient failure before anything was signed: back off, or end when no try is left."""
        if self.retries >= len(RETRY_DELAYS):
            return self.fail(failure, route)
        detail = Detail(route=route, failure=failure)
        return replace(self, failure=failure, route=None)._again(EventType.RETRY_SCHEDULED, detail)

    def fail(self, failure: Failure, route: RouteDecision | None = None) -> Transition:
        """A permanent refusal, or no try left, with nothing signed."""
        detail = Detail(route=route, failure=failure)
        return self._after(EventType.ORDER_FAILED, detail, failure=failure, route=None)

    def cancel(self) -> Transition:
        return self._after(EventType.ORDER_CANCELLED, route=None)

    def expire(self) -> Transition:
        return self._after(EventType.ORDER_EXPIRED, route=None)

    def _without_swap(
        self, resolution: Resolution, evidence: Evidence, failure: Failure
    ) -> tuple[Order, Detail]:
        if resolution is Resolution.LANDED:
            raise IllegalTransition("an attempt that landed has swapped")
        attempt = self._resolved(resolution, evidence)
        attempts = (*self.attempts[:-1], attempt)
        resolved = replace(self, attempts=attempts, failure=failure, route=None)
        return resolved, Detail(attempt=attempt, failure=failure)

    def _resolved(self, resolution: Resolution, evidence: Evidence) -> Attempt:
        live = self.live_attempt
        if live is None:
            raise IllegalTransition("there is no live attempt to resolve")
        return replace(live, resolution=resolution, evidence=evidence)

    def _again(self, event: EventType, detail: Detail) -> Transition:
        delay = RETRY_DELAYS[self.retries]
        retry = Retry(self.retries + 1, int(delay.total_seconds() * 1000))
        return self._after(event, replace(detail, retry=retry), retries=retry.number, backoff=delay)

    def _after(
        self,
        event: EventType,
        detail: Detail = NO_DETAIL,
        **facts: object,
    ) -> Transition:
        status = next_status(self.status, event)
        facts.setdefault("backoff", None)
        facts.setdefault("settled", status in FINAL and status is not Status.CONFIRMED)
        order = replace(self, status=status, sequence=self.sequence + 1, **facts)
        route = order.route or self.route
        venue = route.venue if route else None
        step = OrderEvent(
            self.order_id, order.sequence, event, self.status, status, order.settled, detail, venue
        )
        return Transition(order, (step,))


def first_difference(one: OrderRequest, other: OrderRequest) -> str | None:
    """The name of the first field in which two requests differ, or None."""
    fields = OrderRequest.__struct_fields__
    return next((f for f in fields if getattr(one, f) != getattr(other, f)), None)
