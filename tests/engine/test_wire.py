"""Orders and events on the wire: every fact in whole tokens, and none that is not there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from engine import lifecycle, wire
from engine.attempt import Evidence, Resolution
from engine.lifecycle import EventType, Status
from engine.order import Order, OrderEvent, OrderType
from engine.route import RouteDecision, VenueQuote
from engine.token import Token, Tokens
from engine.v1 import orders_pb2 as pb
from tests import builders
from tests.builders import EVIDENCE, FAILURE, SOL, USDC

TOKENS = Tokens([Token("SOL", SOL, 9), Token("USDC", USDC, 6)])
NOON = datetime(2030, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)


def stored(order: Order) -> Order:
    """As the database would return it."""
    return replace(order, create_time=NOON, update_time=NOON + timedelta(seconds=1))


def events(status: Status) -> list[OrderEvent]:
    return [step.event for step in builders.steps(builders.new_order("key"), status)]


def event(status: Status) -> pb.OrderEvent:
    """The event that leads to this status, on the wire."""
    order = builders.new_order("key")
    taken = builders.steps(order, status)[-1]
    return wire.event(taken.order, replace(taken.event, time=NOON), TOKENS)


# ── words ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({s.name for s in Status}, pb.OrderStatus.keys()),
        ({e.name for e in EventType}, pb.OrderEventType.keys()),
        ({r.name for r in Resolution}, pb.AttemptResolution.keys()),
        ({t.name for t in OrderType}, pb.OrderType.keys()),
    ],
    ids=["OrderStatus", "OrderEventType", "AttemptResolution", "OrderType"],
)
def test_every_word_of_the_wire_is_one_of_ours_and_the_other_way_round(
    ours: set[str], theirs: list[str]
) -> None:
    prefix = theirs[0].removesuffix("UNSPECIFIED")

    assert {prefix + name for name in ours} == set(theirs[1:])


def test_statuses_come_back_and_the_final_ones_are_those_of_the_table() -> None:
    assert [wire.STATUS_OF[wire.STATUS[status]] for status in Status] == list(Status)
    assert {wire.STATUS[status] for status in lifecycle.FINAL} == wire.FINAL


# ── orders ────────────────────────────────────────────────────────────────────────────────────


def test_a_new_order_shows_its_request_and_nothing_that_has_not_happened() -> None:
    order = stored(builders.new_order("key", venues=("raydium",), expire_time=NOON))

    message = wire.order(order, TOKENS)

    expected = pb.Order(
        order_id=str(order.order_id),
        client_order_id="key",
        account="default",
        order_type=pb.ORDER_TYPE_MARKET,
        token_in="SOL",
        token_out="USDC",
        token_in_mint=SOL,
        token_out_mint=USDC,
        amount_in="1.5",
        slippage_bps=100,
        venues=["raydium"],
        status=pb.ORDER_STATUS_PENDING,
        sequence=1,
    )
    expected.expire_time.FromDatetime(NOON)
    expected.create_time.FromDatetime(NOON)
    expected.update_time.FromDatetime(NOON + timedelta(seconds=1))
    assert message == expected


def test_an_order_that_was_not_stored_has_no_id() -> None:
    assert wire.order(builders.new_order(), TOKENS).order_id == ""


def test_a_client_s_own_floor_is_shown_before_any_route_and_replaces_slippage() -> None:
    order = builders.new_order(slippage_bps=None, min_amount_out=222_000_000)

    message = wire.order(order, TOKENS)

    assert message.min_amount_out == "222"
    assert not message.HasField("slippage_bps")


def test_no_slippage_at_all_is_not_the_same_as_none_given() -> None:
    message = wire.order(builders.new_order(slippage_bps=0), TOKENS)

    assert message.HasField("slippage_bps")
    assert message.slippage_bps == 0


def test_a_routed_order_shows_where_it_goes_and_its_floor() -> None:
    message = wire.order(builders.in_status(Status.BUILDING), TOKENS)

    assert message.venue == "raydium"
    assert message.quoted_amount_out == "225"
    assert message.min_amount_out == "222.75"
    assert message.tx_hash == ""


def test_a_submitted_order_shows_its_signature_and_no_bytes() -> None:
    order = builders.in_status(Status.SUBMITTED)

    message = wire.order(order, TOKENS)

    assert message.tx_hash == order.attempts[0].signature
    assert message.attempts == [
        pb.Attempt(
            number=1,
            venue="raydium",
            pool="pool",
            tx_hash=order.attempts[0].signature,
            blockhash="hash",
            last_valid_block_height=150,
            min_amount_out="222.75",
            legs=[
                pb.RouteLeg(
                    venue="raydium",
                    pool="pool",
                    kind="raydium_cpmm",
                    token_in="SOL",
                    token_out="USDC",
                    amount_in="1.5",
                    quoted_amount_out="225",
                    min_amount_out="222.75",
                )
            ],
        )
    ]
    assert order.attempts[0].transaction not in message.SerializeToString()
    assert not message.attempts[0].HasField("evidence")


def test_a_confirmed_order_shows_what_was_really_paid_and_received() -> None:
    order = builders.in_status(Status.CONFIRMED)

    message = wire.order(order, TOKENS)

    assert message.status == pb.ORDER_STATUS_CONFIRMED
    assert message.amount_out == "222.750001"
    assert message.executed_price == "148.500000666"
    assert not message.settled


def test_a_settled_order_shows_the_evidence_of_its_attempt() -> None:
    order = builders.in_status(Status.CONFIRMED).finalize(EVIDENCE).order

    message = wire.order(order, TOKENS)

    assert message.settled
    assert message.attempts[0].resolution == pb.ATTEMPT_RESOLUTION_LANDED
    assert message.attempts[0].evidence == pb.Evidence(
        slot=10, status_context_slot=12, node="node-1"
    )


def test_a_dead_attempt_shows_both_readings_it_rests_on() -> None:
    evidence = Evidence(
        status_context_slot=200,
        node="node-2",
        error="SLIPPAGE_EXCEEDED",
        finalized_block_height=151,
        height_context_slot=190,
    )
    resolved = builders.in_status(Status.SUBMITTED).resolve(
        Resolution.EXPIRED_UNLANDED, evidence, FAILURE
    )

    message = wire.order(resolved.order, TOKENS)

    assert message.retries == 1
    assert message.error == pb.OrderError(reason="TEST", message="for the test")
    assert message.attempts[0].evidence == pb.Evidence(
        status_context_slot=200,
        node="node-2",
        error="SLIPPAGE_EXCEEDED",
        finalized_block_height=151,
        height_context_slot=190,
    )


def test_a_cancel_that_waits_is_shown() -> None:
    order = builders.in_status(Status.SUBMITTED).request_cancel().order

    assert wire.order(order, TOKENS).cancel_requested


# ── events ────────────────────────────────────────────────────────────────────────────────────


def test_the_first_event_has_no_status_before() -> None:
    order = builders.new_order("key")

    message = wire.event(order, replace(order.accept().event, time=NOON), TOKENS)

    assert message.sequence == 1
    assert message.type == pb.ORDER_EVENT_TYPE_ORDER_ACCEPTED
    assert message.previous_status == pb.ORDER_STATUS_UNSPECIFIED
    assert message.event_time.ToDatetime(UTC) == NOON
    assert (message.order_id, message.client_order_id) == (str(order.order_id), "key")


def test_an_event_says_what_moved_from_where_to_where() -> None:
    message = event(Status.BUILDING)

    assert message.sequence == 4
    assert message.previous_status == pb.ORDER_STATUS_ROUTING
    assert message.status == pb.ORDER_STATUS_BUILDING
    assert message.account == "default"


def test_a_chosen_route_shows_every_quote_and_refusal() -> None:
    decision = builders.decision()
    order = builders.in_status(Status.ROUTING).choose_route(decision)

    route = wire.event(order.order, order.event, TOKENS).route

    refused, chosen = route.quotes
    assert (route.venue, route.why, route.min_amount_out) == ("raydium", decision.why, "222.75")
    assert refused == pb.VenueQuote(
        venue="meteora",
        latency=Duration(nanos=900_000),
        refusal=pb.OrderError(reason="VENUE_TIMEOUT", message="late"),
    )
    assert chosen == pb.VenueQuote(
        venue="raydium",
        pool="pool",
        amount_out="225",
        net_price="150",
        fee="0.00375",
        price_impact_bps="1.2",
        slot=7,
        latency=Duration(nanos=1_200_000),
    )


@pytest.mark.parametrize(("share_ppm", "told"), [(None, ""), (0, "0"), (300_001, "3000.01")])
def test_a_quote_shows_what_part_of_its_pool_it_takes_unless_that_is_not_known(
    share_ppm: int | None, told: str
) -> None:
    quotes = (VenueQuote("raydium", 0, "pool", 100, pool_share_ppm=share_ppm),)

    message = wire.route(RouteDecision(quotes, "why"), builders.new_order().request, TOKENS)

    assert message.quotes[0].pool_share_bps == told


def test_no_route_shows_why_and_no_winner() -> None:
    nothing = RouteDecision(builders.decision().quotes[:1], "nobody offered")
    failed = builders.in_status(Status.ROUTING).fail(FAILURE, nothing)

    message = wire.event(failed.order, failed.event, TOKENS)

    assert (message.route.venue, message.route.min_amount_out) == ("", "")
    assert message.route.why == "nobody offered"
    assert message.error == pb.OrderError(reason="TEST", message="for the test")
    assert message.settled


def test_a_retry_says_which_and_when() -> None:
    waiting = replace(builders.in_status(Status.ROUTING), retries=1).retry_or_fail(FAILURE)

    retry = wire.event(waiting.order, waiting.event, TOKENS).retry

    assert (retry.number, retry.delay.ToMilliseconds()) == (2, 2000)


def test_a_signed_attempt_is_announced_without_its_bytes() -> None:
    message = event(Status.SUBMITTED)

    assert message.attempt.number == 1
    assert b"signed bytes" not in message.SerializeToString()


def test_a_fill_is_told_in_whole_tokens() -> None:
    message = event(Status.CONFIRMED)

    assert message.fill == pb.Fill(
        amount_in="1.5",
        amount_out="222.750001",
        executed_price="148.500000666",
        slot=10,
        tx_hash=message.fill.tx_hash,
        network_fee_lamports=5000,
    )
    assert message.fill.tx_hash == f"{message.order_id}-1"


@pytest.mark.parametrize("status", list(Status))
def test_an_event_without_a_fact_has_no_empty_one_instead(status: Status) -> None:
    for taken in events(status):
        message = wire.event(builders.new_order(), taken, TOKENS)
        facts = {field.name for field, _ in message.ListFields()}

        detail = taken.detail
        assert ("route" in facts) is (detail.route is not None)
        assert ("retry" in facts) is (detail.retry is not None)
        assert ("attempt" in facts) is (detail.attempt is not None)
        assert ("fill" in facts) is (detail.fill is not None)
        assert ("error" in facts) is (detail.failure is not None)


# ── ids and times ─────────────────────────────────────────────────────────────────────────────

ID = UUID("01890000-0000-7000-8000-00000000000a")


@pytest.mark.parametrize("text", [str(ID), str(ID).upper()])
def test_an_order_id_is_read_as_it_is_written(text: str) -> None:
    assert wire.order_id(text) == ID


@pytest.mark.parametrize(
    "text", ["", "x", ID.hex, f"{{{ID}}}", f"urn:uuid:{ID}", f" {ID}", f"{ID}\n", str(ID)[:-1]]
)
def test_anything_else_is_no_order_id(text: str) -> None:
    with pytest.raises(ValueError, match=r"order id|hexadecimal UUID"):
        wire.order_id(text)


@settings(deadline=None)
@given(st.datetimes(timezones=st.just(UTC)))
def test_times_come_back_to_the_microsecond(time: datetime) -> None:
    message = wire.timestamp(time)

    assert message is not None
    assert wire.moment(message) == time


def test_a_time_is_the_same_moment_wherever_it_was_read() -> None:
    east = NOON.astimezone(timezone(timedelta(hours=5)))

    assert wire.timestamp(east) == wire.timestamp(NOON)
    assert wire.timestamp(None) is None


@pytest.mark.parametrize("seconds", [-(2**62), 2**62, 253_402_300_800])
def test_a_time_beyond_the_calendar_is_refused(seconds: int) -> None:
    with pytest.raises(ValueError, match=r".+"):
        wire.moment(Timestamp(seconds=seconds))
