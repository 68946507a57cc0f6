"""`oee quote`: a swap against a pool snapshot, or test vectors of the venues' programs computed."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import typer
from msgspec import to_builtins

from engine.amm.kinds import KINDS
from engine.amm.snapshot import InvalidSnapshot
from engine.amm.swap import SwapFailed
from oee import vectors
from oee.facts import LAYOUTS

EXIT_CODES: Final = (
    "Exit codes: 0 the swap's result, or every vector exact; 1 the program would refuse the swap, "
    "or a vector differs; 2 wrong usage, or a file that is no pool or no vectors."
)
# By a field that only this kind has; the order matters for the last, whose fields others share.
MARKS: Final = {
    "ticks": "raydium_clmm",
    "bins": "meteora_dlmm",
    "collect_fee_mode": "meteora_damm_v2",
    "swap_fee_numerator": "raydium_amm_v4",
    "fees": "raydium_amm_v4",
    "trade_fee_rate": "raydium_cpmm",
}


class Exit(IntEnum):
    """What a script can tell from the exit code."""

    DONE = 0
    DIFFERENT = 1
    MALFORMED = 2


def quote_pool(
    path: Path, mode: str, amount: int, zero_for_one: bool | None, now: int | None
) -> Exit:
    """Print the swap as JSON: amounts, fees, price impact and the pool afterwards.

    Direction, `now` and sqrt_price_limit_x64 may stand in the file, as in the vectors; the clock
    is read only if `now` stands nowhere. Prints {"error", "message"} for a swap that is refused.
    Raises typer.BadParameter for a file that is no pool.
    """
    data = _read(path)
    kind = _kind(path, data)
    asked: dict[str, Any] = {"mode": mode, "amount": amount}
    if zero_for_one is not None:
        asked[LAYOUTS[kind].direction] = zero_for_one
    if now is not None:
        asked["now"] = now
    try:
        pool = KINDS[kind].load(data)
        request = vectors.request(kind, asked, {"now": int(time.time())} | data)
        done = vectors.swap(kind, pool, request)
    except InvalidSnapshot as error:
        raise typer.BadParameter(f"{path}: {error}") from None
    except SwapFailed as failure:
        return _refused(kind, failure.reason, str(failure))
    told = vectors.facts(kind, pool, request.zero_for_one, done)
    if "onchain_error" in told:
        return _refused(kind, "ZERO_OUTPUT", told["onchain_error"])
    asked = {"mode": mode, "zero_for_one": request.zero_for_one, "now": request.now}
    _print({"kind": kind} | asked | told | {"pool_after": to_builtins(done.pool)})
    return Exit.DONE


def _refused(kind: str, reason: str, message: str) -> Exit:
    _print({"kind": kind, "error": reason, "message": message})
    return Exit.DIFFERENT


def check_vectors(paths: Sequence[Path]) -> Exit:
    """Compute every vector of the files; print each difference, then a summary per category.

    Raises typer.BadParameter for a file that has no vectors' layout.
    """
    files = [_read_vectors(path) for path in paths]
    exact: Counter[tuple[str, str]] = Counter()
    total: Counter[tuple[str, str]] = Counter()
    worst = Exit.DONE
    for file in files:
        for verdict in vectors.check(file):
            for difference in verdict.differences:
                typer.echo(difference)
            row = verdict.kind, verdict.category
            total[row] += 1
            exact[row] += not verdict.differences
            if verdict.differences:
                worst = max(worst, Exit.MALFORMED if verdict.malformed else Exit.DIFFERENT)
    for kind, category in total:
        row = kind, category
        mark = "ok" if exact[row] == total[row] else "FAILED"
        typer.echo(f"{kind} {category}: {exact[row]} of {total[row]} exact, {mark}")
    typer.echo(f"all: {exact.total()} of {total.total()} exact")
    return worst


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path}: it is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise typer.BadParameter(f"{path}: it is not a JSON object")
    return data


def _read_vectors(path: Path) -> dict[str, Any]:
    file = _read(path)
    if error := vectors.layout_error(file):
        raise typer.BadParameter(f"{path}: {error}")
    return file


def _kind(path: Path, data: Mapping[str, Any]) -> str:
    kind = data.get("kind") or next((MARKS[mark] for mark in MARKS if mark in data), None)
    if kind not in KINDS:
        raise typer.BadParameter(f"{path}: kind: {kind!r} is not one of {', '.join(KINDS)}")
    return str(kind)


def _print(told: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(vectors.written(dict(told)), indent=2))
