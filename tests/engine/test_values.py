"""Changing a frozen value makes another one."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, replace

import pytest

from engine.values import changed


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0
    name: str | None = None


def test_a_changed_value_equals_what_replace_makes_and_leaves_the_first_as_it_was() -> None:
    first = Point(1, name="a")

    other = changed(first, x=2, name=None)

    assert other == replace(first, x=2, name=None)
    assert first == Point(1, name="a")
    assert hash(other) == hash(Point(2))
    with pytest.raises(FrozenInstanceError):
        other.x = 3  # type: ignore[misc]


def test_a_fact_that_a_value_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError, match="Point has no z"):
        changed(Point(1), z=3)
