"""Values: frozen, so that a change of one is another one."""

from __future__ import annotations

from typing import Final, TypeVar

Value = TypeVar("Value")

_new: Final = object.__new__


def changed(value: Value, **facts: object) -> Value:
    """The same but for these facts, as dataclasses.replace() makes it, at a fifth of the price:
    an order is changed a dozen times in its life.

    For dataclasses without slots and without __post_init__. Raises TypeError for a fact that
    the value does not have.
    """
    held = vars(value)
    if not facts.keys() <= held.keys():
        raise TypeError(f"{type(value).__name__} has no {', '.join(facts.keys() - held.keys())}")
    other = _new(type(value))
    vars(other).update(held)
    vars(other).update(facts)
    return other
