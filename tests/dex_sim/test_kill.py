"""The simulator's process: it may die at any moment, and the chain goes on where it was."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dex_sim.market import SOL
from engine.v1 import chain_pb2
from engine.v1 import sim_pb2 as pb

if TYPE_CHECKING:
    from tests.dex_sim.conftest import DeskAt

ONE_SOL = 10**9


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def addresses() -> dict[str, str]:
    return {name: free_address() for name in ("chain", "raydium", "meteora")}


@asynccontextmanager
async def simulator_process(
    directory: Path, addresses: dict[str, str], slot_milliseconds: int = 2
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A simulator of its own; killed on leaving, without warning."""
    settings = {
        "DATA_DIRECTORY": str(directory),
        "CHAIN_LISTEN_ADDRESS": addresses["chain"],
        "VENUE_LISTEN_ADDRESSES": ",".join(f"{v}={addresses[v]}" for v in ("raydium", "meteora")),
        "CONTROL_ENABLED": "true",
        "SLOT_MILLISECONDS": str(slot_milliseconds),
        "QUOTE_DELAY_MILLISECONDS": "0",
        "BUILD_DELAY_MILLISECONDS": "0",
        "CHAIN_DELAY_MILLISECONDS": "0-1",
        "LOG_LEVEL": "WARNING",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dex_sim", env=os.environ | settings
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_after_a_kill_nothing_that_was_seen_is_forgotten_and_no_height_goes_back(
    tmp_path: Path, addresses: dict[str, str], desk_at: DeskAt
) -> None:
    chain = addresses["chain"]
    venues = {venue: addresses[venue] for venue in ("raydium", "meteora")}
    async with simulator_process(tmp_path, addresses), desk_at(chain, venues) as desk:
        await desk.fund(SOL.mint, 100 * ONE_SOL)
        await desk.fund("", ONE_SOL)
        raws: list[bytes] = []
        signatures: list[str] = []
        for n in range(20):
            # Each at once: a blockhash does not live long where slots are this short.
            raws.append(await desk.swap("raydium", ONE_SOL, memo=f"memo {n}"))
            signatures.append((await desk.send(raws[-1])).signature)
        await desk.finalized(signatures[-1])
        swaps, balances = await desk.swaps(), await desk.balances()
        slots = [(await desk.status(each)).statuses[0].slot for each in signatures]
        height = await desk.height()

    async with simulator_process(tmp_path, addresses), desk_at(chain, venues) as again:
        again.wallet = desk.wallet
        after = await again.height()

        assert after.block_height >= height.block_height
        assert after.context_slot >= height.context_slot
        assert len(swaps) == 20
        assert await again.swaps() == swaps
        assert await again.balances() == balances
        assert [(await again.status(each)).statuses[0].slot for each in signatures] == slots
        assert all([(await again.send(raw)).HasField("error") for raw in raws])


async def test_what_was_told_a_moment_before_a_kill_is_on_record(
    tmp_path: Path, addresses: dict[str, str], desk_at: DeskAt
) -> None:
    chain, venues = addresses["chain"], {"raydium": addresses["raydium"]}
    async with (
        simulator_process(tmp_path, addresses, slot_milliseconds=0) as process,
        desk_at(chain, venues) as desk,
    ):
        await desk.fund(SOL.mint, 100 * ONE_SOL)
        await desk.fund("", ONE_SOL)
        raws = [await desk.swap("raydium", ONE_SOL, memo=f"memo {n}") for n in range(20)]
        watch = desk.chain.WatchSignatures(chain_pb2.WatchSignaturesRequest(wallet=desk.wallet))
        await watch.initial_metadata()
        await desk.chain.SendTransactions(chain_pb2.SendTransactionsRequest(transactions=raws))

        told = list((await anext(aiter(watch))).signatures)
        process.kill()
        await process.wait()

    async with simulator_process(tmp_path, addresses), desk_at(chain, venues) as again:
        statuses = await again.chain.GetSignatureStatuses(
            chain_pb2.GetSignatureStatusesRequest(signatures=told, search_history=True)
        )

        assert len(told) == 20
        assert all(status.found for status in statuses.statuses)
        assert [swap.signature for swap in await again.swaps()] == told


async def test_what_fork_switches_did_survives_a_kill_and_no_number_is_given_twice(
    tmp_path: Path, addresses: dict[str, str], desk_at: DeskAt
) -> None:
    chain, venues = addresses["chain"], {"raydium": addresses["raydium"]}
    async with simulator_process(tmp_path, addresses), desk_at(chain, venues) as desk:
        await desk.fund(SOL.mint, 100 * ONE_SOL)
        await desk.fund("", ONE_SOL)
        for result in (pb.FORK_RESULT_DROPPED, pb.FORK_RESULT_FLIPPED):
            order_id = pb.ForkResult.Name(result)
            fork = pb.SwitchFork(result=result, after_slots=3)
            await desk.inject(order_id=order_id, fork=fork)
            await desk.send(await desk.swap("raydium", ONE_SOL, memo=f"oee:{order_id}:1:key"))
        await desk.until(desk.faults, lambda reports: all(report.hits for report in reports))
        swaps, balances = await desk.swaps(), await desk.balances()

    async with simulator_process(tmp_path, addresses), desk_at(chain, venues) as again:
        again.key, again.wallet = desk.key, desk.wallet
        after = await again.balances()
        await again.land(await again.swap("raydium", ONE_SOL))

        assert swaps == []
        assert after == balances
        assert balances[SOL.mint] == 100 * ONE_SOL
        assert [swap.number for swap in await again.swaps()] == [3]


async def test_it_stops_cleanly_when_asked(
    tmp_path: Path, addresses: dict[str, str], desk_at: DeskAt
) -> None:
    async with (
        simulator_process(tmp_path, addresses) as process,
        desk_at(addresses["chain"], {}) as desk,
    ):
        await desk.height()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
