"""A soak: the same load for a long time; the memory of each service must come to rest.

The first third is for warming up. From then on, what a service holds (its resident set, in the
median of a tenth of the time) must not grow by more than GROWTH_PERCENT.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from oee.stack import Stack
from tests.chaos.checker import check
from tests.chaos.program import Show, run
from tests.chaos.site import running_site

# An even one, for what routers usually do: they follow the pools.
SEED: Final = 2
SAMPLES: Final = 180
GROWTH_PERCENT: Final = 10.0
MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Growth:
    """A process's memory after warming up and at the end, and samples in between."""

    warm_mebibytes: float
    end_mebibytes: float
    growth_percent: float
    mebibytes: Sequence[float]


def growth(mebibytes: Sequence[float]) -> Growth:
    """How much a process grew after the first third of its samples; of at least three."""
    window = max(1, len(mebibytes) // 10)
    third = len(mebibytes) // 3
    warm = statistics.median(mebibytes[third : third + window])
    end = statistics.median(mebibytes[-window:])
    percent = round((end / warm - 1) * 100, 1)
    return Growth(round(warm, 1), round(end, 1), percent, mebibytes[:: max(1, window)])


async def sampled(stack: Stack, duration_seconds: float) -> dict[str, list[float]]:
    """The resident set of each process over time, in MiB; PostgreSQL's backends are left out."""
    processes = {name: psutil.Process(stack.pid(name)) for name in stack.services}
    if stack.nats is not None:
        processes["nats"] = psutil.Process(stack.nats.pid)
    samples: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(SAMPLES):
        await asyncio.sleep(duration_seconds / SAMPLES)
        for name, process in processes.items():
            samples[name].append(round(process.memory_info().rss / MEBIBYTE, 1))
    return samples


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--duration", type=float, default=900, help="seconds; default 900")
    parser.add_argument("--rate", type=float, default=10, help="orders a second; default 10")
    arguments = parser.parse_args()

    async def work(directory: Path, show: Show) -> Mapping[str, Any]:
        async with running_site(directory, SEED, show) as site:
            show("soak", f"{arguments.rate:g} orders a second for {arguments.duration:g} s")
            samples, _ = await asyncio.gather(
                sampled(site.stack, arguments.duration),
                site.crowd.keep_sending(arguments.duration, arguments.rate),
            )
            await site.quiet()
            facts = await site.facts()
        grown = {name: growth(mebibytes) for name, mebibytes in samples.items()}
        violations = check(facts)
        flat = all(grown[name].growth_percent <= GROWTH_PERCENT for name in site.stack.services)
        return {
            "ok": flat and not violations,
            "duration_seconds": arguments.duration,
            "orders": len(facts.orders),
            "memory": {name: asdict(g) for name, g in grown.items()},
            "violations": [asdict(violation) for violation in violations[:20]],
        }

    return run("soak", work)


if __name__ == "__main__":
    sys.exit(main())
