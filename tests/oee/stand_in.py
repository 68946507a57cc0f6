"""Stands in for one service: health at its addresses, and a chain that remembers its gifts.

Much quicker to start than a real one, which the tests do very often.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from engine.v1 import chain_pb2, chain_pb2_grpc, sim_pb2, sim_pb2_grpc


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


def addresses() -> list[str]:
    """Wherever the environment tells this service to listen."""
    venues = os.environ.get("VENUE_LISTEN_ADDRESSES", "").split(",")
    own = [os.environ.get("LISTEN_ADDRESS"), os.environ.get("CHAIN_LISTEN_ADDRESS")]
    return [address for address in [*own, *(v.partition("=")[2] for v in venues)] if address]


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    chain = Chain(Path(os.environ.get("DATA_DIRECTORY", "")) / "gifts.json")  # type: ignore[abstract]
    chain_pb2_grpc.add_ChainServiceServicer_to_server(chain, server)
    sim_pb2_grpc.add_SimControlServiceServicer_to_server(chain, server)
    for address in addresses():
        server.add_insecure_port(address)
    await server.start()
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    sys.stdout.write(f"passed on: {os.environ.get('PASSED_ON')}\n")
    await stop.wait()
    await server.stop(grace=1)
    sys.stdout.write("stopped\n")


if __name__ == "__main__":
    asyncio.run(main())
