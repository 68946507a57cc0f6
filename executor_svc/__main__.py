"""Executor: signs and sends routed swaps, and follows every signature to its end."""

from __future__ import annotations

import asyncio
from functools import partial

from engine import runtime
from engine.bus import Queue, open_bus
from engine.chain import Commitment
from engine.chain_client import open_chain
from engine.relay import open_relay
from engine.rpc import serving
from engine.store import open_store
from engine.trading import TradingSwitch
from engine.venue import open_venues
from engine.work import working
from executor_svc import wallet
from executor_svc.executor import Executor
from executor_svc.settings import Settings
from executor_svc.settlement import Settlement


async def run(settings: Settings, stop: asyncio.Event) -> None:
    key = wallet.load(settings.wallet_key_file, settings.wallet_key)
    # Opened from the top, closed from the bottom: work ends before its wires do.
    async with (
        open_store(settings.postgres_dsn.get_secret_value()) as store,
        open_bus(
            settings.nats_url.get_secret_value(),
            "executor",
            tls=settings.nats_tls,
            creds_file=settings.nats_creds_file,
        ) as bus,
        open_venues(settings.venues, settings.peer_tls, settings.venue_calls_per_second) as venues,
        open_chain(settings.chain_address, settings.peer_tls) as chain,
        open_relay(store, bus) as relay,
    ):
        switch = TradingSwitch(store)
        executor = Executor(store, relay, venues, chain, key, switch)
        confirm_at = Commitment[settings.confirm_at.upper()]
        settlement = Settlement(store, relay, chain, executor, confirm_at)
        async with (
            working(bus, Queue.EXECUTE, executor.execute, slots=settings.concurrency) as worker,
            serving(
                settings.listen_address,
                {},
                tls=settings.tls,
                limits=settings.limits,
                parts=[Queue.EXECUTE.subject],
            ) as server,
        ):
            await runtime.run_until(
                stop,
                worker.pull(),
                worker.report_deafness(partial(server.report, part=Queue.EXECUTE.subject)),
                settlement.follow(),
                settlement.listen(),
                settlement.settle_hinted(),
                switch.follow(),
            )


if __name__ == "__main__":
    runtime.main("executor", Settings, run)
