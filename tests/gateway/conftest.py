from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine import answers
from engine.bus import Bus
from engine.relay import Relay
from engine.store import open_store
from gateway import watch
from oee.nats import Nats
from tests.gateway.running import Gateway, running


@pytest.fixture(autouse=True)
def _nobody_calls_a_stopping_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not wait for those who might."""
    monkeypatch.setattr(answers, "REFUSE_SECONDS", 0)


@pytest.fixture
async def gateway(dsn: str, nats: Nats) -> AsyncIterator[Gateway]:
    """A gateway on the test's own database and NATS, without venues."""
    async with running(dsn, nats.url) as started:
        yield started


@pytest.fixture
async def relay(dsn: str, bus: Bus) -> AsyncIterator[Relay]:
    """What routers and executors move orders with; what `store` commits nobody hears of."""
    async with open_store(dsn) as theirs:
        yield Relay(theirs, bus)


@pytest.fixture(autouse=True)
def _who_watches_nothing_soon_listens_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LINGER_SECONDS", 0.2)
