"""The simulator: a chain and the venues on it, for everything that must not touch real money."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from dex_sim.chain import Chain, Rules
from dex_sim.chain_service import ChainService
from dex_sim.chance import Chance
from dex_sim.clock import keep_time
from dex_sim.control_service import ControlService
from dex_sim.ledger_file import open_ledger
from dex_sim.plan import inject_plan
from dex_sim.settings import Settings
from dex_sim.venue_service import VenueService
from engine import runtime
from engine.errors import StartupError
from engine.instructions.swap import KINDS_OF_VENUE
from engine.rpc import serving
from engine.v1.chain_pb2_grpc import add_ChainServiceServicer_to_server
from engine.v1.sim_pb2_grpc import add_SimControlServiceServicer_to_server
from engine.v1.venue_pb2_grpc import add_VenueServiceServicer_to_server


@dataclass(frozen=True, slots=True)
class Simulator:
    """A running simulator: where it really listens, and its clock, which never ends by itself."""

    chain_address: str
    venue_addresses: Mapping[str, str]
    clock: asyncio.Task[None]


@asynccontextmanager
async def open_simulator(settings: Settings) -> AsyncIterator[Simulator]:
    """A simulator that serves; port 0 in an address means any free one.

    Raises StartupError when the data directory, an address or the faults cannot be had. Whatever
    stops the clock is raised on leaving.
    """
    if unknown := settings.venue_listen_addresses.keys() - KINDS_OF_VENUE.keys():
        raise StartupError(
            f"VENUE_LISTEN_ADDRESSES names {', '.join(sorted(unknown))}; "
            f"known are {', '.join(KINDS_OF_VENUE)}"
        )
    chance = Chance(settings.seed)
    # Opened from the top, closed from the bottom: watches end, calls end, the clock stops.
    async with AsyncExitStack() as opened:
        ledger = opened.enter_context(open_ledger(settings.data_directory))
        chain = Chain(ledger, chance, _rules(settings))
        if settings.faults_file:
            inject_plan(chain, settings.faults_file)
        clock = asyncio.create_task(keep_time(chain, settings.slot_milliseconds))
        opened.push_async_callback(_stop, clock)
        venue_addresses = {}
        for venue, address in settings.venue_listen_addresses.items():
            service = VenueService(
                venue,
                chain,
                chance,
                settings.quote_delay_milliseconds,
                settings.build_delay_milliseconds,
            )
            add = partial(add_VenueServiceServicer_to_server, service)
            server = await opened.enter_async_context(
                serving(
                    address,
                    {"engine.v1.VenueService": add},
                    tls=settings.tls,
                    limits=settings.limits,
                )
            )
            venue_addresses[venue] = _bound(address, server.port)
        services = {
            "engine.v1.ChainService": partial(
                add_ChainServiceServicer_to_server,
                ChainService(chain, chance, settings.chain_delay_milliseconds),
            )
        }
        if settings.control_enabled:
            services["engine.v1.SimControlService"] = partial(
                add_SimControlServiceServicer_to_server, ControlService(chain)
            )
        server = await opened.enter_async_context(
            serving(
                settings.chain_listen_address, services, tls=settings.tls, limits=settings.limits
            )
        )
        opened.callback(chain.close_feeds)
        yield Simulator(_bound(settings.chain_listen_address, server.port), venue_addresses, clock)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Simulate until `stop`."""
    async with open_simulator(settings) as simulator:
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, simulator.clock}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()


async def _stop(clock: asyncio.Task[None]) -> None:
    clock.cancel()
    await asyncio.wait({clock})
    if not clock.cancelled():
        clock.result()


def _rules(settings: Settings) -> Rules:
    return Rules(
        skipped_slot_percent=settings.skipped_slot_percent,
        confirmed_after_slots=settings.confirmed_after_slots,
        finalized_after_slots=settings.finalized_after_slots,
        drift_ppm=settings.drift_ppm,
        trades_a_slot=settings.trades_a_slot,
        execution_slippage_bps=settings.execution_slippage_bps,
        nodes=settings.nodes,
        node_lag_slots=settings.node_lag_slots,
    )


def _bound(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"


if __name__ == "__main__":
    runtime.main("dex_sim", Settings, run)
