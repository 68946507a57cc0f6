"""Test vectors of the venues' programs: their layout, and how our results differ from them.

A file is {"kind", "vectors": [{"id", "category", "input", "expected"}], "sequences": [{"id",
"initial", "steps": [{"input", "expected"}]}]}. Integers are decimal strings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from engine.amm import meteora_damm_v2, meteora_dlmm, raydium_clmm
from engine.amm.kinds import KINDS, Kind
from engine.amm.snapshot import Fields, InvalidSnapshot
from engine.amm.swap import Swap, SwapFailed, decimals
from oee.facts import LAYOUTS, Facts

SEQUENCES: Final = "sequences"
# Longer lists of bins are left out of the vectors, as null.
UNLISTED: Final = "steps"


class Request(NamedTuple):
    """What a vector asks of a pool, in all kinds alike."""

    mode: str
    amount: int
    zero_for_one: bool
    now: int
    sqrt_price_limit_x64: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One vector or sequence: the category it counts for, and every difference."""

    kind: str
    category: str
    differences: tuple[str, ...]
    malformed: bool = False


def check(file: Mapping[str, Any]) -> Iterator[Verdict]:
    """Compute every vector and sequence of a file that `layout_error` finds nothing wrong with."""
    kind = file["kind"]
    for vector in file.get("vectors", ()):
        yield _judge(kind, vector["category"], vector, _single)
    for sequence in file.get(SEQUENCES, ()):
        yield _judge(kind, SEQUENCES, sequence, _sequence)


def layout_error(file: Any) -> str | None:
    """What makes this no vector file, or None."""
    if not isinstance(file, dict):
        return "it is not a JSON object with kind, vectors and sequences"
    if not isinstance(file.get("kind"), str):
        return f"kind: {file.get('kind')!r} is not a kind of pool ({', '.join(KINDS)})"
    if not file.get("vectors") and not file.get(SEQUENCES):
        return "it holds neither vectors nor sequences"
    for name, shape in (
        ("vectors", {"id": str, "category": str, "input": dict, "expected": dict}),
        (SEQUENCES, {"id": str, "initial": dict, "steps": list}),
    ):
        rows = file.get(name, [])
        if not isinstance(rows, list):
            return f"{name}: it is not a list"
        for at, row in enumerate(rows):
            if error := _row_error(row, shape):
                return f"{name}[{at}]{error}"
            for number, step in enumerate(row.get("steps", ())):
                if error := _row_error(step, {"input": dict, "expected": dict}):
                    return f"{name}[{at}].steps[{number}]{error}"
    return None


def _row_error(row: Any, shape: Mapping[str, type]) -> str | None:
    if not isinstance(row, dict):
        return ": it is not a JSON object"
    for name, expected in shape.items():
        if not isinstance(row.get(name), expected):
            return f".{name}: it is missing, or not of the JSON type that belongs there"
    return None


def request(kind: str, data: Mapping[str, Any], defaults: Mapping[str, Any]) -> Request:
    """What `data`, or else `defaults`, asks. Raises InvalidSnapshot."""
    fields = Fields({**defaults, **data})
    return Request(
        fields.word("mode"),
        fields.unsigned(64, "amount"),
        fields.flag(LAYOUTS[kind].direction, default=True),
        fields.signed(64, "now") if "now" in fields else 0,
        fields.unsigned(128, "sqrt_price_limit_x64", default=0),
    )


def swap(kind: str, pool: Any, asked: Request) -> Swap[Any]:
    """The swap as the program does it; raises SwapFailed.

    A DLMM swap that pays nothing is returned, since the vectors tell what it would have been.
    """
    venue: Kind = KINDS[kind]
    arguments = pool, asked.amount, asked.zero_for_one, asked.now
    match kind, asked.mode:
        case "raydium_clmm", "exact_in":
            return raydium_clmm.quote_exact_in(*arguments, asked.sqrt_price_limit_x64)
        case "raydium_clmm", "exact_out":
            return raydium_clmm.quote_exact_out(*arguments, asked.sqrt_price_limit_x64)
        case "meteora_dlmm", "exact_in":
            return meteora_dlmm.fill_exact_in(*arguments)
        case "meteora_damm_v2", "partial_fill":
            return meteora_damm_v2.quote_partial(*arguments)
        case _, "exact_in":
            return venue.quote_exact_in(*arguments)
        case _, "exact_out":
            return venue.quote_exact_out(*arguments)
    raise SwapFailed("NOT_COMPUTED", f"{asked.mode} of {kind} is not computed")


def facts(kind: str, pool: Any, zero_for_one: bool, done: Swap[Any]) -> Facts:
    """All that the vectors of this kind tell about a single swap."""
    return {
        **LAYOUTS[kind].single(pool, done, zero_for_one),
        "price_impact_curve": decimals(done.price_impact_curve),
        "price_impact_total": decimals(done.price_impact_total),
    }


def written(value: Any) -> Any:
    """A value as the vectors write it: integers are decimal strings."""
    match value:
        case bool() | None:
            return value
        case int():
            return str(value)
        case dict():
            return {name: written(inner) for name, inner in value.items()}
        case list() | tuple():
            return [written(inner) for inner in value]
        case _:
            return value


def _judge(
    kind: str,
    category: str,
    row: Mapping[str, Any],
    differences: Callable[[str, Mapping[str, Any]], Iterator[str]],
) -> Verdict:
    name = row["id"]
    if kind not in LAYOUTS:
        return Verdict(kind, category, (f"{name}: {kind} is not computed",))
    try:
        found = tuple(f"{name} {difference}" for difference in differences(kind, row))
    except InvalidSnapshot as error:
        return Verdict(kind, category, (f"{name} {error}",), malformed=True)
    except ArithmeticError as error:
        # A pool that no program would have let come about.
        return Verdict(kind, category, (f"{name} cannot be computed: {error!r}",))
    return Verdict(kind, category, found)


def _single(kind: str, vector: Mapping[str, Any]) -> Iterator[str]:
    pool = KINDS[kind].load(vector["input"])
    asked = request(kind, vector["input"], {})
    try:
        done = swap(kind, pool, asked)
    except SwapFailed as failure:
        yield from _differences(vector["expected"], {"error": failure.reason})
    else:
        told = facts(kind, pool, asked.zero_for_one, done)
        yield from _differences(vector["expected"], told)


def _sequence(kind: str, sequence: Mapping[str, Any]) -> Iterator[str]:
    pool = KINDS[kind].load(sequence["initial"])
    layout = LAYOUTS[kind]
    for number, step in enumerate(sequence["steps"], start=1):
        try:
            done = swap(kind, pool, request(kind, step["input"], sequence["initial"]))
        except SwapFailed as failure:
            told: Facts = {"error": failure.reason}
        else:
            told = layout.step(done)
            # What the program refuses after all changes nothing.
            pool = pool if "onchain_error" in told else done.pool
        for difference in _differences(step["expected"], told | layout.state(pool)):
            yield f"step {number} {difference}"


def _differences(expected: Mapping[str, Any], told: Facts) -> Iterator[str]:
    told = written(told)
    binding = {
        name: value for name, value in written(expected).items() if not name.startswith("sdk_")
    }
    if not binding:
        yield "expected: nothing to compare"
    for name, value in binding.items():
        if name == UNLISTED and value is None:
            continue
        if name not in told:
            yield f"{name}: expected {value}, computed none"
        elif told[name] != value:
            yield f"{name}: expected {value}, computed {told[name]}"
    if "error" in told and "error" not in expected:
        yield f"error: expected none, computed {told['error']}"
