"""Price impact, as it is written."""

from __future__ import annotations

from fractions import Fraction

import pytest

from engine.amm.raydium_cpmm import Pool, quote_exact_in
from engine.amm.swap import Paid, decimals


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (Fraction(0), "0.000000000000"),
        (Fraction(1), "1.000000000000"),
        (Fraction(1, 3), "0.333333333333"),
        (Fraction(2, 3), "0.666666666667"),
        (Fraction(25, 10**13), "0.000000000002"),
        (Fraction(35, 10**13), "0.000000000004"),
        (Fraction(-3, 2), "-1.500000000000"),
        (None, None),
    ],
)
def test_twelve_decimals_round_half_to_even(ratio: Fraction | None, text: str | None) -> None:
    assert decimals(ratio) == text


def test_impact_compares_with_the_price_before() -> None:
    # 100 less a fee of 10 into 910: 90 / 1000 of the output remains unsold at spot.
    swap = quote_exact_in(Pool(910, 10_000, 100_000, 0, 0), 100, zero_for_one=True)

    assert (swap.net_in, swap.amount_out) == (90, 900)
    assert swap.price_impact_curve == 1 - Fraction(900, 90) / Fraction(10_000, 910)
    assert swap.price_impact_total == 1 - Fraction(900, 100) / Fraction(10_000, 910)
    assert swap.price_impact_ppm == 90_000


def test_impact_is_nothing_where_fees_took_all_input() -> None:
    nothing = Paid(amount_in=1, amount_out=0, net_in=0, gross_out=0, spot=(10_000, 910))

    assert nothing.price_impact_ppm == 0
