"""Venues' past decides between prices that are close, and never against a better one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.route import VenueScore
from tests.engine.routing.ways import chosen, quote, routed


def past(venue: str, score_ppm: int) -> VenueScore:
    return VenueScore(venue, 100, 0, 0, 1000, score_ppm)


def test_the_past_decides_between_prices_that_are_close() -> None:
    quotes = quote("orca", 1_000_000), quote("phoenix", 999_500)

    decision = routed([], *quotes, scores=[past("orca", -400), past("phoenix", 200)])

    assert decision.venue == "phoenix"
    assert [(c.route.venue, c.score_ppm) for c in decision.candidates] == [
        ("phoenix", 200),
        ("orca", -400),
    ]
    assert decision.why == (
        "orca offered 5.00 bps more than phoenix, but by their past they count +2.00 and -4.00 bps"
    )
    assert [score.venue for score in decision.scores] == ["orca", "phoenix"]


def test_a_price_fifteen_basis_points_better_wins_against_the_best_of_pasts() -> None:
    quotes = quote("orca", 1_000_000), quote("phoenix", 998_500)

    decision = routed([], *quotes, scores=[past("orca", -1000), past("phoenix", 1000)])

    assert decision.venue == "orca"
    assert decision.why == "phoenix offered 15.00 bps less than orca"


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(997_000, 1_003_000), min_size=1),
    st.dictionaries(st.sampled_from("abcde"), st.integers(-(10**6), 10**6)),
)
def test_no_past_overrides_a_price_that_is_better_by_more_than_ten_basis_points(
    amounts: dict[str, int], scores: dict[str, int]
) -> None:
    quotes = [quote(venue, amount) for venue, amount in amounts.items()]

    decision = routed([], *quotes, scores=[past(*each) for each in scores.items()])

    best = max(amounts.values())
    assert chosen(decision).quoted_amount_out >= best - best // 1000
    assert all(-1000 <= candidate.score_ppm <= 1000 for candidate in decision.candidates)
