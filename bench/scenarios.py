"""What is measured: each scenario by its name, on a stack of its own."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.job import Flow, Job
from bench.measurement import Measurement, begin, conclude, measure, warm_up
from bench.seed import seed
from bench.stack import BenchStack

BACKLOG_LIMIT_SECONDS: Final = 300.0
OVERLOAD: Final = 3
# What may wait is full before the first half is over.
OVERLOAD_TIMES_AS_LONG: Final = 2


@dataclass(frozen=True)
class Options:
    """How long or how much; `orders` (0: not given) replaces `seconds`.

    `unary` sends over SubmitOrder and WatchOrder what goes over the streams otherwise.
    """

    seconds: float = 6
    orders: int = 0
    in_flight: Sequence[int] = (64, 256)
    backlog: int = 10_000
    stored: Sequence[int] = (1_000, 100_000, 1_000_000)
    unary: bool = False

    @property
    def flow(self) -> Flow:
        """How orders are sent where that is not what is measured."""
        return Flow.UNARY if self.unary else Flow.STREAM

    def job(
        self,
        flow: Flow,
        key: str,
        *,
        in_flight: int = 64,
        watchers: int = 0,
        held_pid: int | None = None,
    ) -> Job:
        """A job that ends as the options say."""
        return Job(
            flow=flow,
            key=key,
            in_flight=in_flight,
            watchers=watchers,
            held_pid=held_pid,
            orders=self.orders,
            seconds=0 if self.orders else self.seconds,
        )


Scenario = Callable[[BenchStack, Options], Awaitable[Sequence[Measurement]]]


async def latency(stack: BenchStack, options: Options) -> Sequence[Measurement]:
    """One order at a time: how fast the answer, and each event, is there."""
    await warm_up(stack, Flow.UNARY, "latency", options.orders)
    job = options.job(Flow.UNARY, "latency", in_flight=1)
    return [await measure(stack, "one at a time", job)]


async def throughput(stack: BenchStack, options: Options) -> Sequence[Measurement]:
    """Over SubmitOrders, with one WatchOrders."""
    await warm_up(stack, Flow.STREAM, "stream", options.orders)
    return [
        await measure(
            stack,
            f"stream, {in_flight} in flight",
            options.job(Flow.STREAM, f"stream-{in_flight}", in_flight=in_flight),
        )
        for in_flight in options.in_flight
    ]


async def unary(stack: BenchStack, options: Options) -> Sequence[Measurement]:
    """Over SubmitOrder, with a WatchOrder an order."""
    await warm_up(stack, Flow.UNARY, "unary", options.orders)
    return [await measure(stack, "unary, 64 in flight", options.job(Flow.UNARY, "unary"))]


async def watchers(stack: BenchStack, options: Options) -> Sequence[Measurement]:
    """Many WatchOrder streams, spread over 64 orders in flight.

    An order lives shorter than it takes to open so many streams, so the router is stopped until
    all of them are open: events are measured here, and orders a second are not.
    """
    await warm_up(stack, Flow.UNARY, "watchers", options.orders)
    router = stack.pids["router"]
    measurements = []
    for count in (200, 2000):
        job = options.job(Flow.WATCHERS, f"watchers-{count}", watchers=count, held_pid=router)
        measurements.append(await measure(stack, f"{count:,} watchers", job))
    return measurements


async def backlog(stack: BenchStack, options: Options) -> Sequence[Measurement]:
    """Orders accepted while router and executor were dead, from their start until all settled."""
    await warm_up(stack, options.flow, "backlog", options.orders)
    key = "recovered"
    for name in ("router", "executor"):
        await stack.stack.kill(name, restart=False)
    outcome = await stack.client.run(
        Job(
            flow=Flow.ACCEPT_UNARY if options.unary else Flow.ACCEPT,
            key=key,
            in_flight=256,
            orders=options.backlog,
        )
    )
    before = await begin(stack)
    for name in ("executor", "router"):
        await stack.stack.start(name)
    await stack.until_settled(BACKLOG_LIMIT_SECONDS)
    seconds = time.monotonic() - before.time
    recovered = outcome.recovered(seconds, await stack.statuses(key))
    return [await conclude(stack, f"backlog of {options.backlog:,}", recovered, before)]


async def growth(stack: BenchStack, options: Options) -> Sequence[Measurement]:
    """The same load beside more and more settled orders."""
    await warm_up(stack, options.flow, "growth", options.orders)
    measurements = []
    for stored in options.stored:
        await stack.stack.stop("gateway")
        await seed(stack.stack.postgres_dsn, stored)
        await stack.stack.start("gateway")
        await warm_up(stack, options.flow, f"growth-{stored}", options.orders)
        job = options.job(options.flow, f"growth-{stored}")
        measurements.append(await measure(stack, f"{stored:,} stored", job))
    return measurements


async def overload(stack: BenchStack, options: Options) -> Sequence[Measurement]:
    """Three times what it can do, offered whatever the answers."""
    await warm_up(stack, Flow.STREAM, "overload", options.orders)
    usual = await measure(stack, "sustained", options.job(Flow.STREAM, "sustained"))
    if usual.outcome.problem:
        return [usual]
    rate = OVERLOAD * usual.outcome.orders_per_second
    seconds = OVERLOAD_TIMES_AS_LONG * options.seconds
    job = Job(flow=Flow.OFFER, key="overload", seconds=seconds, orders_per_second=rate)
    return [usual, await measure(stack, f"{OVERLOAD} times that", job)]


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "latency": latency,
    "throughput": throughput,
    "unary": unary,
    "watchers": watchers,
    "backlog": backlog,
    "growth": growth,
    "overload": overload,
}

# What a scenario needs beyond the settings of all of them.
SETTINGS: Final[Mapping[str, Mapping[str, str]]] = {
    # Nothing is refused for want of workers: their absence is the point.
    "backlog": {"MAX_WAITING_ORDERS": "1000000"},
}
