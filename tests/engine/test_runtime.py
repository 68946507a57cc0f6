"""A service's process: what it says about its settings, how it ends, what it never says."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from engine import runtime
from engine.runtime import run_until
from engine.settings import Address, Addresses, PostgresDsn, ServiceSettings
from router_svc.settings import Settings as RouterSettings

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 30
SECRET = "hunter2"


def process(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a program with nothing but these settings in its environment."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings}


# ── arguments ─────────────────────────────────────────────────────────────────────────────────

PROGRAMS = (
    *("gateway", "gateway.keys", "router_svc", "executor_svc", "executor_svc.reconcile"),
    *("dex_sim", "engine.migrate", "engine.probe"),
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_argument_that_nobody_takes_is_wrong(program: str) -> None:
    wrong = process("-m", program, "--restored")

    assert wrong.returncode == 2
    assert wrong.stderr.startswith(f"usage: python -m {program} [-h]")


def test_help_names_every_setting() -> None:
    asked = process("-m", "router_svc", "--help")

    assert (asked.returncode, asked.stderr) == (0, "")
    names = {name.upper() for name in RouterSettings.model_fields}
    assert names <= set(asked.stdout.split())


# ── settings ──────────────────────────────────────────────────────────────────────────────────

DSN = "POSTGRES_DSN: is not set. Expected: postgresql://USER@HOST/DATABASE."
NATS = "NATS_URL: is not set. Expected: nats://HOST:PORT[,nats://HOST:PORT…], or tls://."
VENUES = "VENUES: is not set. Expected: raydium=HOST:PORT,meteora=HOST:PORT."


@pytest.mark.parametrize(
    ("program", "name", "missing"),
    [
        ("gateway", "gateway", [NATS, VENUES, DSN]),
        ("router_svc", "router", [NATS, VENUES, DSN]),
        (
            "executor_svc",
            "executor",
            [NATS, DSN, VENUES, "CHAIN_ADDRESS: is not set. Expected: HOST:PORT of the chain."],
        ),
        (
            "dex_sim",
            "dex_sim",
            [
                "DATA_DIRECTORY: is not set. "
                "Expected: a directory that may be created; the chain's memory."
            ],
        ),
        ("engine.migrate", "migrate", [DSN]),
    ],
)
def test_a_service_without_its_settings_names_each_and_what_it_expects(
    program: str, name: str, missing: list[str]
) -> None:
    # An empty variable, as compose files make them, is one that is not set.
    ended = process("-m", program, POSTGRES_DSN="", NATS_URL="")

    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [f"{name}: {line}" for line in missing]
    assert ended.stdout == ""


def test_a_service_with_wrong_settings_names_each_and_repeats_no_value() -> None:
    ended = process(
        "-m",
        "executor_svc",
        POSTGRES_DSN=f"postgresql://oee:{SECRET}/2@127.0.0.1:1/oee",
        NATS_URL=f"nats://oee:{SECRET}@127.0.0.1:1",
        WALLET_KEY=SECRET,
        VENUES=f"raydium={SECRET}",
        CHAIN_ADDRESS=SECRET,
        LISTEN_ADDRESS=SECRET,
        CONCURRENCY=SECRET,
        CONFIRM_AT=SECRET,
        LOG_LEVEL=SECRET,
    )

    assert ended.returncode == 2
    lines = dict(line.split(": ", 2)[1:] for line in ended.stderr.splitlines())
    assert lines.keys() == {
        "POSTGRES_DSN",
        "VENUES",
        "CHAIN_ADDRESS",
        "LISTEN_ADDRESS",
        "CONCURRENCY",
        "CONFIRM_AT",
        "LOG_LEVEL",
    }
    assert lines["CHAIN_ADDRESS"] == (
        "must be HOST:PORT, for example 127.0.0.1:50051. Expected: HOST:PORT of the chain."
    )
    assert lines["CONCURRENCY"].endswith("Expected: orders in hand at once, 1–10000.")
    assert lines["LOG_LEVEL"] == "Input should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'."
    assert SECRET not in ended.stderr


@pytest.mark.parametrize(
    "address", ["127.0.0.1:0", "localhost:65535", "[::1]:50051", "gateway.example:50051"]
)
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    assert TypeAdapter(Address).validate_python(address) == address


@pytest.mark.parametrize(
    "address",
    ["", "50051", ":50051", "host", "host:", "host:65536", "host:-1", "host:x", "host:１"],
)
def test_anything_else_is_no_address(address: str) -> None:
    with pytest.raises(ValidationError, match="must be HOST:PORT, for example"):
        TypeAdapter(Address).validate_python(address)


def test_addresses_have_names() -> None:
    text = " raydium=127.0.0.1:50062 , meteora = 127.0.0.1:50063,"

    assert TypeAdapter(Addresses).validate_python(text) == {
        "raydium": "127.0.0.1:50062",
        "meteora": "127.0.0.1:50063",
    }


@pytest.mark.parametrize("text", ["", ",", "raydium", "raydium=", "=host:1", "raydium:host:1"])
def test_addresses_without_names_are_refused(text: str) -> None:
    with pytest.raises(ValidationError, match=r"must be NAME=HOST:PORT\[,"):
        TypeAdapter(Addresses).validate_python(text)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://oee@/oee?host=/tmp/oee-1&port=5432&search_path=test",
        "postgres://oee:p%2Fw@db.example:5432/oee",
        "postgresql://one:5432,two:5432/oee",
        "postgresql://[::1]:5432/oee",
    ],
)
def test_a_database_is_named_by_a_url(dsn: str) -> None:
    assert TypeAdapter(PostgresDsn).validate_python(dsn).get_secret_value() == dsn


@pytest.mark.parametrize(
    "dsn",
    [
        SECRET,
        f"mysql://oee:{SECRET}@db/oee",
        f"postgresql://oee:{SECRET}/2@db/oee",
        f"postgresql://oee:2/{SECRET}@db/oee",
        f"postgresql://oee:{SECRET}#2@db/oee",
        f"postgresql://oee:{SECRET}@two@db/oee",
        f"postgresql://db:{SECRET}/oee",
    ],
)
def test_a_url_that_could_be_read_amiss_is_refused(dsn: str) -> None:
    with pytest.raises(ValidationError, match="must be a URL, special characters") as raised:
        TypeAdapter(PostgresDsn).validate_python(dsn)

    assert SECRET not in str(raised.value.errors(include_input=False))


def test_a_log_level_may_be_written_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "debug")

    assert ServiceSettings().log_level == "DEBUG"


# ── the end ───────────────────────────────────────────────────────────────────────────────────

# A service of four lines, that ends as its setting says.
SERVICE = f"""
import asyncio
from engine import runtime
from engine.errors import StartupError
from engine.settings import ServiceSettings
class Settings(ServiceSettings):
    ending: str
async def run(settings, stop):
    secret = "{SECRET}"
    match settings.ending:
        case "stopped": print("up", flush=True); await stop.wait()
        case "cannot start": raise StartupError("LISTEN_ADDRESS is taken")
        case "crashed": await asyncio.gather(broken(secret))
async def broken(password):
    raise RuntimeError("a bug")
runtime.main("service", Settings, run)
"""


@pytest.mark.parametrize(("ending", "code"), [("cannot start", 2), ("crashed", 1), ("returns", 0)])
def test_the_exit_code_tells_how_a_service_ended(ending: str, code: int) -> None:
    ended = process("-c", SERVICE, ENDING=ending)

    assert ended.returncode == code
    assert SECRET not in ended.stderr
    said = {"returns": "stopped", "cannot start": "LISTEN_ADDRESS is taken"}
    assert said.get(ending, ending) in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_service_in_order(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE],
        cwd=ROOT,
        env=environment({"ENDING": "stopped"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == "up\n"
        if sys.platform == "linux":
            assert os.sched_getscheduler(service.pid) == os.SCHED_BATCH

        service.send_signal(number)

        assert service.wait(PATIENCE_SECONDS) == 0


def test_an_address_that_is_taken_is_an_error_of_usage(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = process(
            "-m",
            "dex_sim",
            DATA_DIRECTORY=str(tmp_path),
            CHAIN_LISTEN_ADDRESS="127.0.0.1:0",
            VENUE_LISTEN_ADDRESSES=f"raydium={address}",
        )

    assert ended.returncode == 2
    assert f"{address} cannot be bound: it is taken" in ended.stderr.splitlines()[-1]


def test_a_database_that_is_away_does_not_bring_its_password_to_light() -> None:
    ended = process(
        "-m", "engine.migrate", POSTGRES_DSN=f"postgresql://oee:{SECRET}@127.0.0.1:1/oee"
    )

    assert ended.returncode == 1
    assert "ConnectionRefusedError" in ended.stderr
    assert SECRET not in ended.stderr


# ── loops ─────────────────────────────────────────────────────────────────────────────────────


async def test_loops_run_until_the_stop_and_end_before_it_returns() -> None:
    stop, ends, begun = asyncio.Event(), [], asyncio.Barrier(3)

    async def loop(name: str) -> None:
        try:
            await begun.wait()
            await asyncio.Event().wait()
        finally:
            ends.append(name)

    running = asyncio.create_task(run_until(stop, loop("one"), loop("two")))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await begun.wait()
        assert ends == []
        stop.set()
        await running

    assert sorted(ends) == ["one", "two"]


async def loses_a_cancel(begun: asyncio.Barrier) -> None:
    """Goes on after its first cancel, as if wait_for() had swallowed it."""
    with suppress(asyncio.CancelledError):
        await begun.wait()
        await asyncio.Event().wait()
    await asyncio.Event().wait()


async def test_a_loop_that_loses_its_cancel_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "CANCEL_SECONDS", 0.01)
    stop, begun = asyncio.Event(), asyncio.Barrier(3)

    running = asyncio.create_task(run_until(stop, loses_a_cancel(begun), loses_a_cancel(begun)))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await begun.wait()
        stop.set()
        await running


async def test_a_loop_that_loses_its_cancel_holds_up_no_service_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "CANCEL_SECONDS", 0.01)
    begun = asyncio.Barrier(2)

    async def fails() -> None:
        await begun.wait()
        raise ValueError("a bug")

    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await run_until(asyncio.Event(), loses_a_cancel(begun), fails())

    assert raised.value.subgroup(ValueError) is not None


async def test_a_loop_that_fails_ends_the_others_and_the_service() -> None:
    ended = asyncio.Event()

    async def fails() -> None:
        raise ValueError("a bug")

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await run_until(asyncio.Event(), endless(), fails())

    assert raised.value.subgroup(ValueError) is not None
    assert ended.is_set()
