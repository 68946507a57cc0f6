"""The store against a real PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from engine.errors import StaleOrder, StoreUnavailable
from engine.lifecycle import EventType, Status
from engine.order import Order, Resolution
from engine.store import Store, open_store
from engine.token import MAX_AMOUNT
from oee.postgres import Postgres
from tests import builders


async def _stored(store: Store, status: Status, client_order_id: str | None = None) -> Order:
    order = (await store.add(builders.new_order(client_order_id))).order
    for transition in builders.steps(order, status):
        order = (await store.save(transition)).order
    return order


async def _read(store: Store, order: Order) -> Order:
    found = await store.get(order.order_id)
    assert found is not None
    return found


@pytest.mark.parametrize("status", list(Status))
async def test_an_order_in_any_status_is_read_as_it_was_stored(
    store: Store, status: Status
) -> None:
    order = await _stored(store, status, "key-1")

    found = await _read(store, order)
    assert replace(found, read_time=None, backoff=None) == replace(
        order, read_time=None, backoff=None
    )
    assert await store.get_by_client_order_id("default", "key-1") == replace(
        order, read_time=(await _read_key(store)).read_time, backoff=None
    ) or found.status is status


async def _read_key(store: Store) -> Order:
    found = await store.get_by_client_order_id("default", "key-1")
    assert found is not None
    return found
