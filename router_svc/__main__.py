"""Router: chooses the venue for each order, and re-offers orders that stand still."""

from __future__ import annotations

import asyncio
from functools import partial

from engine import runtime
from engine.accounts import Accounts
from engine.bus import Queue, open_bus
from engine.quoting import Quoter
from engine.relay import open_relay
from engine.rpc import serving
from engine.store import open_store
from engine.trading import TradingSwitch
from engine.venue import open_venues
from engine.work import working
from router_svc.router import Router
from router_svc.settings import Settings


async def run(settings: Settings, stop: asyncio.Event) -> None:
    # Opened from the top, closed from the bottom: work ends before its wires do.
    async with (
        open_store(settings.postgres_dsn.get_secret_value()) as store,
        open_bus(
            settings.nats_url.get_secret_value(),
            "router",
            tls=settings.nats_tls,
            creds_file=settings.nats_creds_file,
        ) as bus,
        open_venues(settings.venues, settings.peer_tls) as venues,
        open_relay(store, bus) as relay,
    ):
        switch = TradingSwitch(store)
        accounts = Accounts(store)
        await accounts.look()
        quoter = Quoter.over(
            venues,
            store,
            settings.rules(store.tokens),
            quote_timeout_seconds=settings.quote_timeout_seconds,
            quote_locally=settings.quote_locally,
            max_slot_lag=settings.max_slot_lag,
            max_pool_share_bps=settings.max_pool_share_bps,
        )
        router = Router(store, relay, quoter, switch, accounts)
        async with (
            working(bus, Queue.ROUTE, router.route, slots=settings.concurrency) as worker,
            serving(
                settings.listen_address,
                {},
                tls=settings.tls,
                limits=settings.limits,
                parts=[Queue.ROUTE.subject],
            ) as server,
        ):
            await runtime.run_until(
                stop,
                worker.pull(),
                worker.report_deafness(partial(server.report, part=Queue.ROUTE.subject)),
                relay.reconcile(),
                switch.follow(),
                accounts.follow(),
                quoter.follow(),
            )


if __name__ == "__main__":
    runtime.main("router", Settings, run)
