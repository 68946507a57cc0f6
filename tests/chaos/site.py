"""A running stack of two of each service, with a crowd of clients, to be put under load."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc

from engine.v1.orders_pb2_grpc import OrderServiceStub
from oee.health import channel
from oee.ports import Ports
from oee.stack import Stack
from tests.chaos.clients import Crowd
from tests.chaos.facts import Facts
from tests.chaos.reading import read_facts, read_tokens, unsettled

if TYPE_CHECKING:
    from engine.v1.orders_pb2_grpc import OrderServiceAsyncStub

# Far above four tries that all expire, back-offs and finality included.
QUIET_SECONDS: Final = 120.0
LOOK_SECONDS: Final = 0.2

# A fast simulator, with delays all the same so that things overlap; blockhashes live 6 s.
SIMULATOR: Final = {
    "SLOT_MILLISECONDS": "40",
    "CONFIRMED_AFTER_SLOTS": "2",
    "FINALIZED_AFTER_SLOTS": "18",
    "NODE_LAG_SLOTS": "3",
    "QUOTE_DELAY_MILLISECONDS": "5-40",
    "BUILD_DELAY_MILLISECONDS": "5-30",
    "CHAIN_DELAY_MILLISECONDS": "1-15",
    "EXECUTION_SLIPPAGE_BPS": "10-60",
}


@dataclass(frozen=True, slots=True)
class Site:
    """A running stack of two of each service, and ways to all of it."""

    stack: Stack
    control: grpc.aio.Channel
    crowd: Crowd

    async def facts(self) -> Facts:
        """All there is to check; at rest only."""
        told = [trader.told for trader in self.crowd.traders]
        tokens = await read_tokens(self.stack.postgres_dsn)
        return await read_facts(self.stack.postgres_dsn, self.control, tokens, told)

    async def quiet(self) -> float:
        """Wait until every client is finished and every order settled, or it takes too long.

        Returns how long that took, in seconds; what is unfinished then, the checker finds.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        await self.crowd.finish(QUIET_SECONDS)
        while True:
            seconds = loop.time() - started
            if seconds > QUIET_SECONDS or not await unsettled(self.stack.postgres_dsn):
                return round(seconds, 1)
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def running_site(
    directory: Path, seed: int, show: Callable[[str, str], None]
) -> AsyncIterator[Site]:
    """Two gateways, two routers, two executors, one simulator, and clients of the gateways.

    With an even seed routes come from the pools' streams, with an odd one the venues are asked for
    every quote and build every swap. All of it is stopped on leaving; its data stay in `directory`.
    """
    # Only servers of our own are killed.
    others = ("POSTGRES_DSN", "NATS_URL")
    environment = {name: value for name, value in os.environ.items() if name not in others}
    stack = Stack(
        directory,
        Ports.free(),
        environment,
        gateways=2,
        routers=2,
        executors=2,
        settings={
            "dex_sim": {**SIMULATOR, "SEED": str(seed)},
            "gateway": {"ORDERS_PER_MINUTE": "0"},
            "router": {"QUOTE_LOCALLY": "false" if seed % 2 else "true"},
        },
        show=show,
    )
    async with AsyncExitStack() as opened:
        await opened.enter_async_context(stack)
        control = await opened.enter_async_context(channel(stack.chain_address))
        gateways: list[OrderServiceAsyncStub] = [
            OrderServiceStub(await opened.enter_async_context(channel(address)))
            for name, service in stack.services.items()
            if name.startswith("gateway")
            for address in service.addresses
        ]
        crowd = Crowd(seed, gateways, await read_tokens(stack.postgres_dsn))
        opened.push_async_callback(crowd.stop)
        yield Site(stack, control, crowd)
