"""Gateway: serves OrderService to clients, and AdminService to operators."""

from __future__ import annotations

import asyncio
import os

from engine import runtime
from engine.accounts import Accounts
from engine.allowance import AccountLimits
from engine.bus import open_bus
from engine.errors import StartupError
from engine.quoting import Quoter
from engine.relay import open_relay
from engine.rpc import serving
from engine.store import open_store
from engine.trading import TradingSwitch
from engine.v1 import admin_pb2_grpc, orders_pb2_grpc
from engine.venue import open_venues
from gateway import workers
from gateway.acceptance import Acceptance
from gateway.admin import AdminService
from gateway.admission import Admission
from gateway.announcements import Announcements
from gateway.guard import Guard, unsafe_reason
from gateway.keyring import Keyring
from gateway.log_watch import LogTail
from gateway.route_pace import RoutePace
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
            tls=settings.nats_tls,
            creds_file=settings.nats_creds_file,
        ) as bus,
        open_venues(settings.venues, settings.peer_tls) as venues,
        open_relay(store, bus) as relay,
    ):
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
        quoter = Quoter.over(
            venues,
            store,
            settings.rules(store.tokens),
            quote_timeout_seconds=settings.quote_timeout_seconds,
            quote_locally=settings.quote_locally,
            max_slot_lag=settings.max_slot_lag,
            max_pool_share_bps=settings.max_pool_share_bps,
        )
        routes = Routes(quoter, RoutePace(settings.routes_per_second))
        switch = TradingSwitch(store)
        accounts = Accounts(
            store,
            AccountLimits(
                orders_per_minute=settings.orders_per_minute,
                max_open_orders=settings.max_open_orders,
                max_streams=settings.max_streams,
            ),
        )
        await accounts.look()
        acceptance = Acceptance(store, admission, switch, accounts, routes, venues)
        service = OrderService(store, relay, acceptance, hub, tail, routes, venues, accounts)
        keyring = Keyring(store)
        guard = Guard(keyring, accounts)
        admin = AdminService(store.tokens, keyring, guard, switch, accounts)
        unsafe = unsafe_reason(
            has_keys=await guard.look(),
            has_tls=settings.tls_certificate_file is not None,
            listen_address=settings.listen_address,
            allow_insecure=settings.allow_insecure,
        )
        if unsafe is not None:
            raise StartupError(unsafe)

        def drain() -> None:
            acceptance.drain()
            hub.drain()
            tail.drain()

        async with serving(
            settings.listen_address,
            {
                "engine.v1.OrderService": lambda server: (
                    orders_pb2_grpc.add_OrderServiceServicer_to_server(service, server)
                ),
                "engine.v1.AdminService": lambda server: (
                    admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)
                ),
            },
            tls=settings.tls,
            limits=settings.limits,
            door=guard,
            grace_seconds=settings.drain_seconds,
            on_drain=drain,
            share_port=settings.supervisor_pid is not None,
        ):
            loops = [
                hub.follow(),
                tail.follow(),
                admission.follow(),
                guard.follow(),
                accounts.follow(),
                switch.follow(),
                quoter.follow(),
            ]
            if settings.supervisor_pid is not None:
                loops.append(workers.until_orphaned(settings.supervisor_pid, stop))
            await runtime.run_until(stop, *loops)


def main() -> None:
    """Run the gateway; never returns."""
    parser = runtime.arguments(Settings)
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that share the address; or WORKERS"
    )
    chosen = parser.parse_args()
    if chosen.workers is not None:
        os.environ["WORKERS"] = str(chosen.workers)
    runtime.main("gateway", Settings, run, takes_arguments=True)


if __name__ == "__main__":
    main()
