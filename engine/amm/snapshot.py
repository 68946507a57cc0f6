"""A pool snapshot in JSON: written as a whole, read field by field."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

from engine.errors import EngineError

# More than any pool has of initialized ticks or bins with liquidity.
MAX_ROWS: Final = 16_384
_INTEGER: Final = re.compile(r"-?[0-9]{1,80}")


class InvalidSnapshot(EngineError):
    """A snapshot that is no pool: names the field, its value and what would be right."""


def dump(pool: object) -> str:
    """A pool of any kind as JSON that its module's `load` reads back as the same pool."""
    return _ENCODER.encode(pool)


class Fields:
    """One JSON object. Integers are numbers or decimal strings, as u128 does not fit a number.

    Every reader takes the names under which the field goes, and raises InvalidSnapshot for one
    that is missing without a default, or has another type or width. Other fields are ignored, so
    that a whole account may be pasted in.
    """

    def __init__(self, data: object, path: str = "") -> None:
        if not isinstance(data, Mapping):
            raise InvalidSnapshot(f"{path or 'a pool'}: {_shown(data)} is not a JSON object")
        self._data: Mapping[str, Any] = data
        self._path = path

    def __contains__(self, name: str) -> bool:
        return self._data.get(name) is not None

    def unsigned(self, bits: int, *names: str, default: int | None = None) -> int:
        """An integer in 0 … 2^bits-1."""
        return self._integer(names, 0, 2**bits - 1, default)

    def signed(self, bits: int, *names: str) -> int:
        """An integer in -2^(bits-1) … 2^(bits-1)-1."""
        return self._integer(names, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, None)

    def between(self, least: int, most: int, *names: str, default: int | None = None) -> int:
        """An integer in least … most."""
        return self._integer(names, least, most, default)

    def flag(self, *names: str, default: bool) -> bool:
        """true or false, which accounts also hold as 1 or 0."""
        name, value = self._find(names)
        if value is None:
            return default
        if value not in (0, 1):
            raise InvalidSnapshot(f"{self._path}{name}: {_shown(value)} is neither true nor false")
        return bool(value)

    def word(self, *names: str) -> str:
        """A string."""
        name, value = self._find(names)
        if not isinstance(value, str):
            raise InvalidSnapshot(f"{self._path}{name}: {_shown(value)} is not a string")
        return value

    def inner(self, *names: str) -> Fields:
        """An object inside this one."""
        name, value = self._find(names)
        return Fields(value, f"{self._path}{name}.")

    def rows(self, name: str, *bounds: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
        """A list of equally long lists of integers in their columns' bounds, by the first sorted.

        No two may begin with the same integer.
        """
        value = self._data.get(name)
        if not isinstance(value, list):
            raise InvalidSnapshot(f"{self._path}{name}: {_shown(value)} is not a list")
        if len(value) > MAX_ROWS:
            raise InvalidSnapshot(f"{self._path}{name}: {len(value)} rows are more than {MAX_ROWS}")
        rows = sorted(self._row(f"{name}[{at}]", row, bounds) for at, row in enumerate(value))
        for one, next_one in pairwise(rows):
            if one[0] == next_one[0]:
                raise InvalidSnapshot(f"{self._path}{name}: {one[0]} is there twice")
        return tuple(rows)

    def _row(self, name: str, row: Any, bounds: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
        if not isinstance(row, list) or len(row) != len(bounds):
            raise InvalidSnapshot(
                f"{self._path}{name}: {_shown(row)} is not a list of {len(bounds)} integers"
            )
        return tuple(
            self._within(name, value, least, most)
            for value, (least, most) in zip(row, bounds, strict=True)
        )

    def _integer(self, names: tuple[str, ...], least: int, most: int, default: int | None) -> int:
        name, value = self._find(names)
        if value is None and default is not None:
            return default
        return self._within(name, value, least, most)

    def _within(self, name: str, value: Any, least: int, most: int) -> int:
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            value = int(value)
        if value is None:
            raise InvalidSnapshot(f"{self._path}{name}: missing; it is an integer")
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidSnapshot(
                f"{self._path}{name}: {_shown(value)} is not an integer in {least} … {most}"
            )
        return value

    def _find(self, names: tuple[str, ...]) -> tuple[str, Any]:
        for name in names:
            if self._data.get(name) is not None:
                return name, self._data[name]
        return names[0], None


def _fields_of(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


_ENCODER: Final = json.JSONEncoder(default=_fields_of, separators=(",", ":"))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
