"""The measurements for people: tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.job import Outcome, Spread
from bench.limits import Limit, Limits
from bench.measurement import Measurement
from bench.profile import Profile
from bench.routing import Choosing


def show(
    measurements: Sequence[Measurement],
    limits: Limits | None,
    profiled: str | None,
    console: Console,
) -> None:
    """Everything: speed, what an order costs, the limits, the profiles."""
    seen = [m for m in measurements if m.outcome.orders]
    if seen:
        console.print(_speed(seen))
        for title, read in _COSTS.items():
            console.print(_per_name(title, seen, read))
    for measurement in measurements:
        for note in _notes(measurement):
            console.print(f"{measurement.name}: {note}", highlight=False, soft_wrap=True)
    if limits:
        _show_limits(limits, seen, console)
    for m in seen:
        if m.profile and profiled:
            console.print(_profile(f"{profiled} during {m.name}", m.profile))


def show_progress(measurement: Measurement, console: Console) -> None:
    """One measurement in one line."""
    console.print(
        f"  {measurement.name}: {measurement.outcome.orders_per_second:,.0f} orders/s,"
        f" {measurement.total_cpu_ms_per_order:.2f} ms of CPU per order",
        highlight=False,
    )


def show_routing(choosing: Sequence[Choosing], console: Console) -> None:
    """How long the choice of a route takes."""
    table = Table(
        *("", "pools", "again, µs", "first, µs", "of several legs"),
        title="choosing a route; CPU times as p50 / p99 / most",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for each in choosing:
        spreads = (
            " / ".join(f"{milliseconds * 1000:,.0f}" for milliseconds in (s.p50, s.p99, s.most))
            for s in (each.again, each.first)
        )
        table.add_row(each.name, str(each.pools), *spreads, f"{each.several_legs:.0%}")
    console.print(table)


def _profile(title: str, profile: Profile) -> Table:
    table = Table(
        *("%", "by itself", "%", "with what it calls"),
        title=f"{title}, {profile.samples:,} samples",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for (own, own_percent), (function, percent) in zip(
        profile.own, profile.cumulative, strict=False
    ):
        table.add_row(f"{own_percent:.1f}", own, f"{percent:.1f}", function)
    return table


def _show_limits(limits: Limits, measurements: Sequence[Measurement], console: Console) -> None:
    table = Table(
        *("bare", "a second", "server µs", "client µs"),
        title="what this machine does",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for name in ("unary_call", "stream_message", "group_commit", "jetstream_publish"):
        limit: Limit = getattr(limits, name)
        table.add_row(
            name.replace("_", " "),
            f"{limit.per_second:,.0f}",
            f"{limit.server_microseconds:.0f}",
            f"{limit.client_microseconds:.0f}",
        )
    console.print(table)
    console.print(
        f"an order of these parts alone: {limits.cpu_ms_per_order:.2f} ms of CPU, "
        f"{limits.orders_per_second:,.0f} orders/s on {limits.cores} cores",
        highlight=False,
    )
    shares = Table(
        *("", "of its orders/s", "of the CPU would do"),
        title="share of that",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for m in measurements:
        share = m.shares(limits)
        shares.add_row(m.name, f"{share['orders_per_second']:.0%}", f"{share['cpu']:.0%}")
    console.print(shares)


def _speed(measurements: Sequence[Measurement]) -> Table:
    table = Table(
        title="speed; times in ms as p50 / p99 / p99.9", title_justify="left", box=SIMPLE_HEAD
    )
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
    if outcome.offered_per_second:
        yield f"offered {outcome.offered_per_second:,.0f}/s, {_answers(outcome)}"
    elif outcome.refused:
        yield _answers(outcome)
    if outcome.held_back:
        yield f"{outcome.held_back:,} orders were not even sent: too many were unanswered"


def _answers(outcome: Outcome) -> str:
    """How many a second while it was sending."""
    window = outcome.window_seconds
    refused = ", ".join(f"{n / window:,.0f}/s {why}" for why, n in outcome.refused.items())
    return (
        f"accepted {outcome.accepted / window:,.0f}/s,"
        f" completed {outcome.in_window / window:,.0f}/s meanwhile,"
        f" refused {refused or 'none'} ({_spread(outcome.refusal)} ms)"
    )


_COSTS: Final[Mapping[str, Callable[[Measurement], Mapping[str, float]]]] = {
    "CPU per order, ms": _cpu,
    "round trips per order": lambda m: m.round_trips_per_order,
    "calls of venues and chain per order": lambda m: m.calls_per_order,
    "peak memory, MiB": lambda m: m.peak_memory_mib,
}
