"""What people read."""

from __future__ import annotations

import pytest

from engine.v1 import orders_pb2 as pb
from oee import show
from tests.oee.reading import text


@pytest.mark.parametrize(
    ("quoted", "received", "bps"),
    [
        ("100", "99", "100.0"),
        ("100", "100", "0.0"),
        ("100", "101", "-100.0"),
        # More digits than a float holds.
        ("18446744073.709551615", "18446744073.709551614", "0.0"),
        ("10000000000000000.1", "9999000000000000.1", "1.0"),
        # A little more than quoted is no negative zero.
        ("1000000", "1000001", "0.0"),
        ("100", "100.00001", "0.0"),
    ],
)
def test_slippage_is_exact(quoted: str, received: str, bps: str) -> None:
    assert str(show.slippage_bps(quoted, received)) == bps


@pytest.mark.parametrize(("quoted", "received"), [("", "1"), ("1", ""), ("0", "1")])
def test_there_is_no_slippage_without_both_amounts(quoted: str, received: str) -> None:
    assert show.slippage_bps(quoted, received) is None


def test_a_status_of_a_newer_engine_is_shown_as_its_number() -> None:
    order = pb.Order.FromString(bytes([14 << 3, 99]))

    assert show.status(order.status).plain == "99"


def test_an_event_is_one_line_with_what_it_was_about() -> None:
    event = pb.OrderEvent(
        sequence=8,
        type=pb.ORDER_EVENT_TYPE_SWAP_CONFIRMED,
        status=pb.ORDER_STATUS_CONFIRMED,
        fill=pb.Fill(amount_in="1.5", amount_out="222.26", executed_price="148.17"),
    )

    assert show.event(event).plain == (
        "1970-01-01T00:00:00.000Z   8  confirmed swap confirmed           "
        "paid 1.5, received 222.26, net price 148.17"
    )


def leg(venue: str, kind: str, pays: str, receives: str, amount_in: str) -> pb.RouteLeg:
    return pb.RouteLeg(
        venue=venue, kind=kind, token_in=pays, token_out=receives, amount_in=amount_in
    )


SPLIT = [
    leg("raydium", "raydium_clmm", "SOL", "USDC", "3"),
    leg("meteora", "meteora_dlmm", "SOL", "USDC", "1"),
]


def test_a_chosen_route_says_which_way_quote_floor_and_why() -> None:
    event = pb.OrderEvent(
        type=pb.ORDER_EVENT_TYPE_ROUTE_CHOSEN,
        route=pb.RouteDecision(
            venue="raydium+meteora",
            why="raydium offered less",
            quoted_amount_out="224.6",
            min_amount_out="220",
            legs=SPLIT,
        ),
    )

    assert show.event(event).plain.endswith(
        "75 % raydium raydium_clmm + 25 % meteora meteora_dlmm, quoted 224.6, floor 220; "
        "raydium offered less"
    )


@pytest.mark.parametrize(
    ("legs", "way"),
    [(SPLIT, "75 % raydium raydium_clmm + 25 % meteora meteora_dlmm"), ([], "raydium")],
)
def test_an_attempt_says_which_way_it_goes(legs: list[pb.RouteLeg], way: str) -> None:
    attempt = pb.Attempt(number=2, venue="raydium", tx_hash="5igNed", legs=legs)
    event = pb.OrderEvent(type=pb.ORDER_EVENT_TYPE_ATTEMPT_SIGNED, attempt=attempt)

    assert f"attempt 2 at {way}, 5igNed" in show.event(event).plain


def test_what_a_swap_left_over_is_told_with_what_it_received() -> None:
    fill = pb.Fill(amount_in="1", amount_out="2", executed_price="2")
    fill.leftovers.add(token="USDT", amount="0.004")
    event = pb.OrderEvent(type=pb.ORDER_EVENT_TYPE_SWAP_CONFIRMED, fill=fill)

    assert show.event(event).plain.endswith("net price 2, left over 0.004 USDT")


def test_an_order_shows_the_way_that_its_last_attempt_takes() -> None:
    order = pb.Order(venue="raydium+meteora")
    order.attempts.add(number=1, legs=SPLIT[:1])
    order.attempts.add(number=2, legs=SPLIT)

    assert "75 % raydium raydium_clmm + 25 % meteora meteora_dlmm" in text(show.order(order))


def test_the_summary_names_every_venue_of_a_split() -> None:
    assert "raydium+meteora" in text(show.summary([(1, pb.Order(venue="raydium+meteora"))]))


def test_a_preview_marks_the_amount_that_was_asked_for_on_the_curve() -> None:
    answer = pb.PreviewOrderResponse(route=pb.RouteDecision(legs=SPLIT))
    for amount_in, impact in (("0.4", "0"), ("4", "12.5"), ("40", "118")):
        answer.curve.add(amount_in=amount_in, price_impact_bps=impact)
    asked = pb.PreviewOrderRequest(token_in="the mint of SOL", amount_in="4.0")

    *_, last = show.preview(asked, answer)
    assert str(last).splitlines()[-1].strip() == "▲ 4.0 SOL, 12.5 bps"


def test_a_preview_of_an_engine_that_tells_no_curve_has_none() -> None:
    answer = pb.PreviewOrderResponse(route=pb.RouteDecision(why="it pays most"))

    *_, last = show.preview(pb.PreviewOrderRequest(token_in="SOL", amount_in="4"), answer)
    assert last == "\nit pays most"
