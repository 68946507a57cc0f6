from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import asyncpg
import psutil
import pytest

import oee
from engine.errors import StartupError
from oee.health import until_serving
from oee.ports import Ports
from oee.processes import is_alive
from oee.stack import Stack
from oee.wallet import GIFTS

STAND_IN: Final = str(Path(__file__).with_name("stand_in.py"))
COMMANDS: Final[Mapping[str, Sequence[str]]] = {
    "migrate": (sys.executable, "-c", "print('up to date')"),
    "gateway": (sys.executable, STAND_IN, "gateway"),
    "router": (sys.executable, STAND_IN, "router"),
    "executor": (sys.executable, STAND_IN, "executor"),
    "dex_sim": (sys.executable, STAND_IN, "dex_sim"),
}
DEADLINE_SECONDS: Final = 30.0
ROOT: Final = Path(oee.__file__).parents[1]
UP: Final = """
import asyncio, json, sys
from pathlib import Path
from oee.stack import Ports
from oee.up import up
directory, ports, commands = sys.argv[1:]
code = asyncio.run(
    up(Path(directory), Ports(*json.loads(ports)), fresh=False, commands=json.loads(commands))
)
sys.exit(code)
"""


class Lines:
    """What the stack has shown, to be waited for."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str]] = []
        self._more = asyncio.Event()

    def show(self, source: str, line: str) -> None:
        self.shown.append((source, line))
        self._more.set()

    def sources_of(self, word: str) -> list[str]:
        return [source for source, line in self.shown if word in line]

    async def until(self, source: str, word: str) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while source not in self.sources_of(word):
                self._more.clear()
                await self._more.wait()


@pytest.fixture
async def lines() -> Lines:
    return Lines()


@pytest.fixture
async def make(home: Path, lines: Lines) -> AsyncIterator[Callable[..., Stack]]:
    """Makes stacks of stand-ins; afterwards none of their processes may be left."""

    others = {process.pid for process in psutil.Process().children()}

    def make_stack(name: str = "data", **options: object) -> Stack:
        return Stack(
            home / name,
            options.pop("ports", None) or Ports.free(),  # type: ignore[arg-type]
            commands=COMMANDS,
            show=lines.show,
            **options,  # type: ignore[arg-type]
        )

    yield make_stack
    assert [p for p in psutil.Process().children() if p.pid not in others and is_alive(p)] == []


async def test_inside_everything_serves_and_the_wallet_has_been_given_everything(
    make: Callable[..., Stack],
) -> None:
    async with make() as stack:
        async with asyncio.timeout(5):
            for service in stack.services.values():
                for address in service.addresses:
                    await until_serving(address)
        gifts = json.loads((stack.directory / "chain" / "gifts.json").read_text())
        connection = await asyncpg.connect(stack.postgres_dsn, timeout=5)
        await connection.close()

    assert {gift["mint"] for gift in gifts} == set(GIFTS)
    assert {gift["wallet"] for gift in gifts} == {stack.wallet.address}


async def test_it_drains_who_asks_before_who_answers(
    make: Callable[..., Stack], lines: Lines
) -> None:
    async with make(gateways=2):
        pass

    assert lines.sources_of("stopped") == [
        "gateway-2",
        "gateway",
        "router",
        "executor",
        "dex_sim",
    ]


async def test_settings_of_the_caller_reach_the_services_but_a_foreign_key_does_not(
    make: Callable[..., Stack], lines: Lines
) -> None:
    quiet = {"GRPC_VERBOSITY": "ERROR"}  # as make has it; services would hide whom TLS refused
    environment = {**os.environ, "PASSED_ON": "yes", "WALLET_KEY": "secret", **quiet}
    async with make(environment=environment) as stack:
        executor = psutil.Process(stack.pid("executor")).environ()

    assert set(lines.sources_of("passed on: yes")) == {"gateway", "router", "executor", "dex_sim"}
    assert "WALLET_KEY" not in executor
    assert "GRPC_VERBOSITY" not in executor
    assert executor["WALLET_KEY_FILE"] == str(stack.directory / "wallet.json")


async def test_a_killed_service_is_shown_and_started_again(
    make: Callable[..., Stack], lines: Lines
) -> None:
    async with make() as stack:
        before = stack.pid("router")
        await stack.kill("router")
        await stack.serving("router")

        assert stack.pid("router") != before
        assert lines.sources_of("exited with -9") == ["router"]


async def test_a_service_killed_for_good_stays_down_until_it_is_started(
    make: Callable[..., Stack],
) -> None:
    async with make() as stack:
        await stack.kill("router", restart=False)
        with pytest.raises(RuntimeError, match="not running"):
            stack.pid("router")

        await stack.start("router")

        assert psutil.pid_exists(stack.pid("router"))


async def test_a_stopped_service_can_be_started_again(make: Callable[..., Stack]) -> None:
    async with make() as stack:
        await stack.stop("executor")
        await stack.stop("executor")
        await stack.start("executor")

        assert psutil.pid_exists(stack.pid("executor"))


async def test_a_paused_service_stands_still_and_is_drained_all_the_same(
    make: Callable[..., Stack], lines: Lines
) -> None:
    async with make() as stack:
        stack.pause("gateway")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(until_serving(stack.address), 0.5)

    assert lines.sources_of("stopped")[0] == "gateway"


async def test_an_embedded_server_that_died_by_itself_is_started_again(
    make: Callable[..., Stack], lines: Lines
) -> None:
    async with make() as stack:
        assert stack.postgres is not None
        before = stack.postgres.pid
        os.kill(before, signal.SIGKILL)

        await lines.until("postgres", "serves again")
        connection = await asyncpg.connect(stack.postgres_dsn, timeout=5)
        await connection.close()


async def test_chain_and_wallet_survive_and_the_wallet_is_funded_once(
    make: Callable[..., Stack],
) -> None:
    async with make() as first:
        address = first.wallet.address
    async with make() as second:
        gifts = json.loads((second.directory / "chain" / "gifts.json").read_text())

    assert second.wallet.address == address
    assert len(gifts) == len(GIFTS)


async def test_a_wiped_stack_starts_anew(make: Callable[..., Stack]) -> None:
    async with make() as first:
        address = first.wallet.address
        connection = await asyncpg.connect(first.postgres_dsn, timeout=5)
        await connection.execute("CREATE TABLE kept (number int)")
        await connection.close()

    fresh = make()
    await fresh.wipe()
    async with fresh:
        connection = await asyncpg.connect(fresh.postgres_dsn, timeout=5)
        kept = await connection.fetchval("SELECT to_regclass('kept')")
        await connection.close()

    assert kept is None
    assert fresh.wallet.address != address


async def test_a_taken_port_is_named_before_anything_starts(
    make: Callable[..., Stack], lines: Lines
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=rf"port {port} \(executor\) is taken"):
            await make(ports=dataclasses.replace(Ports.free(), executor=port)).__aenter__()

    assert lines.shown == []


async def test_a_second_run_on_the_same_directory_is_refused_and_harmless(
    make: Callable[..., Stack],
) -> None:
    async with make() as stack:
        pids = [stack.pid(name) for name in stack.services]
        with pytest.raises(StartupError, match="already in use"):
            await make().__aenter__()
        with pytest.raises(StartupError, match="already in use"):
            await make().wipe()

        assert [stack.pid(name) for name in stack.services] == pids
        assert all(map(psutil.pid_exists, pids))


async def test_two_stacks_run_side_by_side(make: Callable[..., Stack]) -> None:
    async with make("one") as one, make("two") as two:
        assert one.address != two.address
        assert one.postgres_dsn != two.postgres_dsn
        assert one.wallet.address != two.wallet.address


async def test_external_servers_replace_the_embedded_ones(make: Callable[..., Stack]) -> None:
    async with make("one") as one:
        external = {"POSTGRES_DSN": one.postgres_dsn, "NATS_URL": one.nats_url}
        async with make("two", environment={**os.environ, **external}) as two:
            executor = psutil.Process(two.pid("executor")).environ()
            assert two.postgres is None
            assert two.nats is None
        with pytest.raises(StartupError, match="POSTGRES_DSN"):
            await two.wipe()

    assert external.items() <= executor.items()


async def test_a_start_that_fails_half_way_leaves_nothing_running(
    make: Callable[..., Stack], home: Path
) -> None:
    refusing = (sys.executable, "-c", "import sys; print('NATS_URL is not set'); sys.exit(2)")
    broken = Stack(home / "data", Ports.free(), commands={**COMMANDS, "router": refusing})

    with pytest.raises(StartupError, match=r"router cannot start: .*NATS_URL is not set"):
        await broken.__aenter__()

    async with make():
        pass


@pytest.fixture
async def run(home: Path) -> AsyncIterator[Callable[..., Awaitable[Process]]]:
    """Runs a program of ours; killed afterwards if it is still there."""
    started: list[Process] = []

    async def start(program: str, ports: Ports) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            home / "data",
            json.dumps(dataclasses.astuple(ports)),
            json.dumps(COMMANDS),
            cwd=ROOT,
            stdout=PIPE,
            stderr=PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.005)


async def until_printed(process: Process, word: bytes) -> bytes:
    assert process.stdout is not None
    printed = b""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while word not in printed:
            printed += await process.stdout.readline()
    return printed


async def test_the_next_run_ends_what_a_killed_one_left(
    make: Callable[..., Stack], run: Callable[..., Awaitable[Process]]
) -> None:
    ports = Ports.free()
    killed = await run(UP, ports)
    await until_printed(killed, b"SubmitOrder")
    left = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    await killed.wait()

    async with make(ports=ports):
        alive = [p for p in left if is_alive(p)]

    assert len(left) > 6
    assert alive == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_drains_everything_and_exits_0(
    run: Callable[..., Awaitable[Process]], number: signal.Signals
) -> None:
    process = await run(UP, Ports.free())
    shown = await until_printed(process, b"SubmitOrder")
    children = psutil.Process(process.pid).children(recursive=True)

    process.send_signal(number)
    async with asyncio.timeout(DEADLINE_SECONDS):
        rest, errors = await process.communicate()

    assert process.returncode == 0, errors
    assert b"grpcurl -plaintext" in shown
    assert rest.count(b"stopped") == 4
    assert [p for p in children if is_alive(p)] == []


@pytest.mark.parametrize("moment", ["postgres/data.new", "nats/jetstream", "run/gateway.json"])
async def test_a_signal_during_the_start_leaves_nothing(
    run: Callable[..., Awaitable[Process]], home: Path, moment: str
) -> None:
    process = await run(UP, Ports.free())
    async with asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.to_thread(wait_for, home / "data" / moment)
    children = psutil.Process(process.pid).children(recursive=True)

    process.terminate()
    async with asyncio.timeout(DEADLINE_SECONDS):
        _, errors = await process.communicate()

    assert process.returncode == 0, errors
    assert [p for p in children if is_alive(p)] == []
    assert list((home / "data").rglob("*.pid.json")) == []
    assert list((home / "data" / "run").iterdir()) == []


async def test_a_second_up_says_so_in_one_line_and_exits_2(
    make: Callable[..., Stack], run: Callable[..., Awaitable[Process]]
) -> None:
    async with make():
        second = await run(UP, Ports.free())
        async with asyncio.timeout(DEADLINE_SECONDS):
            _, errors = await second.communicate()

    assert second.returncode == 2
    assert errors.decode().count("\n") == 1
    assert "already in use" in errors.decode()
