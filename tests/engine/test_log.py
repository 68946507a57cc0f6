"""Logs of a process of its own: JSON lines for machines, plain lines for people, no secrets."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 30
SECRET = "hunter2"

PROGRAM = """
import asyncio, logging, os, sys
import structlog
from engine import log

log.configure("service", sys.argv[1] if len(sys.argv) > 1 else "INFO")
logger = structlog.get_logger()

def connect(password):
    raise RuntimeError("no connection")

async def handle(order_id):
    structlog.contextvars.bind_contextvars(order_id=order_id)
    await asyncio.sleep(0)
    logger.info("route_chosen", venue="raydium")

async def main():
    await asyncio.gather(handle("one"), handle("two"))
    logger.info("not about an order", amount=10**20, path=object)

asyncio.run(main())
logger.debug("a detail")
try:
    connect(password=os.environ["PASSWORD"])
except RuntimeError:
    logger.error("failed", exc_info=True)
    logging.getLogger("library").error("a library failed", exc_info=True)
logging.getLogger("library").info("a library says too much")
logging.getLogger("library").warning("line one\\nline two")
print("nothing else is on stdout")
"""


def records(*arguments: str) -> list[dict[str, Any]]:
    """What the program logs when no terminal is there to read it."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=ROOT,
        env={**os.environ, "PASSWORD": SECRET},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    assert ended.stdout == "nothing else is on stdout\n"
    assert SECRET not in ended.stderr
    return [json.loads(line) for line in ended.stderr.splitlines()]


@pytest.fixture(scope="module")
def logged() -> dict[str, list[dict[str, Any]]]:
    """The records by their event."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records():
        found.setdefault(record["event"], []).append(record)
    return found


def test_every_record_is_one_json_object_with_its_service_time_and_level(
    logged: dict[str, list[dict[str, Any]]],
) -> None:
    for record in (record for same in logged.values() for record in same):
        assert record["service"] == "service"
        assert record["timestamp"].endswith("Z")
        assert record["level"] in ("info", "warning", "error")


def test_each_order_s_records_carry_its_id_and_no_others_do(
    logged: dict[str, list[dict[str, Any]]],
) -> None:
    assert {r["order_id"] for r in logged["route_chosen"]} == {"one", "two"}
    assert "order_id" not in logged["not about an order"][0]


def test_libraries_take_the_same_road_and_speak_from_warnings_on(
    logged: dict[str, list[dict[str, Any]]],
) -> None:
    assert logged["line one\nline two"][0]["level"] == "warning"
    assert "a library says too much" not in logged


@pytest.mark.parametrize("event", ["failed", "a library failed"])
def test_a_traceback_has_frames_and_no_local_variables(
    logged: dict[str, list[dict[str, Any]]], event: str
) -> None:
    [cause] = logged[event][0]["exception"]

    assert (cause["exc_type"], cause["exc_value"]) == ("RuntimeError", "no connection")
    assert [frame["name"] for frame in cause["frames"]] == ["<module>", "connect"]
    assert all("locals" not in frame for frame in cause["frames"])


def test_details_are_logged_only_when_asked_for(logged: dict[str, list[dict[str, Any]]]) -> None:
    assert "a detail" not in logged
    assert "a detail" in {record["event"] for record in records("DEBUG")}


def test_a_quiet_service_logs_errors_alone() -> None:
    assert {record["level"] for record in records("ERROR")} == {"error"}


def test_a_terminal_gets_readable_lines_and_no_local_variables_either() -> None:
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env={**os.environ, "NO_COLOR": "1", "PASSWORD": SECRET},
            stdout=subprocess.DEVNULL,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b"".join(iter(lambda: read(terminal), b"")).decode()
        assert program.wait(PATIENCE_SECONDS) == 0

    assert "route_chosen" in shown
    assert '{"' not in shown
    assert "RuntimeError: no connection" in shown
    assert SECRET not in shown


def read(terminal: Any) -> bytes:
    """What the terminal shows next; nothing once the program has gone."""
    try:
        return bytes(terminal.read(4096))
    except OSError:
        return b""
