"""The choice among quotes: deterministic ties, the floor, and why there is no route."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.route import VenueQuote
from engine.routing import choose
from engine.routing.market import Market
from tests.engine.routing.ways import REQUEST, no_offer, quote, refusal, route


def test_the_most_net_amount_out_wins_whatever_its_fee_or_impact() -> None:
    best = replace(quote("raydium", 1_000_001, price_impact_ppm=90_000), fee=10**9)

    decision = route(quote("meteora", 1_000_000, price_impact_ppm=0), best)

    assert decision.route is not None
    assert decision.route.quoted_amount_out == best.amount_out


def test_a_tie_goes_to_the_lower_price_impact() -> None:
    decision = route(quote("a", 100, price_impact_ppm=2), quote("b", 100, price_impact_ppm=1))

    assert decision.venue == "b"
    assert decision.why == "b and a offered the same; b has the lower price impact"


def test_a_tie_in_impact_too_goes_to_the_first_venue_in_the_alphabet() -> None:
    decision = route(quote("raydium", 100), quote("meteora", 100))

    assert decision.venue == "meteora"
    assert (
        decision.why == "meteora and raydium offered the same; meteora comes first in the alphabet"
    )


def test_the_reason_says_how_much_the_second_was_behind() -> None:
    decision = route(quote("raydium", 225_000_000), quote("meteora", 224_100_000), refusal("orca"))

    assert decision.why == "meteora offered 40.00 bps less than raydium"


def test_a_single_offer_says_that_it_was_the_only_one() -> None:
    decision = route(refusal("meteora"), quote("raydium", 100))

    assert decision.why == "raydium was the only venue with a quote"


def test_every_quote_and_refusal_is_on_record() -> None:
    asked = [quote("raydium", 100), refusal("meteora"), quote("orca", 99)]

    assert sorted(route(*asked).quotes, key=str) == sorted(asked, key=str)


# ── the floor ────────────────────────────────────────────────────────────────────────────────────


def test_the_first_floor_is_the_winning_quote_less_slippage() -> None:
    assert route(quote("raydium", 225_000_001), quote("meteora", 1)).min_amount_out == 222_750_001


def test_a_client_s_floor_replaces_slippage() -> None:
    request = replace(REQUEST, slippage_bps=None, min_amount_out=90)

    assert route(quote("raydium", 100), request=request).min_amount_out == 90


def test_a_pinned_floor_stays_whatever_is_quoted() -> None:
    assert route(quote("raydium", 10_000), pinned=90).min_amount_out == 90


@pytest.mark.parametrize("request_floor", [None, 5])
def test_a_quote_that_just_keeps_the_pinned_floor_is_taken(request_floor: int | None) -> None:
    request = replace(
        REQUEST, slippage_bps=100 if request_floor is None else None, min_amount_out=request_floor
    )

    assert route(quote("raydium", 90), request=request, pinned=90).venue == "raydium"


def test_a_fresh_quote_below_the_pinned_floor_is_no_route_yet() -> None:
    nothing = no_offer(quote("raydium", 89), quote("meteora", 88), pinned=90)

    assert nothing.failure.reason == "PRICE_FLOOR_NOT_MET"
    assert nothing.failure.message == (
        "the best quote, 89 base units from raydium, is below the floor of 90 base units"
    )
    assert not nothing.permanent
    assert nothing.decision.venue is None
    assert len(nothing.decision.quotes) == 2


def test_a_quote_below_the_client_s_floor_is_no_route_yet() -> None:
    request = replace(REQUEST, slippage_bps=None, min_amount_out=90)

    assert no_offer(quote("raydium", 89), request=request).failure.reason == "PRICE_FLOOR_NOT_MET"


# ── no offer ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("quotes", "reason", "permanent"),
    [
        ([refusal("a"), refusal("b", "RATE_LIMITED")], "VENUE_UNAVAILABLE", False),
        ([refusal("a"), refusal("b", "NO_POOL", permanent=True)], "VENUE_UNAVAILABLE", False),
        ([refusal(v, "NO_POOL", permanent=True) for v in "ab"], "NO_ROUTE", True),
        (
            [refusal(v, "INSUFFICIENT_LIQUIDITY", permanent=True) for v in "ab"],
            "INSUFFICIENT_LIQUIDITY",
            True,
        ),
        (
            [
                refusal("a", "NO_POOL", permanent=True),
                refusal("b", "INSUFFICIENT_LIQUIDITY", permanent=True),
            ],
            "NO_ROUTE",
            True,
        ),
        ([refusal("a", "VENUE_UNKNOWN", permanent=True)], "NO_ROUTE", True),
        ([], "NO_ROUTE", True),
    ],
)
def test_only_refusals_that_are_all_permanent_make_it_permanent(
    quotes: list[VenueQuote], reason: str, permanent: bool
) -> None:
    nothing = no_offer(*quotes)

    assert (nothing.failure.reason, nothing.permanent) == (reason, permanent)
    assert nothing.decision.quotes == tuple(quotes)


def test_the_reason_repeats_what_every_venue_said() -> None:
    message = no_offer(refusal("raydium"), refusal("meteora")).failure.message

    assert (
        message == "no venue offered a quote (meteora: meteora said no; raydium: raydium said no)"
    )


# ── any quotes in any order ──────────────────────────────────────────────────────────────────────

# Few distinct amounts and impacts, so that ties are common.
any_quotes = st.lists(
    st.one_of(
        st.builds(quote, st.sampled_from("abcde"), st.integers(1, 4), st.integers(0, 2)),
        st.builds(refusal, st.sampled_from("abcde"), permanent=st.booleans()),
    ),
    unique_by=lambda q: q.venue,
)
any_pinned = st.none() | st.integers(1, 5)


@settings(deadline=None)
@given(any_quotes, any_pinned, st.randoms(use_true_random=False))
def test_the_order_of_the_quotes_decides_nothing(
    quotes: list[VenueQuote], pinned: int | None, random: object
) -> None:
    shuffled = list(quotes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    assert choose(REQUEST, pinned, Market(), shuffled) == choose(REQUEST, pinned, Market(), quotes)


@settings(deadline=None)
@given(any_quotes.filter(lambda quotes: any(q.refusal is None for q in quotes)))
def test_no_other_quote_would_have_been_better(quotes: list[VenueQuote]) -> None:
    chosen = route(*quotes).route

    assert chosen is not None
    assert chosen.quoted_amount_out == max(q.amount_out for q in quotes)
