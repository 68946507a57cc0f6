"""The commands about faults, against a real simulator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner, Result

from dex_sim.__main__ import Simulator, open_simulator
from dex_sim.chance import Range
from dex_sim.settings import Settings
from engine.v1 import venue_pb2
from engine.v1.venue_pb2_grpc import VenueServiceStub
from oee.__main__ import app
from oee.console import Exit
from oee.ports import free_ports

Run = Callable[..., Awaitable[Result]]

ORDER_ID = "0199c0de-0000-7000-8000-000000000001"


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    settings = Settings(
        data_directory=tmp_path,
        chain_listen_address="127.0.0.1:0",
        venue_listen_addresses={"raydium": "127.0.0.1:0"},
        control_enabled=True,
        quote_delay_milliseconds=Range(0, 0),
    )
    async with open_simulator(settings) as running:
        yield running


@pytest.fixture
def run(simulator: Simulator) -> Run:
    async def invoke(*arguments: str) -> Result:
        command = ["faults", "--chain", simulator.chain_address, *arguments]
        return await asyncio.to_thread(CliRunner().invoke, app, command)

    return invoke


async def test_a_fault_is_injected_strikes_is_listed_and_cleared(
    run: Run, simulator: Simulator
) -> None:
    injected = await run(
        "inject", "fail", "code=UNAVAILABLE", "retry_delay=500ms", "--venue", "raydium",
        "--call", "Quote", "--order", ORDER_ID, "--nth", "2", "--times", "3", "--for", "1m",
    )  # fmt: skip
    query = venue_pb2.QuoteQuery(order_id=ORDER_ID)
    request = venue_pb2.QuoteRequest(queries=[query])
    async with grpc.aio.insecure_channel(simulator.venue_addresses["raydium"]) as channel:
        await VenueServiceStub(channel).Quote(request)
        with pytest.raises(grpc.aio.AioRpcError, match="injected"):
            await VenueServiceStub(channel).Quote(request)
    listed = await run("list", "--json")
    shown = await run("list")
    cleared = await run("clear", injected.stdout.strip())
    empty = await run("list", "--json")
    again = await run("clear")

    [report] = json.loads(listed.stdout)["reports"]
    assert (injected.exit_code, injected.stdout) == (Exit.DONE, "1\n")
    assert report["fault"]["fail"] == {
        "code": "UNAVAILABLE",
        "after_acting": False,
        "retry_delay": "0.500s",
    }
    assert (report["seen"], report["hits"], report["remaining"]) == ("2", "1", 2)
    assert (
        f"fail code=UNAVAILABLE retry_delay=0.500s call=Quote venue=raydium order_id={ORDER_ID}"
        in (shown.stdout)
    )
    assert (cleared.exit_code, cleared.stderr) == (Exit.DONE, "")
    assert cleared.stdout == f"removed:\n{shown.stdout}"
    assert again.stdout == "there was nothing to remove\n"
    assert json.loads(empty.stdout)["reports"] == []


@pytest.mark.parametrize(
    ("arguments", "effect"),
    [
        (
            ["fork", "result=restored", "after_slots=2", "restored_after_slots=9"],
            {
                "fork": {
                    "result": "FORK_RESULT_RESTORED",
                    "after_slots": 2,
                    "restored_after_slots": 9,
                }
            },
        ),
        (["lag", "frozen=true", "--node", "node-2"], {"lag": {"slots": 0, "frozen": True}}),
        (["drop", "--attempt", "1", "--percent", "30"], {"drop": {}}),
        (["miscount", "by=-1"], {"miscount": {"by": -1}}),
    ],
)
async def test_every_kind_of_parameter_reaches_the_simulator(
    run: Run, arguments: list[str], effect: dict[str, object]
) -> None:
    injected = await run("inject", *arguments, "--json")

    assert injected.exit_code == Exit.DONE, injected.stderr
    assert json.loads(injected.stdout)["fault"].items() >= effect.items()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explode"], "'explode' is none of fail, slow"),
        (["fail", "colour=red"], "'colour=red' does not fit: fail code=TEXT"),
        (["fork", "result=sideways"], "result must be dropped|restored|flipped"),
        (["lag", "slots=many"], "slots must be NUMBER"),
        (["slow", "delay=long"], "is not a duration"),
        (
            ["drop", "--node", "node-1", "--call", "Quote"],
            "call: does not go with drop node: does not go with drop",
        ),
    ],
)
async def test_wrong_usage_says_what_would_be_right_and_exits_2(
    run: Run, arguments: list[str], words: str
) -> None:
    refused = await run("inject", *arguments)

    told = " ".join(refused.stderr.replace("│", " ").split())
    assert refused.exit_code == Exit.REFUSED
    assert words in told


async def test_a_simulator_that_is_away_is_named_by_its_address() -> None:
    [port] = free_ports(1)
    command = ["faults", "--chain", f"127.0.0.1:{port}", "list"]

    away = await asyncio.to_thread(CliRunner().invoke, app, command)

    assert away.exit_code == Exit.NO_ANSWER
    assert f"no answer from 127.0.0.1:{port}" in away.stderr
