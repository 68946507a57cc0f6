"""A running simulator, and a trading desk that talks to it as the engine would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from dex_sim.__main__ import open_simulator
from dex_sim.chance import Range
from dex_sim.execution import CROWD
from dex_sim.market import SOL, USDC
from dex_sim.settings import Settings
from engine import programs
from engine.v1 import (
    chain_pb2,
    chain_pb2_grpc,
    sim_pb2,
    sim_pb2_grpc,
    venue_pb2,
    venue_pb2_grpc,
)

PATIENCE_SECONDS = 20

TEN_SOL = 10 * 10**9

T = TypeVar("T")


class Desk:
    """One wallet, and the simulator's services."""

    def __init__(self, chain: grpc.aio.Channel, venues: dict[str, grpc.aio.Channel]) -> None:
        self.key = Keypair()
        self.wallet = str(self.key.pubkey())
        self.chain: chain_pb2_grpc.ChainServiceAsyncStub = chain_pb2_grpc.ChainServiceStub(chain)
        self.control: sim_pb2_grpc.SimControlServiceAsyncStub = sim_pb2_grpc.SimControlServiceStub(
            chain
        )
        self.venues: dict[str, venue_pb2_grpc.VenueServiceAsyncStub] = {
            venue: venue_pb2_grpc.VenueServiceStub(channel) for venue, channel in venues.items()
        }

    @staticmethod
    async def until(ask: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
        """Ask again and again until the answer is as wanted, under one timeout."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds(answer := await ask()):
                pass
            return answer

    def gift(self, mint: str, amount: str) -> sim_pb2.FundWalletRequest:
        return sim_pb2.FundWalletRequest(wallet=self.wallet, mint=mint, amount=amount)

    async def fund(self, mint: str, amount: int) -> None:
        await self.control.FundWallet(self.gift(mint, str(amount)))

    async def inject(self, **fault: Any) -> int:
        """A fault in force; its id."""
        request = sim_pb2.InjectFaultRequest(fault=sim_pb2.Fault(**fault))
        return (await self.control.InjectFault(request)).report.fault_id

    async def clear(self, *fault_ids: int) -> list[sim_pb2.FaultReport]:
        request = sim_pb2.ClearFaultsRequest(fault_ids=fault_ids)
        return list((await self.control.ClearFaults(request)).reports)

    async def faults(self) -> list[sim_pb2.FaultReport]:
        return list((await self.control.ListFaults(sim_pb2.ListFaultsRequest())).reports)

    async def quote(
        self,
        venue: str,
        amount_in: int,
        mint_in: str = SOL.mint,
        mint_out: str = USDC.mint,
        order_id: str = "",
    ) -> venue_pb2.QuoteResult:
        query = venue_pb2.QuoteQuery(
            order_id=order_id, mint_in=mint_in, mint_out=mint_out, amount_in=amount_in
        )
        response = await self.venues[venue].Quote(venue_pb2.QuoteRequest(queries=[query]))
        return response.results[0]

    async def blockhash(self) -> chain_pb2.GetLatestBlockhashResponse:
        return await self.chain.GetLatestBlockhash(chain_pb2.GetLatestBlockhashRequest())

    async def swap(
        self,
        venue: str,
        amount_in: int,
        min_amount_out: int = 1,
        *,
        mint_in: str = SOL.mint,
        mint_out: str = USDC.mint,
        memo: str = "oee:order:1:key",
        blockhash: str = "",
    ) -> bytes:
        """A signed transaction with the venue's own instructions."""
        quote = (await self.quote(venue, amount_in, mint_in, mint_out)).quote
        built = await self.venues[venue].BuildSwap(
            venue_pb2.BuildSwapRequest(
                swaps=[
                    venue_pb2.SwapOrder(
                        pool=quote.pool,
                        mint_in=mint_in,
                        mint_out=mint_out,
                        amount_in=amount_in,
                        min_amount_out=min_amount_out,
                        wallet=self.wallet,
                    )
                ]
            )
        )
        instructions = [
            Instruction(
                Pubkey.from_string(each.program),
                each.data,
                [
                    AccountMeta(Pubkey.from_string(a.address), a.signer, a.writable)
                    for a in each.accounts
                ],
            )
            for each in built.results[0].swap.instructions
        ]
        return self.sign(
            [*instructions, programs.memo(memo)],
            blockhash or (await self.blockhash()).blockhash,
        )

    def sign(self, instructions: list[Instruction], blockhash: str) -> bytes:
        budget = [set_compute_unit_limit(1_000_000), set_compute_unit_price(100)]
        message = MessageV0.try_compile(
            self.key.pubkey(), [*budget, *instructions], [], Hash.from_string(blockhash)
        )
        return bytes(VersionedTransaction(message, [self.key]))

    async def send(self, raw: bytes) -> chain_pb2.SendResult:
        response = await self.chain.SendTransactions(
            chain_pb2.SendTransactionsRequest(transactions=[raw])
        )
        return response.results[0]

    async def land(self, raw: bytes) -> chain_pb2.SignatureStatus:
        """Send a transaction and wait until it is finalized."""
        sent = await self.send(raw)
        assert not sent.HasField("error"), sent.error
        return await self.finalized(sent.signature)

    async def status(
        self, signature: str, *, search_history: bool = True
    ) -> chain_pb2.GetSignatureStatusesResponse:
        return await self.chain.GetSignatureStatuses(
            chain_pb2.GetSignatureStatusesRequest(
                signatures=[signature], search_history=search_history
            )
        )

    async def finalized(self, signature: str) -> chain_pb2.SignatureStatus:
        async def status() -> chain_pb2.SignatureStatus:
            return (await self.status(signature)).statuses[0]

        return await self.until(status, lambda s: s.commitment == chain_pb2.COMMITMENT_FINALIZED)

    async def height(
        self, commitment: chain_pb2.Commitment.ValueType = chain_pb2.COMMITMENT_FINALIZED
    ) -> chain_pb2.GetBlockHeightResponse:
        return await self.chain.GetBlockHeight(
            chain_pb2.GetBlockHeightRequest(commitment=commitment)
        )

    async def balances(self, owner: str = "") -> dict[str, int]:
        """What the wallet, or another owner, holds; lamports under the empty mint."""
        answer = await self.chain.GetBalances(
            chain_pb2.GetBalancesRequest(wallet=owner or self.wallet)
        )
        return {"": answer.lamports, **{b.mint: int(b.amount) for b in answer.balances}}

    async def swaps(self) -> list[sim_pb2.LandedSwap]:
        return list((await self.control.ListSwaps(sim_pb2.ListSwapsRequest())).swaps)

    async def supply(self) -> dict[str, int]:
        """Of each mint, what the wallet, the crowd and all pools hold together."""
        mine, others = await self.balances(), await self.balances(CROWD)
        held = {mint: mine.get(mint, 0) + others[mint] for mint in others if mint}
        for venue in self.venues:
            for pool in await self.pools(venue):
                for mint, reserve in ((pool.mint_a, pool.reserve_a), (pool.mint_b, pool.reserve_b)):
                    held[mint] = held.get(mint, 0) + int(reserve)
        return held

    async def pools(self, venue: str) -> list[venue_pb2.Pool]:
        return list((await self.venues[venue].ListPools(venue_pb2.ListPoolsRequest())).pools)


def quick(directory: Path, **changes: Any) -> Settings:
    """A simulator without delays, skips, lag, and others who trade, but for the changes."""
    settings: dict[str, Any] = {
        "data_directory": directory,
        "chain_listen_address": "127.0.0.1:0",
        "venue_listen_addresses": {"raydium": "127.0.0.1:0", "meteora": "127.0.0.1:0"},
        "control_enabled": True,
        "slot_milliseconds": 0,
        "skipped_slot_percent": 0,
        "quote_delay_milliseconds": Range(0, 0),
        "build_delay_milliseconds": Range(0, 0),
        "chain_delay_milliseconds": Range(0, 0),
        "drift_ppm": 0,
        "trades_a_slot": 0,
        "execution_slippage_bps": Range(0, 0),
        "node_lag_slots": 0,
    }
    return Settings(**(settings | changes))


@asynccontextmanager
async def connect(chain_address: str, venue_addresses: Mapping[str, str]) -> AsyncIterator[Desk]:
    """A desk with a new wallet; its calls wait until the simulator listens."""
    options = [
        ("grpc.service_config", '{"methodConfig": [{"name": [{}], "waitForReady": true}]}'),
        # A connection of its own: one to a simulator that was killed is good for nothing.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with AsyncExitStack() as opened:

        async def channel(address: str) -> grpc.aio.Channel:
            return await opened.enter_async_context(
                grpc.aio.insecure_channel(address, options=options)
            )

        venues = {venue: await channel(address) for venue, address in venue_addresses.items()}
        yield Desk(await channel(chain_address), venues)


DeskAt = Callable[[str, Mapping[str, str]], AbstractAsyncContextManager[Desk]]


@pytest.fixture
def desk_at() -> DeskAt:
    return connect


class OpenDesk:
    """Starts simulators on one directory, and a desk at each."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._simulators = AsyncExitStack()
        self._desks = AsyncExitStack()

    async def __call__(self, **changes: Any) -> Desk:
        """A desk at a simulator with some settings changed; it has ten SOL to trade and to pay
        fees with."""
        simulator = await self._simulators.enter_async_context(
            open_simulator(quick(self._directory, **changes))
        )
        desk = await self._desks.enter_async_context(
            connect(simulator.chain_address, simulator.venue_addresses)
        )
        await desk.fund(SOL.mint, TEN_SOL)
        await desk.fund("", TEN_SOL)
        return desk

    async def stop_simulators(self) -> None:
        await self._simulators.aclose()

    async def close(self) -> None:
        await self._desks.aclose()
        await self._simulators.aclose()


@pytest.fixture
async def open_desk(tmp_path: Path) -> AsyncIterator[OpenDesk]:
    opener = OpenDesk(tmp_path)
    yield opener
    await opener.close()


@pytest.fixture
async def desk(open_desk: OpenDesk) -> Desk:
    return await open_desk()
