"""A load on a running stack, and what it cost."""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

import msgspec

from bench.accounting import Counters, Cpu, machine_cpu_seconds, peak_memory, read_cpu, spent
from bench.job import Flow, Job, Outcome
from bench.limits import Limits
from bench.profile import Profile, Recording, profiled
from bench.stack import BenchStack

WARM_UP_ORDERS: Final = 500
WARM_UP_SECONDS: Final = 60.0
COUNTED_ORDERS: Final = 500
SETTLE_SECONDS: Final = 60.0


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """CPU and round trips are from the first order sent until the last one was settled.

    `settled_seconds` is that time; meanwhile others than us, the kernel's own threads among them,
    kept `others_cores` of the machine's cores busy. The load client is apart, in
    `client_cpu_ms_per_order`.
    """

    name: str
    outcome: Outcome
    settled_seconds: float
    all_settled: bool
    others_cores: float
    cpu_ms_per_order: dict[str, float]
    total_cpu_ms_per_order: float
    client_cpu_ms_per_order: float
    round_trips_per_order: dict[str, float]
    calls_per_order: dict[str, float]
    peak_memory_mib: dict[str, float]
    profile: Profile | None = None

    def shares(self, limits: Limits) -> dict[str, float]:
        """How much of the implied speed was reached, and of the CPU the bare parts would need."""
        return {
            "orders_per_second": round(
                self.outcome.orders_per_second / limits.orders_per_second, 3
            ),
            "cpu": round(limits.cpu_ms_per_order / self.total_cpu_ms_per_order, 3),
        }


@dataclass(frozen=True, slots=True)
class Reading:
    """What had been used when a measurement began."""

    counters: Counters
    cpu: Cpu
    machine_cpu_seconds: float
    time: float


async def warm_up(stack: BenchStack, flow: Flow, key: str, orders: int = 0) -> None:
    """Orders that nobody measures, at most `orders`: pools are filled, code paths are warm."""
    orders = min(orders or WARM_UP_ORDERS, WARM_UP_ORDERS)
    job = Job(flow=flow, key=f"{key}-warm", orders=orders, limit_seconds=WARM_UP_SECONDS)
    await stack.client.run(job)
    await stack.until_settled(SETTLE_SECONDS)


async def measure(stack: BenchStack, name: str, job: Job) -> Measurement:
    """Put the load on, and wait until all of it is settled."""
    before = await begin(stack)
    async with _profiled(stack) as recording:
        outcome = await stack.client.run(job)
    measurement = await conclude(stack, name, outcome, before)
    return msgspec.structs.replace(
        measurement, profile=recording.profile, calls_per_order=await _calls_per_order(stack, job)
    )


async def _calls_per_order(stack: BenchStack, job: Job) -> dict[str, float]:
    """Calls of venues and chain, counted with a little more of the same load."""
    some = msgspec.structs.replace(
        job,
        key=f"{job.key}-counted",
        seconds=0,
        orders=min(job.orders or COUNTED_ORDERS, COUNTED_ORDERS),
        limit_seconds=WARM_UP_SECONDS,
    )
    await stack.round_trips.count_calls()
    outcome = await stack.client.run(some)
    await stack.until_settled(SETTLE_SECONDS)
    calls = await stack.round_trips.counted_calls()
    return {name: round(count / max(1, outcome.orders), 2) for name, count in calls.items()}


async def begin(stack: BenchStack) -> Reading:
    """Read all meters, the clock last."""
    counters = await stack.round_trips.read()
    return Reading(counters, read_cpu(stack.pids), machine_cpu_seconds(), time.monotonic())


async def conclude(stack: BenchStack, name: str, outcome: Outcome, before: Reading) -> Measurement:
    """What all this cost, once everything is settled."""
    all_settled = await stack.until_settled(SETTLE_SECONDS)
    seconds = time.monotonic() - before.time
    by_name = spent(before.cpu, read_cpu(stack.pids))
    ours = sum(by_name.values()) + outcome.client_cpu_seconds
    others = machine_cpu_seconds() - before.machine_cpu_seconds - ours
    counters = await stack.round_trips.read()
    orders = max(1, outcome.orders)
    return Measurement(
        name=name,
        outcome=outcome,
        settled_seconds=round(seconds, 3),
        all_settled=all_settled,
        others_cores=round(max(0.0, others / seconds), 2),
        cpu_ms_per_order={n: round(s * 1000 / orders, 3) for n, s in sorted(by_name.items())},
        total_cpu_ms_per_order=round(sum(by_name.values()) * 1000 / orders, 3),
        client_cpu_ms_per_order=round(outcome.client_cpu_seconds * 1000 / orders, 3),
        round_trips_per_order=_per_order(before.counters, counters, orders),
        calls_per_order={},
        peak_memory_mib=peak_memory(stack.pids),
    )


def _profiled(stack: BenchStack) -> AbstractAsyncContextManager[Recording]:
    if stack.profiled is None:
        return nullcontext(Recording())
    return profiled(stack.pids[stack.profiled])


def _per_order(before: Counters, after: Counters, orders: int) -> dict[str, float]:
    return {name: round((n - before.get(name, 0)) / orders, 2) for name, n in after.items()}
