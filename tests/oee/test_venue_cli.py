"""`oee venue check`: what it prints, and its exit codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from dex_sim.__main__ import Simulator, open_simulator
from dex_sim.market import SOL
from engine.rpc import serving
from engine.v1 import sim_pb2
from oee.__main__ import app
from oee.ports import free_ports
from tests.certificates import Authority
from tests.clients.pages import indented
from tests.dex_sim.conftest import quick
from tests.oee.conformance.conftest import CHAIN_SERVICE, VENUE_SERVICE, World, Wrong


async def run(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, arguments)


def findings(result: Result) -> dict[str, Any]:
    """The JSON it printed; what the simulator logs in this process comes before it."""
    told: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return told


async def check(*arguments: str) -> Result:
    return await run("venue", "check", *arguments)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as opened:
        simulator = await opened.enter_async_context(open_simulator(quick(tmp_path / "chain")))
        yield World(simulator, opened)


async def test_the_simulator_passes(world: World) -> None:
    result = await check(world.venue(), world.venue("meteora"), world.chain)

    assert result.exit_code == 0, result.output
    assert f"engine.v1.VenueService at {world.venue()}" in result.stdout
    assert f"engine.v1.ChainService at {world.chain}" in result.stdout
    assert " 0 FAILED," in result.stdout.splitlines()[-1]


async def test_a_broken_promise_is_told_with_what_came_and_what_would_be_right(
    world: World,
) -> None:
    wrong = Wrong("ListPools", lambda q, a: a.pools.reverse())
    address = await world.relay(VENUE_SERVICE, world.venue(), wrong)

    result = await check(address)

    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    at = next(n for n, line in enumerate(lines) if "FAILED" in line)
    assert "pools-are-in-order: Every pool is listed once, by address." in lines[at]
    assert [line.split(":")[0].strip() for line in lines[at + 1 : at + 4]] == [
        "expected",
        "came",
        "right",
    ]
    assert " 1 FAILED," in lines[-1]


async def test_scripts_read_every_finding_as_json(world: World) -> None:
    address = await world.relay(VENUE_SERVICE, world.venue())

    result = await check("--json", address)

    told = findings(result)
    assert result.exit_code == 0
    assert told["failed"] == 0
    assert told["ok"] + told["not_checked"] == len(told["checks"]) > 20
    assert {finding["group"] for finding in told["checks"]} == {
        f"engine.v1.VenueService at {address}"
    }
    assert all(
        ("why" in finding) == (finding["outcome"] == "not_checked") for finding in told["checks"]
    )


async def test_a_funded_wallet_swaps_through_both(world: World, tmp_path: Path) -> None:
    key_file = tmp_path / "wallet.json"
    key_file.write_text(json.dumps(list(bytes(world.key))))
    await world.fund(SOL.mint)

    result = await check(world.venue(), world.chain, "--wallet-key-file", str(key_file))

    assert result.exit_code == 0, result.output
    assert f"a swap at {world.venue()} over the chain at {world.chain}" in result.stdout
    assert "the-record-is-what-was-agreed" in result.stdout
    assert str(list(bytes(world.key)))[:20] not in result.output


async def test_without_a_key_nothing_lands(world: World) -> None:
    await check(world.venue(), world.chain, "--wallet", world.wallet)

    async with asyncio.timeout(10):
        control = await world.control()
        swaps = await control.ListSwaps(sim_pb2.ListSwapsRequest())
    assert list(swaps.swaps) == []


async def test_what_is_served_is_found_out_without_reflection(world: World) -> None:
    venue = await world.relay(VENUE_SERVICE, world.venue())
    chain = await world.relay(CHAIN_SERVICE, world.chain)

    result = await check("--json", venue, chain)

    assert {finding["group"].split()[0] for finding in findings(result)["checks"]} == {
        "engine.v1.VenueService",
        "engine.v1.ChainService",
    }


async def test_an_address_that_serves_neither_is_no_use() -> None:
    async with serving("127.0.0.1:0", {}) as server:
        result = await check(f"127.0.0.1:{server.port}")

    assert result.exit_code == 2
    assert "serves neither engine.v1.VenueService nor engine.v1.ChainService" in result.stderr


async def test_an_address_where_nobody_is_is_no_use() -> None:
    [port] = free_ports(1)

    result = await check(f"127.0.0.1:{port}")

    assert result.exit_code == 2
    assert f"no answer from 127.0.0.1:{port}" in result.stderr


@pytest.mark.parametrize("content", [None, "secret", "[1, 2]"])
async def test_a_key_file_that_holds_no_key_is_wrong_usage(
    content: str | None, world: World, tmp_path: Path
) -> None:
    key_file = tmp_path / "wallet.json"
    if content is not None:
        key_file.write_text(content)

    result = await check(world.venue(), "--wallet-key-file", str(key_file))

    assert result.exit_code == 2
    assert str(key_file) in result.stderr
    assert content is None or content not in result.stderr


async def test_a_swap_needs_the_chains_address_too(world: World, tmp_path: Path) -> None:
    key_file = tmp_path / "wallet.json"
    key_file.write_text(json.dumps(list(bytes(world.key))))

    result = await check(world.venue(), "--wallet-key-file", str(key_file))

    assert result.exit_code == 2
    assert "a venue and a chain" in result.stderr


def test_the_help_states_the_exit_codes() -> None:
    result = CliRunner().invoke(app, ["venue", "check", "--help"])

    assert "Exit codes: 0 every promise" in " ".join(result.stdout.split())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def guarded(tmp_path: Path, authority: Authority) -> AsyncIterator[Simulator]:
    """A simulator that speaks TLS alone, and asks for certificates."""
    files = authority.signs("simulator")
    settings = quick(
        tmp_path / "chain",
        tls_certificate_file=files.certificate_file,
        tls_key_file=files.key_file,
        tls_client_ca_file=files.ca_file,
    )
    async with open_simulator(settings) as simulator:
        yield simulator


@pytest.fixture
def tls(authority: Authority) -> list[str]:
    """The options of somebody whom it knows."""
    files = authority.signs("operator")
    return [
        "--ca-file", str(files.ca_file), "--certificate-file", str(files.certificate_file),
        "--key-file", str(files.key_file),
    ]  # fmt: skip


async def test_venues_faults_and_gifts_are_reached_over_tls(
    guarded: Simulator, tls: list[str], tmp_path: Path
) -> None:
    chain, wallet = guarded.chain_address, str(tmp_path / "wallet.json")

    funded = await run(*tls, "fund", "--key-file", wallet, "--chain", chain)
    listed = await run(*tls, "faults", "--chain", chain, "list")
    checked = await run(*tls, "venue", "check", guarded.venue_addresses["raydium"], "--json")

    assert (funded.exit_code, listed.exit_code, checked.exit_code) == (0, 0, 0), (
        funded.output + listed.output + checked.output
    )
    assert findings(checked)["failed"] == 0


async def test_without_the_options_nobody_answers_in_plaintext(guarded: Simulator) -> None:
    address = guarded.venue_addresses["raydium"]

    checked = await check(address)
    listed = await run("faults", "--chain", guarded.chain_address, "list")

    assert (checked.exit_code, listed.exit_code) == (2, 3)


async def test_the_readmes_commands_run_as_written(world: World, tmp_path: Path) -> None:
    (tmp_path / ".oee").mkdir()
    (tmp_path / ".oee" / "wallet.json").write_text(json.dumps(list(bytes(world.key))))
    await world.fund(SOL.mint)
    lines = [
        line.partition("#")[0].split()
        for shown in indented("README.md", ".venv/bin/oee")
        for line in shown.commands.splitlines()
        if "venue check" in line
    ]
    actual = {
        "localhost:50061": world.chain,
        "localhost:50062": world.venue(),
        ".oee/wallet.json": str(tmp_path / ".oee" / "wallet.json"),
    }

    results = [await run(*(actual.get(word, word) for word in words[1:])) for words in lines]

    assert [result.exit_code for result in results] == [0, 0, 0]
