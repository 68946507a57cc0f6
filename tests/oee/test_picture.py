"""The chart, by its lines."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest

from oee.picture import HEIGHT, WIDTH, curve

NO_AMOUNT = Decimal("0.5")


def points(**impacts: str) -> dict[Decimal, Decimal]:
    """Impacts by amount: a10="3" is 3 bps at 10."""
    return {Decimal(name[1:]): Decimal(impact) for name, impact in impacts.items()}


RISING = points(a1="0", a10="100", a100="200", a1000="300", a10000="400", a100000="500")


def plot(lines: list[str]) -> list[str]:
    """The area between the scale and the right end, by line from the top."""
    rows = [line for line in lines if "┤" in line or "│" in line]
    return [line.replace("┤", "│").split("│")[1].ljust(WIDTH) for line in rows]


def line_of(area: list[str], column: int) -> int:
    """The top line of the curve in a column."""
    return next(n for n, line in enumerate(area) if line[column] not in " ┊")


def test_what_grows_with_the_logarithm_is_a_straight_line() -> None:
    area = plot(curve(RISING, NO_AMOUNT, "SOL"))

    tops = [line_of(area, column) for column in range(WIDTH)]
    assert len(area) == HEIGHT
    assert tops == sorted(tops, reverse=True)
    # No line is longer or shorter than its share of the columns, but for a rounded dot.
    assert all(abs(tops.count(n) - WIDTH / HEIGHT) <= 1 for n in range(HEIGHT)), tops
    # The first dot is the lowest on the left, the last one the highest on the right.
    assert ord(area[-1][0]) & 0x40
    assert ord(area[0][-1]) & 0x08


def test_the_scale_ends_at_a_round_number_above_the_highest_impact() -> None:
    for highest, top in (("0.3", "0.5"), ("1.01", "2"), ("7", "10"), ("500", "500")):
        lines = curve(points(a1="0", a2=highest), NO_AMOUNT, "SOL")
        scale = [line.split()[0] for line in lines if "bps ┤" in line]

        assert (scale[0], scale[-1]) == (top, "0")
        assert Decimal(scale[1]) == Decimal(top) / 2


def test_prices_better_than_the_smallest_amounts_are_below_zero() -> None:
    lines = curve(points(a1="0", a10="-3", a100="7"), NO_AMOUNT, "SOL")
    area = plot(lines)

    assert [line.split()[0] for line in lines if "bps ┤" in line] == ["10", "2.5", "-5"]
    assert line_of(area, WIDTH // 2) > line_of(area, 0) > line_of(area, WIDTH - 1)


@pytest.mark.parametrize("impact", ["0", "-0.00"])
def test_a_flat_price_lies_on_zero(impact: str) -> None:
    area = plot(curve(points(a1="0", a10=impact), NO_AMOUNT, "SOL"))

    assert {line_of(area, column) for column in range(WIDTH)} == {HEIGHT - 1}


def test_a_jump_is_drawn_without_gaps() -> None:
    area = plot(curve(points(a1="0", a10000="0", a10001="100", a100000="100"), NO_AMOUNT, "SOL"))

    assert all(line.strip() for line in area)
    assert {line_of(area, column) for column in range(WIDTH)} == {0, HEIGHT - 1}


def test_every_power_of_ten_has_a_tick_above_its_name() -> None:
    lines = curve(points(a20="0", a200000="9"), NO_AMOUNT, "SOL")
    axis, names = next((a, b) for a, b in pairwise(lines) if "└" in a)

    ticks = [column for column, character in enumerate(axis) if character == "┬"]
    assert [names[tick:].split()[0] for tick in ticks] == ["100", "1000", "10000", "100000"]
    assert all(names[tick - 1] == " " for tick in ticks)
    assert names.endswith(" SOL")


def test_names_that_would_run_into_each_other_are_left_out() -> None:
    wide = {Decimal(1): Decimal(0), Decimal(10) ** 19: Decimal(1)}
    [names] = [line for line in curve(wide, NO_AMOUNT, "BONK") if "BONK" in line]

    assert all(set(name) <= {"0", "1"} and name.count("1") == 1 for name in names.split()[:-1])


@pytest.mark.parametrize("amount", RISING)
def test_the_asked_amount_is_marked_on_the_curve_and_named_below(amount: Decimal) -> None:
    lines = curve(RISING, amount, "SOL")
    area = plot(lines)
    column = lines[-1].index("▲") - lines[0].index("┤") - 1

    [marked] = [line for line in area if "●" in line]
    assert marked.index("●") == column
    assert marked == area[line_of(area, column)]
    assert {line[column] for line in area} == {"●", "┊"}
    assert f"{amount} SOL, {RISING[amount]} bps" in lines[-1]
    assert len(lines[-1]) <= lines[0].index("┤") + 1 + WIDTH


def test_the_mark_covers_nothing_of_the_curve() -> None:
    steep = points(a1="0", a100="0", a101="100", a10000="100")
    area = plot(curve(steep, Decimal(100), "SOL"))

    [column] = {line.index("●") for line in area if "●" in line}
    assert "┊" not in {line[column] for line in area}


def test_an_amount_that_has_no_point_is_not_marked() -> None:
    drawn = "".join(curve(RISING, NO_AMOUNT, "SOL"))

    assert not set("●▲┊") & set(drawn)


@pytest.mark.parametrize("drawn", [{}, points(a1="0")])
def test_fewer_than_two_points_draw_nothing(drawn: dict[Decimal, Decimal]) -> None:
    assert curve(drawn, Decimal(1), "SOL") == []
