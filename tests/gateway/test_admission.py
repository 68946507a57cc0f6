"""What the count of waiting orders decides, against a real PostgreSQL."""

from __future__ import annotations

import asyncio

import pytest

from engine.errors import Overloaded
from engine.store import Store
from gateway import admission as module
from gateway.admission import CROWDED, Admission, gather_seconds, group_size
from tests import builders
from tests.engine.test_store import execute
from tests.gateway.running import eventually


@pytest.mark.parametrize(
    ("waiting", "size"),
    [(0, 32), (64, 32), (127, 32), (128, 64), (255, 64), (256, 128), (10_000, 4096)],
)
def test_groups_grow_with_what_waits_so_that_there_are_always_a_few(
    waiting: int, size: int
) -> None:
    assert group_size(waiting) == size


@pytest.mark.parametrize(
    ("waiting", "crowding", "milliseconds"),
    [
        (0, 1.0, 0.0),
        (1, 1.0, 1.5),
        (20, CROWDED, 30.0),
        (10_000, 1.0, 50.0),
        (10_000, CROWDED - 0.01, 0.0),
    ],
)
def test_where_cores_are_free_nobody_waits_for_company(
    waiting: int, crowding: float, milliseconds: float
) -> None:
    assert gather_seconds(waiting, crowding) * 1000 == pytest.approx(milliseconds)


async def test_on_a_full_machine_new_orders_wait_for_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "gather_seconds", lambda waiting, crowding: 3600 * crowding)
    groups: list[int] = []
    store.on_commit(lambda committed: groups.append(len(committed)))
    admission = Admission(store, 40, lambda: 1.0)
    await place(store, 40)
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(admission.follow())
        await eventually(lambda: is_full(admission, True))
        groups.clear()

        most = tasks.create_task(place(store, 31))
        await execute(store, "SELECT 1")  # they have had their turn
        assert groups == []
        await place(store, 1)
        await most
        assert groups == [32]
        following.cancel()


async def test_new_orders_go_on_in_groups_that_suit_what_waited_lately(store: Store) -> None:
    groups: list[int] = []
    store.on_commit(lambda committed: groups.append(len(committed)))
    admission = Admission(store, 130, lambda: 0.0)
    await place(store, 130)
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(admission.follow())

        await eventually(lambda: is_full(admission, True))
        groups.clear()
        await place(store, 192)
        assert groups == [64, 64, 64]

        # One look at fewer does not make groups smaller: what is cut does not meet again.
        await execute(store, END_ALL)
        await eventually(lambda: is_full(admission, False))
        groups.clear()
        await place(store, 192)
        assert groups == [64, 64, 64]
        following.cancel()


END_ALL = """
UPDATE orders SET status = 'failed', settled = true, next_check_at = NULL, complete_time = now(),
                  error_reason = 'X', error_message = 'x'
"""


async def place(store: Store, orders: int) -> None:
    await asyncio.gather(*[store.add(builders.new_order()) for _ in range(orders)])


async def is_full(admission: Admission, wanted: bool) -> bool:
    try:
        admission.require_room()
    except Overloaded:
        return wanted
    return not wanted
