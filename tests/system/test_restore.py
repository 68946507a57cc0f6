"""The database is lost and restored from a dump of the running system: no order swaps again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import grpc
import pytest
import pytest_asyncio

from engine.v1 import orders_pb2 as pb
from oee.postgres import INSTALL, WHEEL
from tests import builders
from tests.system.conftest import FAST, Engine, running_engine

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Whoever reconciles waits for two lives of a blockhash, 300 blocks.
SHORT_SLOTS: Final = FAST | {"SLOT_MILLISECONDS": "20"}
SERVICES: Final = ("gateway", "router", "executor")
EMPTIED: Final = "DROP SCHEMA public CASCADE; CREATE SCHEMA public"


@pytest_asyncio.fixture(loop_scope="module")
async def own(tmp_path: Path) -> AsyncIterator[Engine]:
    async with running_engine(tmp_path, simulator=SHORT_SLOTS) as running:
        yield running


async def run(program: str, *arguments: str) -> None:
    """A program of the PostgreSQL that the stack runs, as an operator would run it."""
    package = find_spec(WHEEL)
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0], INSTALL, "bin", program)
    process = await asyncio.create_subprocess_exec(
        path, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, output.decode()


async def back_up(engine: Engine, dump: Path) -> None:
    await run("pg_dump", "--file", str(dump), engine.stack.postgres_dsn)


async def restore(engine: Engine, dump: Path) -> None:
    psql = ("psql", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", engine.stack.postgres_dsn)
    await run(*psql, "--command", EMPTIED)
    await run(*psql, "--single-transaction", "--file", str(dump))


async def submit(engine: Engine, key: str, amount_in: str = "1.5") -> pb.Order:
    # At one venue, so that holding it holds the order.
    return await engine.submit(client_order_id=key, amount_in=amount_in, venues=["raydium"])


async def submit_all(engine: Engine, keys: Sequence[str]) -> list[pb.Order]:
    return await asyncio.gather(*(submit(engine, key) for key in keys))


async def orders_of_all_kinds(engine: Engine, dump: Path) -> list[str]:
    """Keys of orders that the dump knows settled, at every earlier point, or not at all.

    When this returns all services are down, and what they signed has landed or is about to.
    """
    settled = await submit_all(engine, ["settled-1", "settled-2"])
    await asyncio.gather(*(engine.watch(order) for order in settled))
    started, helds = [], []
    for method in ("Quote", "BuildSwap", "SimulateTransactions", "SendTransactions"):
        helds.append(engine.gate_of(method).hold(method))
        started.append(await submit(engine, method))
        await helds[-1].reached.wait()
    await back_up(engine, dump)
    for held in helds:
        held.release()
    forgotten = await submit_all(engine, ["forgotten-1", "forgotten-2", "forgotten-3"])
    await asyncio.gather(*(engine.watch(order) for order in (*started, *forgotten)))
    sent = engine.chain.hold("SendTransactions", answered=True)
    in_flight = await submit(engine, "in-flight")
    await sent.reached.wait()
    for service in SERVICES:
        await engine.stack.kill(service, restart=False)
    sent.release()
    return [order.client_order_id for order in (*settled, *started, *forgotten, in_flight)]


async def assert_one_swap_a_key(engine: Engine, keys: Sequence[str]) -> None:
    """Every client submits again, with the same key, and finds the one swap there ever was."""
    orders = await submit_all(engine, keys)
    events = await asyncio.gather(*(engine.watch(order) for order in orders))
    final = await asyncio.gather(*(engine.order(order) for order in orders))
    swaps = {swap.memo.split(":")[3]: swap for swap in await engine.swaps()}

    assert len(await engine.swaps()) == len(keys)
    assert {order.status for order in final} == {pb.ORDER_STATUS_CONFIRMED}
    assert all(order.settled for order in final)
    for order, told in zip(final, events, strict=True):
        assert order.tx_hash == swaps[builders.new_order(order.client_order_id).key_hash].signature
        assert [event.sequence for event in told] == list(range(1, order.sequence + 1))


@pytest.mark.timeout(240)
async def test_a_restored_database_is_reconciled_before_the_services_start(
    own: Engine, tmp_path: Path
) -> None:
    keys = await orders_of_all_kinds(own, tmp_path / "dump.sql")
    await restore(own, tmp_path / "dump.sql")

    code, printed = await own.stack.reconcile()
    report = json.loads(printed)
    for service in SERVICES:
        await own.stack.start(service)

    assert (code, report["signing"], report["contradictions"]) == (0, "allowed", [])
    assert (len(report["confirmed"]), len(report["kept"])) == (3, 4)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await submit(own, "forgotten-1", "2")
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    await assert_one_swap_a_key(own, keys)
    new = await submit(own, "new")
    assert (await own.watch(new))[-1].status == pb.ORDER_STATUS_CONFIRMED


@pytest.mark.timeout(240)
async def test_services_that_start_on_a_restored_database_sign_nothing_until_it_is_reconciled(
    own: Engine, tmp_path: Path
) -> None:
    keys = await orders_of_all_kinds(own, tmp_path / "dump.sql")
    await restore(own, tmp_path / "dump.sql")
    for service in SERVICES:
        await own.stack.start(service)
    checking = asyncio.create_task(assert_one_swap_a_key(own, keys))

    code, _ = await own.stack.reconcile()

    assert code == 0
    await checking
