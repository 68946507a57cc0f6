"""The demo, as a person runs it: the whole stack, real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent.parent
RUN_SECONDS = 90


def start(home: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`oee demo` with short slots, its throwaway directory in `home`."""
    return subprocess.Popen(
        [sys.executable, "-m", "oee", "demo", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(home), "SLOT_MILLISECONDS": "20", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def services_in(directory: Path) -> list[str]:
    """Processes that were told to keep something in a directory."""
    return [process.name() for process in psutil.process_iter() if str(directory) in _told(process)]


def _told(process: psutil.Process) -> str:
    """Its command line and environment; nothing once it has ended, or when it is not ours."""
    try:
        return " ".join([*process.cmdline(), *process.environ().values()])
    except psutil.Error:
        return ""


def test_the_demo_confirms_every_swap_and_leaves_nothing_behind(home: Path) -> None:
    output, _ = (demo := start(home, "--orders", "3")).communicate(timeout=RUN_SECONDS)

    assert "3 of 3 orders are CONFIRMED" in output
    for status in ("pending", "routing", "building", "submitted", "confirmed"):
        for number in ("#1 ", "#2 ", "#3 "):
            assert any(number in line and status in line for line in output.splitlines())
    assert demo.returncode == 0
    assert list(home.iterdir()) == []


def test_a_demo_whose_swaps_fail_says_why_keeps_the_data_and_exits_1(home: Path) -> None:
    reverting = start(home, "--orders", "1", EXECUTION_SLIPPAGE_BPS="5000")
    output, _ = reverting.communicate(timeout=RUN_SECONDS)

    assert "0 of 1 orders are CONFIRMED" in output
    assert "#1 failed: SLIPPAGE_EXCEEDED" in output
    assert reverting.returncode == 1
    assert len(list(home.glob("oee-demo-*/services.log"))) == 1


def test_an_interrupted_demo_drains_everything(home: Path) -> None:
    demo = start(home)
    assert demo.stdout is not None
    while "submitted" not in demo.stdout.readline():
        pass
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=RUN_SECONDS)

    assert "Traceback" not in rest
    assert demo.returncode == 130
    assert services_in(home) == []
    assert list(home.iterdir()) == []
