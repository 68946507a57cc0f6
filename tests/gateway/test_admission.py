"""What the count of waiting orders decides, against a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from engine.errors import Overloaded
from engine.order import Transition
from engine.store import Store
from gateway.admission import Admission, group_size
from tests import builders
from tests.gateway.running import eventually


@pytest.mark.parametrize(
    ("waiting", "size"),
    [(0, 32), (64, 32), (127, 32), (128, 64), (255, 64), (256, 128), (10_000, 4096)],
)
def test_groups_grow_with_what_waits_so_that_there_are_always_a_few(
    waiting: int, size: int
) -> None:
    assert group_size(waiting) == size


async def test_new_orders_go_on_in_groups_that_suit_what_waits(store: Store) -> None:
    groups: list[int] = []

    def note(committed: Sequence[Transition]) -> None:
        groups.append(len(committed))

    async def place(orders: int) -> None:
        await asyncio.gather(*[store.add(builders.new_order()) for _ in range(orders)])

    store.on_commit(note)
    admission = Admission(store, max_waiting_orders=130)
    await place(130)
    following = asyncio.create_task(admission.follow())

    async def full() -> bool:
        try:
            admission.require_room()
        except Overloaded:
            return True
        return False

    await eventually(full)
    groups.clear()
    await place(192)
    following.cancel()

    assert groups == [64, 64, 64]
