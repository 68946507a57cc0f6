from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine import rpc
from engine.bus import Bus
from engine.relay import Relay
from engine.store import Store
from oee.nats import Nats
from tests.gateway.running import Gateway, running


@pytest.fixture(autouse=True)
def _nobody_calls_a_stopping_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not wait for those who might."""
    monkeypatch.setattr(rpc, "REFUSE_SECONDS", 0)


@pytest.fixture
async def gateway(dsn: str, nats: Nats) -> AsyncIterator[Gateway]:
    """A gateway on the test's own database and NATS, without venues."""
    async with running(dsn, nats.url) as started:
        yield started


@pytest.fixture
def relay(store: Store, bus: Bus) -> Relay:
    """What routers and executors move orders with, on the gateway's database and NATS."""
    return Relay(store, bus)
