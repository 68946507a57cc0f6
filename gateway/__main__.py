"""Gateway: serves OrderService to clients."""

from __future__ import annotations

import argparse
import asyncio
import os

from engine import runtime
from engine.bus import open_bus
from engine.relay import Relay
from engine.rpc import serving
from engine.store import open_store
from engine.v1 import orders_pb2_grpc
from engine.venue import open_venues
from gateway import workers
from gateway.acceptance import Acceptance
from gateway.admission import Admission
from gateway.announcements import Announcements
from gateway.log_watch import LogTail
from gateway.routes import Routes
from gateway.service import OrderService
from gateway.settings import Settings
from gateway.watch import WatchHub


async def run(settings: Settings, stop: asyncio.Event) -> None:
    if settings.workers > 1:
        await workers.supervise(settings, stop)
    else:
        await serve(settings, stop)


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serve from this process until `stop`."""
    # Opened from the top, closed from the bottom: calls end before their wires do.
    async with (
        open_store(settings.postgres_dsn.get_secret_value()) as store,
        open_bus(
            settings.nats_url.get_secret_value(),
            "gateway",
            ca_file=settings.nats_ca_file,
            creds_file=settings.nats_creds_file,
        ) as bus,
        open_venues(settings.venues, settings.peer_tls) as venues,
    ):
        relay = Relay(store, bus)
        announcements = Announcements(bus)
        hub = WatchHub(
            store,
            bus,
            announcements,
            recheck_seconds=settings.recheck_seconds,
            max_watches=settings.max_watches,
        )
        tail = LogTail(store, announcements)
        admission = Admission(store, settings.max_waiting_orders)
        routes = Routes(venues, settings.quote_timeout_seconds)
        acceptance = Acceptance(store, admission, routes, venues)
        service = OrderService(store, relay, acceptance, hub, tail, routes, venues)

        def drain() -> None:
            acceptance.drain()
            hub.drain()
            tail.drain()

        async with serving(
            settings.listen_address,
            {
                "engine.v1.OrderService": lambda server: (
                    orders_pb2_grpc.add_OrderServiceServicer_to_server(service, server)
                )
            },
            tls=settings.tls,
            limits=settings.limits,
            grace_seconds=settings.drain_seconds,
            on_drain=drain,
            share_port=settings.supervisor_pid is not None,
        ):
            loops = [hub.follow(), tail.follow(), admission.follow()]
            if settings.supervisor_pid is not None:
                loops.append(workers.until_orphaned(settings.supervisor_pid, stop))
            await runtime.run_until(stop, *loops)


def main() -> None:
    """Run the gateway; never returns."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description=__doc__)
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that share the address; or WORKERS"
    )
    chosen = parser.parse_args()
    if chosen.workers is not None:
        os.environ["WORKERS"] = str(chosen.workers)
    runtime.main("gateway", Settings, run)


if __name__ == "__main__":
    main()
