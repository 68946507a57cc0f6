"""A desk, and chains whose blockhashes live for a few blocks, which a test makes in no time."""

import pytest

from engine.store import Store
from executor_svc import blockhash
from tests.executor_svc.desk import Desk


@pytest.fixture(autouse=True)
def no_aged_blockhash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockhash, "RECENT_SECONDS", 0)


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk(store)
