"""What the count of waiting orders decides, against a real PostgreSQL."""

from __future__ import annotations

import asyncio

import pytest

from engine.errors import Overloaded
from engine.store import Store
from gateway.admission import Admission, group_size
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


async def test_new_orders_go_on_in_groups_that_suit_what_waited_lately(store: Store) -> None:
    groups: list[int] = []
    store.on_commit(lambda committed: groups.append(len(committed)))
    admission = Admission(store, 130)
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


async def test_an_order_has_its_place_from_before_it_is_stored_until_it_is_counted(
    store: Store,
) -> None:
    admission = Admission(store, 3)
    admission.enter()
    admission.enter()
    admission.enter()
    assert await is_full(admission, True)

    admission.leave(accepted=False)  # it was there before, or refused
    assert await is_full(admission, False)
    admission.leave(accepted=True)
    admission.leave(accepted=True)
    admission.enter()
    assert await is_full(admission, True)


END_ALL = """
UPDATE orders SET status = 'failed', settled = true, next_check_at = NULL, complete_time = now(),
                  error_reason = 'X', error_message = 'x'
"""


async def place(store: Store, orders: int) -> None:
    await asyncio.gather(*[store.add(builders.new_order()) for _ in range(orders)])


async def is_full(admission: Admission, wanted: bool) -> bool:
    try:
        admission.enter()
    except Overloaded:
        return wanted
    admission.leave(accepted=False)
    return not wanted
