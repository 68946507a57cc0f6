"""One plain sentence for every way an order can stand or end, and what stands behind it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from engine.attempt import Evidence, Fill, Leftover, Resolution
from engine.bus import Bus
from engine.failures import Failure
from engine.lifecycle import FINAL, EventType, Status
from engine.order import Order, OrderEvent, Transition
from engine.relay import Relay
from engine.route import Leg, Route, RouteDecision, VenueQuote
from engine.store import Store
from engine.token import Token, Tokens
from engine.v1 import orders_pb2 as pb
from gateway.explanation import explain, outcome, summary
from tests import builders
from tests.gateway.running import Gateway, swap

TOKENS = Tokens([Token("SOL", builders.SOL, 9), Token("USDC", builders.USDC, 6)])
START = datetime(2026, 1, 1, tzinfo=UTC)
RAYDIUM = VenueQuote("raydium", 900, "pool", 226_050_000)
METEORA = VenueQuote("meteora", 1200, "pool", 226_530_000)
FAILURE = Failure("NO_POOL", "no pool for the pair")
REFUSED = VenueQuote("raydium", 900, refusal=FAILURE)
LANDED = Evidence(412, "node-1", slot=380)
REVERTED = Evidence(412, "node-1", slot=380, error="SLIPPAGE_EXCEEDED: too little")
UNLANDED = Evidence(500, "node-2", finalized_block_height=160, height_context_slot=480)


class Life:
    """An order and everything that happened to it, a second apart."""

    def __init__(self, **request: object) -> None:
        self.order = builders.new_order("key-1", **request)
        self.events: list[OrderEvent] = []
        self.then(self.order.accept())

    def then(self, transition: Transition) -> Life:
        for event in transition.events:
            time = START + timedelta(seconds=len(self.events))
            self.events.append(replace(event, time=time))
        self.order = transition.order
        return self

    def routed(self, *quotes: VenueQuote) -> Life:
        if self.order.status is Status.PENDING:
            self.then(self.order.start_routing())
        floor = self.order.min_amount_out or 225_600_000
        best = max(quotes, key=lambda quote: quote.amount_out)
        route = builders.route(best.amount_out, floor, best.venue)
        return self.then(
            self.order.choose_route(RouteDecision(quotes, "it pays most", route, floor))
        )

    def signed(self, *quotes: VenueQuote) -> Life:
        self.routed(*(quotes or (RAYDIUM, METEORA))).then(self.order.start_building())
        return self.then(self.order.sign(builders.attempt(self.order)))

    def confirmed(self, *quotes: VenueQuote) -> Life:
        self.signed(*quotes)
        signature = self.order.attempts[-1].signature
        return self.then(self.order.confirm(Fill(1_500_000_000, 226_502_400, 380, signature, 5000)))

    def resolved(self, resolution: Resolution, evidence: Evidence) -> Life:
        failure = Failure("NOT_LANDED", "it had not landed in time")
        return self.then(self.order.resolve(resolution, evidence, failure))

    @property
    def summary(self) -> str:
        return summary(self.order, self.events, TOKENS)


def cancelled_while_live() -> Life:
    life = Life().signed()
    life.then(life.order.request_cancel())
    return life.resolved(Resolution.EXPIRED_UNLANDED, UNLANDED)


def failed_after_all_tries() -> Life:
    life = Life()
    for _ in range(4):
        life.signed().resolved(Resolution.LANDED_WITH_ERROR, REVERTED)
    return life


def expired_while_live() -> Life:
    life = Life(expire_time=START).signed()
    life.order = replace(life.order, read_time=START + timedelta(hours=1))
    return life.resolved(Resolution.EXPIRED_UNLANDED, UNLANDED)


def retried() -> Life:
    life = Life()
    life.then(life.order.start_routing())
    return life.then(life.order.retry_or_fail(Failure("VENUE_TIMEOUT", "raydium was late.")))


def of(life: Life, *verbs: str) -> Life:
    for verb in verbs:
        life.then(getattr(life.order, verb)())
    return life


def finalized() -> Life:
    life = Life().confirmed()
    return life.then(life.order.finalize(LANDED))


def failed_at_once() -> Life:
    life = Life()
    life.then(life.order.start_routing())
    return life.then(life.order.fail(Failure("NO_ROUTE", "no venue offered a quote")))


FLOOR = "0.4 % better than the floor"
LIVE = (
    "Attempt 1 is signed for meteora and may still land, for at least 225.6 USDC, up to block "
    "height 150"
)
SENTENCES: dict[str, tuple[Callable[[], Life], str]] = {
    "pending": (Life, "Accepted and durable; waiting for a router."),
    "routing": (
        lambda: of(Life(), "start_routing"),
        "Venues are asked for quotes; nothing is signed.",
    ),
    "routed": (
        lambda: Life().routed(RAYDIUM, METEORA),
        "meteora was chosen; waiting for an executor, nothing is signed.",
    ),
    "retrying": (
        retried,
        "Waiting for retry 1 of 3, since the last try failed: raydium was late.",
    ),
    "building": (
        lambda: of(Life().routed(METEORA), "start_building"),
        "The swap is built and checked for meteora; nothing is signed.",
    ),
    "submitted": (lambda: Life().signed(), f"{LIVE}."),
    "submitted, cancel asked": (
        lambda: of(Life().signed(), "request_cancel"),
        f"{LIVE}; a cancel waits for its end, and no other attempt follows.",
    ),
    "reorged": (
        lambda: of(Life().confirmed(), "reorg"),
        f"{LIVE}; a fork took back a swap that was confirmed.",
    ),
    "next try after an attempt": (
        lambda: Life().signed().resolved(Resolution.EXPIRED_UNLANDED, UNLANDED),
        "Waiting for retry 1 of 3, since the last try failed: it had not landed in time.",
    ),
    "confirmed": (
        lambda: Life().confirmed(),
        f"Confirmed on meteora at 151.002 USDC per SOL, {FLOOR}; "
        "raydium offered 0.21 % less; not finalized yet.",
    ),
    "finalized": (
        finalized,
        f"Confirmed on meteora at 151.002 USDC per SOL, {FLOOR}; raydium offered 0.21 % less.",
    ),
    "confirmed, the other refused": (
        lambda: Life().confirmed(REFUSED, METEORA),
        f"Confirmed on meteora at 151.002 USDC per SOL, {FLOOR}; "
        "raydium offered nothing; not finalized yet.",
    ),
    "confirmed, no other": (
        lambda: Life().confirmed(METEORA),
        f"Confirmed on meteora at 151.002 USDC per SOL, {FLOOR}; "
        "no other venue was asked; not finalized yet.",
    ),
    "failed at once": (
        failed_at_once,
        "Failed, and nothing was swapped: no venue offered a quote.",
    ),
    "failed after all tries": (
        failed_after_all_tries,
        "Failed after 3 retries, and nothing was swapped: it had not landed in time.",
    ),
    "cancelled": (
        lambda: of(Life(), "cancel"),
        "Cancelled by its owner, and nothing was swapped: nothing had been signed.",
    ),
    "cancelled while live": (
        cancelled_while_live,
        "Cancelled by its owner, and nothing was swapped: attempt 1 is proven never to have "
        "landed.",
    ),
    "expired": (
        lambda: of(Life(expire_time=START), "expire"),
        "Expired at 2026-01-01T00:00:00Z, and nothing was swapped: nothing had been signed.",
    ),
    "expired while live": (
        expired_while_live,
        "Expired at 2026-01-01T00:00:00Z, and nothing was swapped: attempt 1 is proven never to "
        "have landed.",
    ),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_the_summary_is_one_plain_sentence(name: str) -> None:
    make, sentence = SENTENCES[name]

    assert make().summary == sentence


def test_there_is_a_sentence_for_every_status_and_every_last_event() -> None:
    lives = [make() for make, _ in SENTENCES.values()]
    last = {life.events[-1].type for life in lives}

    assert {life.order.status for life in lives} == set(Status)
    assert last == set(EventType)


def leg(venue: str, amount_in: int, amount_out: int) -> Leg:
    return Leg(
        venue, "pool", "kind", builders.SOL, builders.USDC, amount_in, amount_out, amount_out - 1
    )


def swapped(route: Route, *quotes: VenueQuote) -> Life:
    """Confirmed by this route, chosen from these quotes."""
    life = Life()
    life.then(life.order.start_routing())
    life.then(life.order.choose_route(RouteDecision(quotes, "it pays most", route, 225_600_000)))
    life.then(life.order.start_building())
    attempt = builders.attempt(life.order)
    life.then(life.order.sign(attempt))
    left = (Leftover(builders.USDC, 4000),)
    fill = Fill(1_500_000_000, 226_530_000, 380, attempt.signature, 5000, left)
    return life.then(life.order.confirm(fill))


SPLIT = Route(
    (leg("meteora", 900_000_000, 136_004_000), leg("raydium", 600_000_000, 91_002_000)),
    227_006_000,
)


@pytest.mark.parametrize(
    ("quotes", "words"),
    [
        ((RAYDIUM, METEORA), "; the best single pool, at meteora, offered 0.2 % less;"),
        ((RAYDIUM, replace(METEORA, refusal=FAILURE)), "at raydium, offered 0.42 % less;"),
        (
            (REFUSED, replace(METEORA, refusal=FAILURE)),
            "; no single pool offered anything;",
        ),
    ],
)
def test_a_split_is_held_against_the_best_single_pool(
    quotes: tuple[VenueQuote, ...], words: str
) -> None:
    said = swapped(SPLIT, *quotes).summary

    assert said.startswith("Confirmed on meteora and raydium at 151.02 USDC per SOL, 0.41 % better")
    assert words in said


def test_two_pools_of_one_venue_are_held_against_its_best_one_too() -> None:
    at_home = Route(tuple(replace(leg, venue="meteora") for leg in SPLIT.legs), 227_006_000)

    assert "the best single pool, at meteora," in swapped(at_home, METEORA).summary


def test_a_close_call_is_told_with_more_digits() -> None:
    route = builders.route(METEORA.amount_out, 225_600_000, "meteora")
    close = replace(RAYDIUM, amount_out=METEORA.amount_out - 11_800)

    assert "; raydium offered 0.0052 % less;" in swapped(route, close, METEORA).summary


def test_two_venues_that_offered_the_same_are_said_to() -> None:
    route = builders.route(METEORA.amount_out, 225_600_000, "meteora")
    tie = replace(RAYDIUM, amount_out=METEORA.amount_out)

    assert "; raydium offered the same;" in swapped(route, tie, METEORA).summary


def test_a_venue_that_offered_more_but_left_less_is_told_so() -> None:
    more = replace(RAYDIUM, amount_out=226_600_000)

    route = builders.route(METEORA.amount_out, 225_600_000, "meteora")
    assert (
        "; raydium offered 0.03 % more, which network cost and its past outweighed;"
        in swapped(route, more, METEORA).summary
    )


def test_the_attempt_that_swapped_shows_its_legs_and_what_it_really_did() -> None:
    split = swapped(SPLIT, RAYDIUM, METEORA)
    assert split.order.fill is not None
    # As the store reads it: what was left of other tokens is with the event alone.
    order = replace(split.order, fill=replace(split.order.fill, leftovers=()))
    [told] = explain(order, split.events, TOKENS).attempts

    assert [(leg.venue, leg.amount_in) for leg in told.attempt.legs] == [
        ("meteora", "0.9"),
        ("raydium", "0.6"),
    ]
    assert (told.fill.amount_out, told.fill.leftovers[0].amount) == ("226.53", "0.004")


def test_an_attempt_that_did_not_swap_shows_no_fill_though_a_later_one_did() -> None:
    life = Life().signed().resolved(Resolution.EXPIRED_UNLANDED, UNLANDED).confirmed()

    told = explain(life.order, life.events, TOKENS).attempts
    assert [attempt.HasField("fill") for attempt in told] == [False, True]


def test_a_swap_whose_record_was_lost_is_told_without_its_quotes() -> None:
    life = Life().confirmed()
    lost = [event for event in life.events if event.type is not EventType.ATTEMPT_SIGNED]

    told = explain(life.order, lost, TOKENS)
    assert told.summary == (
        f"Confirmed on meteora at 151.002 USDC per SOL, {FLOOR}; not finalized yet."
    )
    assert not told.attempts[0].HasField("sign_time")


@pytest.mark.parametrize(
    ("resolution", "evidence", "sentence"),
    [
        (None, None, "Live: it may land up to block height 150."),
        (
            Resolution.LANDED,
            LANDED,
            "Swapped in slot 380, finalized as node-1 at slot 412 says.",
        ),
        (
            Resolution.LANDED_WITH_ERROR,
            REVERTED,
            "Failed on chain in slot 380 (SLIPPAGE_EXCEEDED: too little), finalized as node-1 at "
            "slot 412 says: nothing was swapped.",
        ),
        (
            Resolution.EXPIRED_UNLANDED,
            UNLANDED,
            "Never landed: block height 160 was finalized at slot 480, it was valid up to 150, "
            "and node-2 at slot 500, asked after that, has no record of it.",
        ),
    ],
)
def test_every_attempt_is_told_with_what_proves_its_end(
    resolution: Resolution | None, evidence: Evidence | None, sentence: str
) -> None:
    attempt = Life().signed().order.attempts[0]

    assert outcome(replace(attempt, resolution=resolution, evidence=evidence), None) == sentence


def test_an_attempt_that_swapped_is_not_said_to_be_live_before_that_is_finalized() -> None:
    def told(life: Life) -> str:
        return explain(life.order, life.events, TOKENS).attempts[0].outcome

    assert told(Life().confirmed()) == "Swapped in slot 380; final once that slot is finalized."
    # A fork may take it back until then.
    assert told(of(Life().confirmed(), "reorg")) == "Live: it may land up to block height 150."
    assert told(finalized()) == "Swapped in slot 380, finalized as node-1 at slot 412 says."


def test_everything_considered_and_every_time_is_there() -> None:
    life = Life().signed().resolved(Resolution.EXPIRED_UNLANDED, UNLANDED).signed(METEORA)
    told = explain(life.order, life.events, TOKENS)

    assert told.order.client_order_id == "key-1"
    assert [[quote.venue for quote in r.decision.quotes] for r in told.routes] == [
        ["raydium", "meteora"],
        ["meteora"],
    ]
    first, second = told.attempts
    assert first.resolve_time.seconds - first.sign_time.seconds == 1
    assert second.HasField("sign_time")
    assert not second.HasField("resolve_time")
    statuses = [pb.OrderStatus.Name(stage.status) for stage in told.stages]
    assert [status.removeprefix("ORDER_STATUS_").lower() for status in statuses] == [
        "pending",
        *["routing", "building", "submitted"] * 2,
    ]
    assert [stage.duration.seconds for stage in told.stages] == [1, 2, 1, 1, 2, 1, 0]
    assert not told.stages[-1].HasField("duration")


async def test_the_gateway_explains_what_is_stored(
    gateway: Gateway, store: Store, bus: Bus
) -> None:
    relay = Relay(store, bus)
    await gateway.client.SubmitOrder(swap("key-1"))
    order: Order | None = await store.get_by_client_order_id("default", "key-1")
    assert order is not None
    for transition in builders.steps(order, Status.CONFIRMED):
        order = await relay.commit(transition)

    told = await gateway.client.ExplainOrder(pb.ExplainOrderRequest(client_order_id="key-1"))
    assert order.status in FINAL
    assert told.summary.startswith("Confirmed on raydium at 148.5")
    assert told.order.order_id == str(order.order_id)
    assert len(told.routes) == len(told.attempts) == 1
    assert len(told.stages) == 5
