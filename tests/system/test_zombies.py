"""A process stands still, its work is taken over, and then it wakes up and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.system.conftest import Engine, assert_swapped_once, running_engine

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def pairs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    """Two routers and two executors."""
    directory = tmp_path_factory.mktemp("pairs")
    async with running_engine(directory, routers=2, executors=2) as running:
        yield running


async def test_an_executor_wakes_after_another_took_over(pairs: Engine) -> None:
    pairs.stack.pause("executor-2")
    orders, helds = [], []
    for method, answered in [
        ("GetLatestBlockhash", True),
        ("SimulateTransactions", True),
        ("SendTransactions", False),
        ("SendTransactions", True),
    ]:
        helds.append(pairs.chain.hold(method, answered=answered))
        orders.append(await pairs.submit())
        await helds[-1].reached.wait()
    pairs.stack.pause("executor")
    pairs.stack.resume("executor-2")

    await asyncio.gather(*(assert_swapped_once(pairs, order) for order in orders))
    pairs.stack.resume("executor")
    for held in helds:
        held.release()

    await assert_swapped_once(pairs, await pairs.submit())
    assert [len(await pairs.swaps_of(order)) for order in orders] == [1, 1, 1, 1]


async def test_a_router_wakes_after_another_took_over(pairs: Engine) -> None:
    pairs.stack.pause("router-2")
    held = pairs.venues["raydium"].hold("Quote", answered=True)
    order = await pairs.submit()
    await held.reached.wait()
    pairs.stack.pause("router")
    pairs.stack.resume("router-2")

    await assert_swapped_once(pairs, order)
    pairs.stack.resume("router")
    held.release()

    await assert_swapped_once(pairs, await pairs.submit())
    assert len(await pairs.swaps_of(order)) == 1
