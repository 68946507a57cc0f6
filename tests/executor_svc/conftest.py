"""Chains whose blockhashes live for a few blocks, which a test makes in no time."""

import pytest

from executor_svc import blockhash


@pytest.fixture(autouse=True)
def no_aged_blockhash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockhash, "RECENT_SECONDS", 0)
