"""The measurements for people: tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.job import Spread
from bench.measurement import Measurement


def show_costs(measurements: Sequence[Measurement], console: Console) -> None:
    """What an order costs: CPU, round trips, memory."""
    seen = [m for m in measurements if m.outcome.orders]
    if seen:
        console.print(_per_name("CPU per order, ms", seen, _cpu))
        console.print(_per_name("round trips per order", seen, lambda m: m.round_trips_per_order))
        console.print(
            _per_name("calls of venues and chain per order", seen, lambda m: m.calls_per_order)
        )
        console.print(_per_name("peak memory, MiB", seen, lambda m: m.peak_memory_mib))


def show_speed(measurements: Sequence[Measurement], console: Console) -> None:
    """Orders a second and latencies, then what else is to be said."""
    seen = [m for m in measurements if m.outcome.orders]
    if seen:
        console.print(_speed(seen))
    for measurement in measurements:
        for note in _notes(measurement):
            console.print(f"{measurement.name}: {note}", highlight=False, soft_wrap=True)


def _speed(measurements: Sequence[Measurement]) -> Table:
    table = Table(title="speed; times in ms as p50 / p99 / p99.9", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    for heading in ("orders/s", "orders", "submit", "order", "event", "CPU per order"):
        table.add_column(heading, justify="right")
    for m in measurements:
        outcome = m.outcome
        table.add_row(
            m.name,
            f"{outcome.orders_per_second:,.0f}",
            f"{outcome.orders:,}",
            *map(_spread, (outcome.submit, outcome.order, outcome.event)),
            f"{m.total_cpu_ms_per_order:.2f}",
        )
    return table


def _per_name(
    title: str,
    measurements: Sequence[Measurement],
    read: Callable[[Measurement], Mapping[str, float]],
) -> Table:
    names = dict.fromkeys(name for m in measurements for name in read(m))
    table = Table("", title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for m in measurements:
        values = map(read(m).get, names)
        table.add_row(m.name, *("" if value is None else f"{value:,.2f}" for value in values))
    return table


def _cpu(m: Measurement) -> Mapping[str, float]:
    return {
        **m.cpu_ms_per_order,
        "all of these": m.total_cpu_ms_per_order,
        "load client": m.client_cpu_ms_per_order,
        "cores busy with others": m.others_cores,
    }


def _spread(spread: Spread | None) -> str:
    return f"{spread.p50:.1f} / {spread.p99:.1f} / {spread.p999:.1f}" if spread else "–"


def _notes(m: Measurement) -> Iterator[str]:
    outcome = m.outcome
    if outcome.problem:
        yield outcome.problem
    others = {s: n for s, n in outcome.statuses.items() if s != "CONFIRMED"}
    if others:
        yield f"not CONFIRMED: {others}"
    if not m.all_settled:
        yield "not everything was settled in time"
    if outcome.refused and outcome.window_seconds:
        window = outcome.window_seconds
        yield (
            f"accepted {outcome.accepted / window:,.0f}/s, refused {outcome.refused} = "
            f"{sum(outcome.refused.values()) / window:,.0f}/s in {_spread(outcome.refusal)} ms"
        )
    if outcome.held_back:
        yield f"{outcome.held_back:,} orders were not even sent: too many were unanswered"
