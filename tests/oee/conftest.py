from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty directory that every user may enter, so that root's PostgreSQL can live in it."""
    directory = Path(tempfile.mkdtemp(prefix="oee-test-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)
