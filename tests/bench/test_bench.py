"""The whole of a benchmark, as small as it can be: real processes, and a line that tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

PATIENCE_SECONDS = 60
# Enough for each to be seen at work: the system counts CPU in hundredths of a second.
ORDERS = 300
PROCESSES = {"gateway", "router", "executor", "dex_sim", "nats", "postgres"}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        env={**os.environ, "GRPC_VERBOSITY": "ERROR"},
    )


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_load_of_no_length_is_wrong_usage(seconds: str) -> None:
    run = bench("--scenario", "throughput", f"--seconds={seconds}")
    assert (run.returncode, run.stdout) == (2, "")
    assert "argument --seconds: " in run.stderr


def test_a_scenario_tells_speed_and_what_every_process_spent() -> None:
    run = bench("--scenario", "throughput", "--in-flight", "64", "--orders", str(ORDERS))
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    assert told["settings"]["SLOT_MILLISECONDS"] == "0"
    [measured] = told["scenarios"]["throughput"]
    outcome = measured["outcome"]
    assert measured["name"] == "stream, 64 in flight"
    assert outcome["problem"] is None
    assert (outcome["sent"], outcome["orders"]) == (ORDERS, ORDERS)
    assert outcome["statuses"] == {"CONFIRMED": ORDERS}
    assert outcome["orders_per_second"] > 0
    for spread in (outcome["submit"], outcome["order"]):
        assert spread["count"] == ORDERS
        assert 0 < spread["p50"] <= spread["p99"] <= spread["p999"] <= spread["most"]
    # Up to the final status there are six.
    assert outcome["events"] >= 6 * ORDERS
    assert outcome["event"]["count"] == outcome["events"]
    assert measured["all_settled"]
    assert measured["cpu_ms_per_order"].keys() == PROCESSES
    # Nobody gets an order through the engine without some work of each.
    assert all(ms > 0 for ms in measured["cpu_ms_per_order"].values())
    assert measured["total_cpu_ms_per_order"] == pytest.approx(
        sum(measured["cpu_ms_per_order"].values()), abs=0.01
    )
    assert measured["client_cpu_ms_per_order"] > 0
    assert measured["peak_memory_mib"].keys() == PROCESSES
    assert all(mib > 1 for mib in measured["peak_memory_mib"].values())
    for counter in ("commits", "fsyncs", "nats_in", "hints"):
        assert measured["round_trips_per_order"][counter] > 0
    calls = measured["calls_per_order"]
    # On an order's first try no venue is asked to build; a stream that was late is no failure.
    assert calls["BuildSwap"] < calls["SimulateTransactions"]


def test_an_unknown_scenario_is_refused_with_those_that_exist() -> None:
    run = bench("--scenario", "throughtput")
    assert run.returncode == 2
    assert "throughtput: must be of limits, routing, latency, throughput" in run.stderr


def test_choosing_routes_is_timed_without_a_stack() -> None:
    run = bench("--scenario", "routing")
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    small, large = told["routing"]
    assert (small["name"], large["name"]) == ("small", "large")
    assert small["pools"] == large["pools"] == 40
    assert large["several_legs"] > small["several_legs"]
    for spread in (small["again"], small["first"], large["again"], large["first"]):
        assert 0 < spread["p50"] <= spread["p99"] <= spread["most"]
