"""The whole stack as real processes, with gates in front of the venues and the chain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import grpc
import pytest
import pytest_asyncio

from engine.v1 import orders_pb2 as pb
from engine.v1 import sim_pb2
from engine.v1.orders_pb2_grpc import OrderServiceStub
from engine.v1.sim_pb2_grpc import SimControlServiceStub
from oee.ports import Ports
from oee.stack import Stack
from tests.system.gate import Gate, open_gate

if TYPE_CHECKING:
    from engine.v1.orders_pb2_grpc import OrderServiceAsyncStub

PATIENCE_SECONDS = 45

# PostgreSQL has no event for this; the loop is its own, looks every 10 ms, and ends by itself.
UNTIL_BLOCKED = """
DO $$ BEGIN
    FOR look IN 1..3000 LOOP
        PERFORM pg_stat_clear_snapshot();
        IF (SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock') >= {} THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RAISE 'no statement waits for a lock';
END $$
"""

# The simulator without its delays; blockhashes live 7.5 s.
FAST = {
    "SLOT_MILLISECONDS": "50",
    "CONFIRMED_AFTER_SLOTS": "2",
    "FINALIZED_AFTER_SLOTS": "6",
    "QUOTE_DELAY_MILLISECONDS": "0",
    "BUILD_DELAY_MILLISECONDS": "0",
    "CHAIN_DELAY_MILLISECONDS": "0",
    "EXECUTION_SLIPPAGE_BPS": "10-20",
    "DRIFT_PPM": "0",
    "TRADES_A_SLOT": "0",
}


class Engine:
    """A running stack, and a client of it that retries as the README says."""

    def __init__(
        self, stack: Stack, chain: Gate, venues: dict[str, Gate], said: Sequence[tuple[str, str]]
    ) -> None:
        self.stack = stack
        self.chain = chain
        self.venues = venues
        self.said = said  # every line that a process of it logged, with that process's name

    def gate_of(self, method: str) -> Gate:
        """Where calls of `method` pass; raydium for a venue's."""
        return self.venues["raydium"] if method in ("Quote", "BuildSwap") else self.chain

    async def submit(self, **fields: Any) -> pb.Order:
        """Submit until it is accepted, always with the same key."""
        facts = {
            "client_order_id": f"test-{uuid4()}",
            "token_in": "SOL",
            "token_out": "USDC",
            "amount_in": "1.5",
        }
        request = pb.SubmitOrderRequest(**(facts | fields))
        async with asyncio.timeout(PATIENCE_SECONDS), self.client() as client:
            while True:
                try:
                    return (await client.SubmitOrder(request, timeout=5, wait_for_ready=True)).order
                except grpc.aio.AioRpcError as error:
                    await _back_off(error)

    async def watch(
        self, order: pb.Order, *, after: int = 0, until_settled: bool = True
    ) -> list[pb.OrderEvent]:
        """Every event after `after` until the end, resuming whenever the stream breaks."""
        events: list[pb.OrderEvent] = []
        async with asyncio.timeout(PATIENCE_SECONDS), self.client() as client:
            while True:
                request = pb.WatchOrderRequest(
                    order_id=order.order_id,
                    after_sequence=events[-1].sequence if events else after,
                    until_settled=until_settled,
                )
                try:
                    async for response in client.WatchOrder(request, wait_for_ready=True):
                        if response.HasField("event"):
                            events.append(response.event)
                except grpc.aio.AioRpcError as error:
                    await _back_off(error)
                else:
                    return events

    async def order(self, order: pb.Order) -> pb.Order:
        """The order as it is now."""
        async with self.client() as client:
            request = pb.GetOrderRequest(order_id=order.order_id)
            return (await client.GetOrder(request, timeout=10, wait_for_ready=True)).order

    async def swaps(self) -> list[sim_pb2.LandedSwap]:
        """The simulator's ledger: what really happened."""
        async with _channel(self.stack.chain_address) as channel:
            response = await SimControlServiceStub(channel).ListSwaps(
                sim_pb2.ListSwapsRequest(limit=10_000), timeout=10, wait_for_ready=True
            )
            return list(response.swaps)

    async def swaps_of(self, order: pb.Order) -> list[sim_pb2.LandedSwap]:
        return [s for s in await self.swaps() if s.memo.split(":")[1] == order.order_id]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[OrderServiceAsyncStub]:
        gateways = [
            service.addresses[0]
            for name, service in self.stack.services.items()
            if name.startswith("gateway")
        ]
        async with _channel(f"ipv4:{','.join(gateways)}") as channel:  # the first that answers
            stub: OrderServiceAsyncStub = OrderServiceStub(channel)
            yield stub

    @asynccontextmanager
    async def locked(self, statement: str, *arguments: object) -> AsyncIterator[None]:
        """Hold what `statement` locks in the database."""
        connection = await asyncpg.connect(self.stack.postgres_dsn, timeout=10)
        try:
            async with connection.transaction():
                await connection.execute(statement, *arguments)
                yield
        finally:
            await connection.close()

    async def until_blocked(self, statements: int = 1) -> None:
        """Return once so many statements of the engine wait for a lock."""
        connection = await asyncpg.connect(self.stack.postgres_dsn, timeout=10)
        try:
            await connection.execute(UNTIL_BLOCKED.format(statements), timeout=PATIENCE_SECONDS)
        finally:
            await connection.close()


async def assert_swapped_once(engine: Engine, order: pb.Order) -> None:
    """The order settles CONFIRMED; stream, order and ledger tell of one and the same swap."""
    events = await engine.watch(order)
    final = await engine.order(order)
    [swap] = await engine.swaps_of(order)

    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert (final.status, final.settled) == (pb.ORDER_STATUS_CONFIRMED, True)
    assert final.tx_hash == swap.signature
    assert events[-2].fill.tx_hash == swap.signature


def _channel(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(
        address, options=[("grpc.max_reconnect_backoff_ms", 200), ("grpc.enable_http_proxy", 0)]
    )


async def _back_off(error: grpc.aio.AioRpcError) -> None:
    """Wait as the error says, if it is one to be retried; else raise it."""
    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        raise error
    pushback = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms", "100")
    await asyncio.sleep(int(pushback) / 1000)


@asynccontextmanager
async def running_engine(
    directory: Path,
    *,
    gateways: int = 1,
    routers: int = 1,
    executors: int = 1,
    simulator: Mapping[str, str] = FAST,
    environment: Mapping[str, str] | None = None,
    follows_pools: bool = False,
) -> AsyncIterator[Engine]:
    """A fast stack of its own, every call to venues and chain through a gate."""
    ports = Ports.free()
    async with AsyncExitStack() as opened:
        chain = await opened.enter_async_context(open_gate(f"127.0.0.1:{ports.chain}"))
        venues = {
            name: await opened.enter_async_context(open_gate(f"127.0.0.1:{port}"))
            for name, port in (("raydium", ports.raydium), ("meteora", ports.meteora))
        }
        addresses = {"VENUES": ",".join(f"{name}={g.address}" for name, g in venues.items())}
        # The gates hold quotes that are asked for and swaps that venues build; what streams do has
        # tests of its own.
        asking = addresses | {"QUOTE_LOCALLY": str(follows_pools).lower()}
        settings = {
            "dex_sim": simulator,
            "gateway": asking | {"ORDERS_PER_MINUTE": "0"},
            "router": asking,
            "executor": addresses | {"CHAIN_ADDRESS": chain.address},
        }
        said: list[tuple[str, str]] = []
        stack = Stack(
            directory,
            ports,
            environment,
            gateways=gateways,
            routers=routers,
            executors=executors,
            settings=settings,
            show=lambda source, line: said.append((source, line)),
        )
        opened.push_async_callback(stack.wipe)
        await opened.enter_async_context(stack)
        yield Engine(stack, chain, venues, said)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    async with running_engine(tmp_path_factory.mktemp("stack")) as running:
        yield running
