"""One storm: clients trade while everything breaks; then all is quiet, and checked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos.checker import Violation, check
from tests.chaos.disturbances import Disturbances
from tests.chaos.facts import Facts
from tests.chaos.recovery import Recovery, measure
from tests.chaos.schedule import plan
from tests.chaos.site import running_site

# Who says in the log what was done to the services.
SOURCE: Final = "storm"


@dataclass(frozen=True, slots=True)
class Report:
    """What a storm was, and every promise it broke."""

    facts: Facts
    violations: Sequence[Violation]
    recovery: Mapping[str, Recovery]
    disturbances: Disturbances
    tally: Counter[str]
    quiet_seconds: float

    def summary(self) -> dict[str, Any]:
        """The counts that tell how rough it was."""
        facts = self.facts
        return {
            "orders": len(facts.orders),
            "accepted": sum(len(told.order_ids) for told in facts.told),
            "statuses": Counter(order.status for order in facts.orders),
            "attempts": Counter(str(attempt.resolution) for attempt in facts.attempts),
            "swaps": len(facts.swaps),
            "events": sum(map(len, facts.events.values())),
            "events_by_type": Counter(e.type for log in facts.events.values() for e in log),
            "streams": sum(len(told.streams) for told in facts.told),
            "clients": self.tally,
            "disturbances": self.disturbances.done,
            "fault_hits": self.disturbances.hits,
            "quiet_seconds": self.quiet_seconds,
            "recovery": self.recovery,
        }


async def storm(
    directory: Path,
    seed: int,
    duration_seconds: float,
    orders_per_second: float,
    show: Callable[[str, str], None],
    *,
    measures_recovery: bool = True,
) -> Report:
    """The storm of this seed, on a stack of its own in `directory`; `show` gets every log line."""
    async with running_site(directory, seed, show) as site:
        disturbances = Disturbances(site.stack, site.control, lambda line: show(SOURCE, line))
        recovery = await measure(site.crowd, disturbances) if measures_recovery else {}
        show(SOURCE, f"a storm of {duration_seconds:g} s with seed {seed}")
        async with asyncio.TaskGroup() as both:
            both.create_task(site.crowd.keep_sending(duration_seconds, orders_per_second))
            both.create_task(disturbances.follow(plan(seed, duration_seconds)))
        await disturbances.calm()
        show(SOURCE, "calm")
        quiet_seconds = await site.quiet()
        show(SOURCE, f"quiet after {quiet_seconds:g} s")
        facts = await site.facts()
    return Report(
        facts,
        check(facts),
        recovery,
        disturbances,
        site.crowd.tally,
        quiet_seconds,
    )
