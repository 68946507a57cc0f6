"""Programs of others: run as a user of the shell would, or missing with a word."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import pytest

from tests.clients.pages import ROOT

PATIENCE_SECONDS: Final = 60


def missing(programs: Sequence[str]) -> list[str]:
    """Those that are not on PATH."""
    return [program for program in programs if shutil.which(program) is None]


def require(programs: Sequence[str], remedy: str) -> None:
    """Skip the test when one of them is not on PATH; where CI is set, fail it."""
    if not (absent := missing(programs)):
        return
    word = f"{', '.join(absent)} not on PATH: {remedy}"
    if os.environ.get("CI"):
        pytest.fail(word, pytrace=False)
    pytest.skip(word)


@asynccontextmanager
async def running(
    script: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The script in a shell of its own, at the root of the checkout; killed on the way out."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", script),
        cwd=ROOT,
        env=os.environ | (environment or {}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
            await process.wait()
