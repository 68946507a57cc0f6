"""Processes are killed at chosen points of an order's life: it ends CONFIRMED, swapped once.

The points are reached by holding a call, an answer or a row lock, never by time.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.system.conftest import Engine, assert_swapped_once

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROW = "SELECT FROM orders WHERE order_id = $1::text::uuid FOR UPDATE"


async def test_the_router_is_killed_with_orders_at_every_point(engine: Engine) -> None:
    asking = engine.venues["meteora"].hold("Quote")
    orders = [await engine.submit()]
    await asking.reached.wait()
    answered = engine.venues["meteora"].hold("Quote", answered=True)
    orders.append(await engine.submit())
    await answered.reached.wait()
    committing = engine.venues["meteora"].hold("Quote", answered=True)
    orders.append(await engine.submit())
    await committing.reached.wait()
    async with engine.locked(ROW, orders[-1].order_id):
        committing.release()
        await engine.until_blocked()
        await engine.stack.kill("router")

    await asyncio.gather(*(assert_swapped_once(engine, order) for order in orders))


POINTS = [
    ("BuildSwap", False),
    ("BuildSwap", True),
    ("GetLatestBlockhash", True),
    ("SimulateTransactions", False),
    ("SimulateTransactions", True),
    ("SendTransactions", False),
    ("SendTransactions", True),
]


async def test_the_executor_is_killed_with_orders_at_every_point(engine: Engine) -> None:
    orders = []
    for method, answered in POINTS:
        held = engine.gate_of(method).hold(method, answered=answered)
        orders.append(await engine.submit(venues=["raydium"]))
        await held.reached.wait()
    committing = engine.chain.hold("SimulateTransactions", answered=True)
    orders.append(await engine.submit(venues=["raydium"]))
    await committing.reached.wait()
    async with engine.locked(ROW, orders[-1].order_id):
        committing.release()
        await engine.until_blocked()
        await engine.stack.kill("executor")

    await asyncio.gather(*(assert_swapped_once(engine, order) for order in orders))


async def test_the_executor_is_killed_while_it_settles_by_hint(engine: Engine) -> None:
    held = engine.chain.hold("GetTransactions", answered=True)
    order = await engine.submit()
    await held.reached.wait()

    await engine.stack.kill("executor")

    await assert_swapped_once(engine, order)


@pytest.mark.parametrize("method", ["GetBlockHeight", "GetSignatureStatuses"])
async def test_the_executor_is_killed_while_it_settles_what_is_due(
    engine: Engine, method: str
) -> None:
    # The hint gets no answer, so the order's own time comes.
    hinted, held = engine.chain.hold("GetTransactions"), engine.chain.hold(method, answered=True)
    order = await engine.submit()
    await held.reached.wait()

    await engine.stack.kill("executor")
    hinted.release()

    await assert_swapped_once(engine, order)


async def test_the_gateway_is_killed_while_it_commits_an_order(engine: Engine) -> None:
    async with engine.locked("LOCK TABLE orders IN SHARE MODE"):
        submitting = asyncio.create_task(engine.submit(client_order_id="killed-gateway"))
        await engine.until_blocked()
        await engine.stack.kill("gateway")
    order = await submitting

    await assert_swapped_once(engine, order)
    assert (await engine.submit(client_order_id="killed-gateway")).order_id == order.order_id


async def test_the_gateway_is_killed_while_orders_are_watched(engine: Engine) -> None:
    held = engine.chain.hold("SendTransactions", answered=False)
    order = await engine.submit()
    watches = [asyncio.create_task(engine.watch(order)) for _ in range(5)]
    await held.reached.wait()

    await engine.stack.kill("gateway")
    held.release()

    streams = await asyncio.gather(*watches)
    assert all(stream == streams[0] for stream in streams)
    await assert_swapped_once(engine, order)


async def test_everything_but_the_database_is_killed_at_once(engine: Engine) -> None:
    held = engine.chain.hold("SendTransactions", answered=True)
    order = await engine.submit()
    others = [await engine.submit() for _ in range(5)]
    await held.reached.wait()

    await asyncio.gather(
        *(engine.stack.kill(name) for name in ("router", "executor", "gateway", "dex_sim"))
    )

    for each in [order, *others]:
        await assert_swapped_once(engine, each)


async def test_nats_stops_and_returns_with_an_empty_store(engine: Engine) -> None:
    nats = engine.stack.nats
    assert nats is not None
    held = engine.venues["raydium"].hold("Quote", answered=True)
    first = await engine.submit()
    await held.reached.wait()
    await asyncio.to_thread(nats.kill)
    await asyncio.to_thread(nats.wipe)
    held.release()

    while_down = await engine.submit()
    await asyncio.to_thread(nats.start)

    await assert_swapped_once(engine, first)
    await assert_swapped_once(engine, while_down)


async def test_postgresql_restarts_in_the_middle_of_orders(engine: Engine) -> None:
    postgres = engine.stack.postgres
    assert postgres is not None
    held = engine.chain.hold("SendTransactions", answered=True)
    orders = [await engine.submit() for _ in range(5)]
    await held.reached.wait()
    await asyncio.to_thread(postgres.kill)
    held.release()
    await asyncio.to_thread(postgres.start)

    for order in orders:
        await assert_swapped_once(engine, order)


async def test_the_simulator_is_killed_and_forgets_nothing(engine: Engine) -> None:
    done = await engine.submit()
    await assert_swapped_once(engine, done)
    before = await engine.swaps()
    held = engine.chain.hold("SendTransactions", answered=True)
    order = await engine.submit()
    await held.reached.wait()

    await engine.stack.kill("dex_sim")
    held.release()

    await assert_swapped_once(engine, order)
    assert (await engine.swaps())[: len(before)] == before
