"""Stands in for one service: health at its addresses, and a chain that remembers its gifts."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import grpc

from engine import runtime
from engine.rpc import serving
from engine.v1 import chain_pb2, chain_pb2_grpc, sim_pb2, sim_pb2_grpc


class Settings(runtime.ServiceSettings):
    listen_address: str = ""
    chain_listen_address: str = ""
    venue_listen_addresses: str = ""
    data_directory: Path = Path()
    passed_on: str = ""


class Chain(chain_pb2_grpc.ChainServiceServicer, sim_pb2_grpc.SimControlServiceServicer):
    """Only what funding a wallet needs."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger

    async def GetBalances(
        self, request: chain_pb2.GetBalancesRequest, context: object
    ) -> chain_pb2.GetBalancesResponse:
        gifts = [gift for gift in self._gifts() if gift["wallet"] == request.wallet]
        return chain_pb2.GetBalancesResponse(
            lamports=sum(int(gift["amount"]) for gift in gifts if not gift["mint"])
        )

    async def FundWallet(
        self, request: sim_pb2.FundWalletRequest, context: object
    ) -> sim_pb2.FundWalletResponse:
        gift = {"wallet": request.wallet, "mint": request.mint, "amount": request.amount}
        self._ledger.parent.mkdir(parents=True, exist_ok=True)
        self._ledger.write_text(json.dumps([*self._gifts(), gift]))
        return sim_pb2.FundWalletResponse(balance=request.amount)

    def _gifts(self) -> list[dict[str, str]]:
        return list(json.loads(self._ledger.read_text())) if self._ledger.exists() else []


async def run(settings: Settings, stop: asyncio.Event) -> None:
    sys.stdout.write(f"passed on: {settings.passed_on}\n")
    async with AsyncExitStack() as open_servers:
        if settings.listen_address:
            await open_servers.enter_async_context(serving(settings.listen_address, {}))
        if settings.chain_listen_address:
            chain = Chain(settings.data_directory / "gifts.json")  # type: ignore[abstract]

            def add(server: grpc.aio.Server) -> None:
                chain_pb2_grpc.add_ChainServiceServicer_to_server(chain, server)
                sim_pb2_grpc.add_SimControlServiceServicer_to_server(chain, server)

            await open_servers.enter_async_context(
                serving(settings.chain_listen_address, {"engine.v1.ChainService": add})
            )
            for venue in settings.venue_listen_addresses.split(","):
                await open_servers.enter_async_context(serving(venue.partition("=")[2], {}))
        await stop.wait()


if __name__ == "__main__":
    runtime.main(sys.argv[1], Settings, run)
