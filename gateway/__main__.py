"""Gateway: serves OrderService to clients."""

from __future__ import annotations

import asyncio

from engine import runtime
from engine.bus import open_bus
from engine.relay import Relay
from engine.rpc import serving
from engine.store import open_store
from engine.v1 import orders_pb2_grpc
from engine.venue import open_venues
from gateway.acceptance import Acceptance
from gateway.admission import Admission
from gateway.announcements import Announcements
from gateway.log_watch import LogTail
from gateway.routes import Routes
from gateway.service import OrderService
from gateway.settings import Settings
from gateway.watch import WatchHub


async def run(settings: Settings, stop: asyncio.Event) -> None:
    # Opened from the top, closed from the bottom: calls end before their wires do.
    async with (
        open_store(settings.postgres_dsn.get_secret_value()) as store,
        open_bus(settings.nats_url.get_secret_value(), "gateway") as bus,
        open_venues(settings.venues) as venues,
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
            grace_seconds=settings.drain_seconds,
            on_drain=drain,
        ):
            await runtime.run_until(stop, hub.follow(), tail.follow(), admission.follow())


if __name__ == "__main__":
    runtime.main("gateway", Settings, run)
