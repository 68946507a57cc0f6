"""Amounts and prices: exact both ways, and nothing but plain decimals is let in."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.token import MAX_AMOUNT, Token, Tokens, price

SOL = Token("SOL", "So11111111111111111111111111111111111111112", 9)
USDC = Token("USDC", "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v", 6)

decimals = st.integers(0, 18)
amounts = st.integers(1, MAX_AMOUNT)


def token(decimals: int) -> Token:
    return Token("T", "mint", decimals)


@settings(deadline=None)
@given(decimals, amounts)
def test_every_amount_comes_back_from_its_text(decimals: int, amount: int) -> None:
    assert token(decimals).parse(token(decimals).format(amount)) == amount


@settings(deadline=None)
@given(decimals, amounts)
def test_the_text_is_the_exact_number_written_shortest(decimals: int, amount: int) -> None:
    text = token(decimals).format(amount)

    assert Fraction(text) == Fraction(amount, 10**decimals)
    assert text == f"{Decimal(text):f}"
    assert not ("." in text and text.endswith(("0", ".")))


@settings(deadline=None)
@given(decimals, amounts, st.integers(0, 2), st.integers(0, 2))
def test_zeros_around_a_number_change_nothing(
    decimals: int, amount: int, before: int, after: int
) -> None:
    whole, _, fraction = token(decimals).format(amount).partition(".")
    padded = f"{'0' * before}{whole}.{fraction}{'0' * after}0"

    assert token(decimals).parse(padded) == amount


def test_trailing_zeros_are_the_same_amount() -> None:
    assert SOL.parse("1.50") == SOL.parse("1.5") == 1_500_000_000
    assert token(0).parse("7.0") == 7


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "+1",
        "-0",
        "1e5",
        "1E5",
        "0x10",
        "NaN",
        "nan",
        "inf",
        "Infinity",
        " 1",
        "1 ",
        "1\n",
        "\t1",
        "1.",
        ".5",
        ".",
        "1..2",
        "1.2.3",
        "1_000",
        "1,000",
        "1,5",
        "١",
        "１",
        "²",
        "१.५",
        "½",
        "1\x00",
        "one",
    ],
)
def test_anything_but_plain_decimal_digits_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r'is not an amount: write plain .* such as "1\.5"'):
        SOL.parse(text)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_either_a_positive_amount_or_refused(text: str) -> None:
    try:
        amount = SOL.parse(text)
    except ValueError:
        return

    assert Fraction(text) == Fraction(amount, 10**9)
    assert 1 <= amount <= MAX_AMOUNT


@pytest.mark.parametrize("text", ["9" * 100, "1." + "0" * 41, "0" * 40 + "1", "1" * 1_000_000])
def test_a_number_beyond_all_measure_is_refused_as_too_long(text: str) -> None:
    with pytest.raises(ValueError, match=r"^'.{37}\.\.\.' is too long: at most 40 digits before"):
        SOL.parse(text)


@pytest.mark.parametrize("text", ["0", "0.0", "00", "0.000000000"])
def test_zero_is_refused_and_the_least_amount_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"is zero: it must be at least 0\.000000001$"):
        SOL.parse(text)


@settings(deadline=None)
@given(decimals, st.integers(0, 9))
def test_one_decimal_place_too_many_is_refused(decimals: int, whole: int) -> None:
    text = f"{whole}.{'0' * decimals}1"

    with pytest.raises(ValueError, match=f"has {decimals + 1} decimal places: T has {decimals}$"):
        token(decimals).parse(text)


@settings(deadline=None)
@given(decimals)
def test_the_largest_amount_is_taken_and_one_more_refused(decimals: int) -> None:
    largest = token(decimals).format(MAX_AMOUNT)
    one_more = token(decimals).format(MAX_AMOUNT + 1)

    assert token(decimals).parse(largest) == MAX_AMOUNT
    with pytest.raises(ValueError, match=f"is too large: at most {largest} T$"):
        token(decimals).parse(one_more)


@pytest.mark.parametrize("text", ["9" * 21, "9" * 40, f"1{'0' * 30}.5"])
def test_a_number_of_up_to_forty_digits_is_called_too_large_not_malformed(text: str) -> None:
    with pytest.raises(ValueError, match=r"is too large: at most 18446744073\.709551615 SOL"):
        SOL.parse(text)


def test_a_refusal_repeats_only_the_beginning_of_a_long_text() -> None:
    with pytest.raises(ValueError, match=r"^'x{37}[.]{3}' is not an amount"):
        SOL.parse("x" * 1_000_000)


@settings(deadline=None)
@given(amounts, decimals, amounts, decimals)
def test_a_price_is_exact_to_twelve_digits_and_never_above_the_truth(
    amount_in: int, decimals_in: int, amount_out: int, decimals_out: int
) -> None:
    text = price(amount_in, token(decimals_in), amount_out, token(decimals_out))

    told = Fraction(text)
    exact = Fraction(amount_out, 10**decimals_out) / Fraction(amount_in, 10**decimals_in)
    digits = len(Decimal(text).normalize().as_tuple().digits)
    assert told <= exact
    # Off by less than one unit of the twelfth digit, so relatively by less than 10^-11.
    assert (exact - told) / exact < Fraction(1, 10**11)
    assert digits <= 12
    assert text == f"{Decimal(text):f}"


def test_a_price_is_whole_tokens_out_for_one_whole_token_in() -> None:
    assert price(1_500_000_000, SOL, 225_000_000, USDC) == "150"
    assert price(225_000_000, USDC, 1_500_000_000, SOL) == "0.00666666666666"
    assert (
        price(MAX_AMOUNT, token(0), 1, token(18))
        == "0.0000000000000000000000000000000000000542101086242"
    )
    assert price(1, token(18), MAX_AMOUNT, token(0)) == "18446744073700000000000000000000000000"
    assert price(5, SOL, 0, USDC) == "0"


def test_a_token_is_found_by_symbol_and_by_mint_and_by_nothing_else() -> None:
    tokens = Tokens([USDC, SOL])

    assert [token.symbol for token in tokens.all] == ["SOL", "USDC"]
    assert tokens.find("SOL") is SOL
    assert tokens.find(SOL.mint) is tokens.by_mint(SOL.mint) is SOL
    assert tokens.find("sol") is None
    with pytest.raises(KeyError):
        tokens.by_mint("SOL")
