"""What people read."""

from __future__ import annotations

from decimal import Decimal

import pytest

from engine.v1 import orders_pb2 as pb
from oee import show


@pytest.mark.parametrize(
    ("quoted", "received", "bps"),
    [
        ("100", "99", "100.0"),
        ("100", "100", "0.0"),
        ("100", "101", "-100.0"),
        # More digits than a float holds.
        ("18446744073.709551615", "18446744073.709551614", "0.0"),
        ("10000000000000000.1", "9999000000000000.1", "1.0"),
    ],
)
def test_slippage_is_exact(quoted: str, received: str, bps: str) -> None:
    assert show.slippage_bps(quoted, received) == Decimal(bps)


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


def test_a_chosen_route_says_venue_quote_floor_and_why() -> None:
    event = pb.OrderEvent(
        type=pb.ORDER_EVENT_TYPE_ROUTE_CHOSEN,
        route=pb.RouteDecision(
            venue="meteora",
            why="raydium offered less",
            min_amount_out="220",
            quotes=[pb.VenueQuote(venue="meteora", amount_out="224.6")],
        ),
    )

    assert "meteora quotes 224.6, floor 220; raydium offered less" in show.event(event).plain
