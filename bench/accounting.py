"""What processes, database and queue spend, read from the operating system and from themselves."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import grpc
import psutil

from engine.v1 import sim_pb2
from engine.v1.sim_pb2_grpc import SimControlServiceStub

if TYPE_CHECKING:
    from engine.v1.sim_pb2_grpc import SimControlServiceAsyncStub

POSTGRES: Final = "postgres"
CALL_SECONDS: Final = 10.0
# A backend of PostgreSQL reports what it has counted at most once in so long.
STATISTICS_SECONDS: Final = 1.2
MEBIBYTE: Final = 1 << 20

Cpu = Mapping[tuple[str, int], float]
Counters = Mapping[str, float]


def read_cpu(pids: Mapping[str, int]) -> Cpu:
    """CPU seconds so far of every process, by its name and pid.

    PostgreSQL is the sum over the postmaster, its children, and those that ended (which macOS
    does not tell).
    """
    found = {}
    for name, pid in pids.items():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            times = process.cpu_times()
            seconds = times.user + times.system
            if name == POSTGRES:
                seconds += times.children_user + times.children_system
                seconds += sum(_cpu_seconds(child) for child in process.children(recursive=True))
            found[name, pid] = seconds
    return found


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def spent(before: Cpu, after: Cpu) -> dict[str, float]:
    """CPU seconds between two readings, by name; a process that was started since counts whole."""
    seconds: dict[str, float] = defaultdict(float)
    for key, total in after.items():
        seconds[key[0]] += total - before.get(key, 0.0)
    return dict(seconds)


def machine_cpu_seconds() -> float:
    """CPU seconds that all there is on this machine has used so far."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # What a guest used is counted in user and nice already.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - guests)


def peak_memory(pids: Mapping[str, int]) -> dict[str, float]:
    """The most memory each has held at once, in MiB; where the system does not tell, what it has.

    PostgreSQL is what each of its running processes held for itself, and what they share once.
    """
    found = {}
    for name, pid in pids.items():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            family = process.children(recursive=True) if name == POSTGRES else []
            found[name] = round(_together(map(_memory, [process, *family])) / MEBIBYTE, 1)
    return found


def _together(memories: Iterable[tuple[int, int]]) -> int:
    pairs = list(memories)
    return sum(own for own, _ in pairs) + max(shared for _, shared in pairs)


def _memory(process: psutil.Process) -> tuple[int, int]:
    """Bytes at the peak: its own, and shared with others."""
    try:
        text = Path(f"/proc/{process.pid}/status").read_text()
    except FileNotFoundError:
        try:
            return int(process.memory_info().rss), 0
        except psutil.NoSuchProcess:
            return 0, 0
    kilobytes = {name: int(count) for name, count in re.findall(r"(\w+):\s+(\d+) kB", text)}
    shared = kilobytes.get("RssFile", 0) + kilobytes.get("RssShmem", 0)
    return (kilobytes.get("VmHWM", 0) - shared) * 1024, shared * 1024


COUNTED_CALLS: Final = (
    "Quote",
    "BuildSwap",
    "GetLatestBlockhash",
    "GetBlockHeight",
    "SimulateTransactions",
    "SendTransactions",
    "GetSignatureStatuses",
    "GetTransactions",
)

STATISTICS: Final = """
SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()) AS commits,
       (SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal') AS fsyncs,
       (pg_current_wal_lsn() - '0/0'::pg_lsn) / 1024 AS wal_kib
"""


class RoundTrips:
    """Counters of what was asked of database, queue, venues and chain."""

    def __init__(
        self, database: asyncpg.Connection[Any], nats_monitor: str, simulator: grpc.aio.Channel
    ) -> None:
        self._database = database
        self._nats_monitor = nats_monitor
        self._control: SimControlServiceAsyncStub = SimControlServiceStub(simulator)

    async def count_calls(self) -> None:
        """Have the simulator count calls from now on: a fault each, that never strikes.

        To look for faults costs it time, so nothing is timed meanwhile.
        """
        for call in COUNTED_CALLS:
            never = sim_pb2.Fault(call=call, nth=(1 << 32) - 1)
            never.slow.delay.seconds = 1
            request = sim_pb2.InjectFaultRequest(fault=never)
            await self._control.InjectFault(request, timeout=CALL_SECONDS)

    async def read(self) -> Counters:
        """What database and queue count, once what is known to lag has caught up."""
        await asyncio.sleep(STATISTICS_SECONDS)
        row = await self._database.fetchrow(STATISTICS, timeout=CALL_SECONDS)
        assert row is not None
        varz = await asyncio.to_thread(_get, f"{self._nats_monitor}/varz")
        jsz = await asyncio.to_thread(_get, f"{self._nats_monitor}/jsz?streams=true")
        hints = sum(
            stream["state"]["last_seq"]
            for account in jsz.get("account_details", ())
            for stream in account.get("stream_detail", ())
        )
        return {
            **{name: float(value) for name, value in row.items()},
            "nats_in": varz["in_msgs"],
            "nats_out": varz["out_msgs"],
            "hints": hints,
        }

    async def counted_calls(self) -> Counters:
        """How often each call of venues and chain was made; they are counted no more."""
        listed = await self._control.ListFaults(sim_pb2.ListFaultsRequest(), timeout=CALL_SECONDS)
        await self._control.ClearFaults(sim_pb2.ClearFaultsRequest(), timeout=CALL_SECONDS)
        return {report.fault.call: report.seen for report in listed.reports}


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=CALL_SECONDS) as answer:
        return json.load(answer)
