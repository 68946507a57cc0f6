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
        hub = WatchHub(
            store,
            bus,
            recheck_seconds=settings.recheck_seconds,
            max_watches=settings.max_watches,
        )
        service = OrderService(
            store,
            Relay(store, bus),
            hub,
            venues,
            quote_timeout_seconds=settings.quote_timeout_seconds,
        )
        async with serving(
            settings.listen_address,
            {
                "engine.v1.OrderService": lambda server: (
                    orders_pb2_grpc.add_OrderServiceServicer_to_server(service, server)
                )
            },
            grace_seconds=settings.drain_seconds,
            on_drain=hub.drain,
        ):
            await runtime.run_until(stop, hub.follow())


if __name__ == "__main__":
    runtime.main("gateway", Settings, run)
