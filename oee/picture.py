"""A curve as lines of characters: amounts on a logarithmic axis, basis points on a linear one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from math import ceil, floor
from typing import Final

WIDTH: Final = 60
HEIGHT: Final = 12
# A braille character is two dots wide and four high; each dot's bit, by column and row.
BRAILLE: Final = 0x2800
DOTS: Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))

# Basis points by amount.
Curve = Mapping[Decimal, Decimal]


def curve(points: Curve, marked: Decimal, token: str) -> list[str]:
    """The curve through these points, straight between them, with the marked one told below.

    Amounts are of `token`, above zero. Fewer than two points draw nothing; a marked amount that is
    none of them is not marked.
    """
    if len(points) < 2:
        return []
    amounts = sorted(points)
    x_axis = _Axis(_log(amounts[0]), _log(amounts[-1]), 2 * WIDTH)
    low, high = _round_up(-min(points.values())), _round_up(max(points.values()))
    y_axis = _Axis(0.0 - low, high if low or high else 1, 4 * HEIGHT)
    cells = _drawn(_heights(points, amounts, x_axis, y_axis))
    told: list[tuple[str, str]] = []
    if marked in points:
        place = x_axis.dot(_log(marked)) // 2
        _mark(cells, place, _line(y_axis.dot(float(points[marked]))))
        told = [("", f" {_beside(place, f'{marked:f} {token}, {points[marked]:f} bps')}")]
    labels = {
        _line(y_axis.dot(value)): f"{value:g} bps"
        for value in (y_axis.first, (y_axis.first + y_axis.last) / 2, y_axis.last)
    }
    lines = [
        *(
            (labels.get(number, ""), ("┤" if number in labels else "│") + "".join(line))
            for number, line in enumerate(cells)
        ),
        *_decades(x_axis, token),
        *told,
    ]
    margin = max(len(label) for label, _ in lines)
    return [f"{label:>{margin}} {line}".rstrip() for label, line in lines]


@dataclass(frozen=True, slots=True)
class _Axis:
    """So many dots, from the first value to the last."""

    first: float
    last: float
    dots: int

    def dot(self, value: float) -> int:
        return round((value - self.first) / (self.last - self.first) * (self.dots - 1))

    def value(self, dot: int) -> float:
        return self.first + (self.last - self.first) * dot / (self.dots - 1)


def _log(amount: Decimal) -> float:
    return float(amount.log10())


def _round_up(value: Decimal) -> float:
    """The next of 1, 2, 5, 10, 20 … for a scale; 0 for what is not above zero."""
    if value <= 0:
        return 0.0
    power = Decimal(1).scaleb(value.adjusted())
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= value))


def _heights(
    points: Curve, amounts: Sequence[Decimal], x_axis: _Axis, y_axis: _Axis
) -> Iterator[int]:
    """How many dots up the curve is, for each column of dots."""
    ends = pairwise(amounts)
    left, right = next(ends)
    for column in range(x_axis.dots):
        x = x_axis.value(column)
        while x > _log(right) and right != amounts[-1]:
            left, right = next(ends)
        share = (x - _log(left)) / (_log(right) - _log(left))
        yield y_axis.dot(float(points[left]) + share * float(points[right] - points[left]))


def _drawn(heights: Iterator[int]) -> list[list[str]]:
    """The dots as characters, by line from the top; steep parts are filled."""
    bits = [[0] * WIDTH for _ in range(HEIGHT)]
    before = None
    for column, height in enumerate(heights):
        filled = range(height, height + 1)
        if before is not None and abs(height - before) > 1:
            filled = range(min(height, before + 1), max(height, before - 1) + 1)
        for dot in filled:
            bits[_line(dot)][column // 2] |= DOTS[column % 2][3 - dot % 4]
        before = height
    return [[chr(BRAILLE + cell) if cell else " " for cell in line] for line in bits]


def _line(dot: int) -> int:
    """The line, from the top, of a dot so many dots up."""
    return HEIGHT - 1 - dot // 4


def _mark(cells: Sequence[list[str]], column: int, line: int) -> None:
    for each in cells:
        if each[column] == " ":
            each[column] = "┊"
    cells[line][column] = "●"


def _decades(axis: _Axis, token: str) -> Iterator[tuple[str, str]]:
    """The axis with a tick at each power of ten, and below it what they are."""
    ticks, names = ["─"] * WIDTH, ""
    for power in range(ceil(axis.first), floor(axis.last) + 1):
        place = axis.dot(power) // 2
        ticks[place] = "┬"
        if not names or place > len(names):
            names = f"{names:<{place}}{Decimal(1).scaleb(power):f}"
    yield "", "└" + "".join(ticks)
    yield "", f" {names} {token}"


def _beside(place: int, text: str) -> str:
    """The text beside an arrow at this place, on the side where there is room."""
    right = f"{'':{place}}▲ {text}"
    return right if len(right) <= WIDTH else f"{text} ▲".rjust(place + 1)
