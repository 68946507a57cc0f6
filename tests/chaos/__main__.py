"""One storm: its log in a file, one JSON line at the end, exit code 1 on any violation."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tests.chaos.program import Show, run
from tests.chaos.storm import SOURCE, storm

SHOWN_VIOLATIONS: Final = 20


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="repeats a storm; default: a new one")
    parser.add_argument("--duration", type=float, default=60, help="seconds of storm; default 60")
    parser.add_argument("--rate", type=float, default=15, help="orders a second; default 15")
    arguments = parser.parse_args()
    seed = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed

    async def work(directory: Path, show: Show) -> Mapping[str, Any]:
        report = await storm(directory, seed, arguments.duration, arguments.rate, show)
        for violation in report.violations:
            show("checker", str(violation))
        return {
            "ok": not report.violations,
            "seed": seed,
            "duration_seconds": arguments.duration,
            **report.summary(),
            "violation_count": len(report.violations),
            "violations": [asdict(v) for v in report.violations[:SHOWN_VIOLATIONS]],
        }

    return run(SOURCE, work)


if __name__ == "__main__":
    sys.exit(main())
