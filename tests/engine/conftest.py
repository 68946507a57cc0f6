"""Certificate authorities that tests of TLS have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.certificates import Authority


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """A CA that nobody here trusts."""
    return Authority(tmp_path, "stranger")
