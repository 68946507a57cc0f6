"""Several gateway processes at one address: the kernel shares out the connections."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
from contextlib import suppress
from typing import Final

import structlog

from engine.errors import StartupError
from engine.runtime import USAGE_ERROR
from gateway.settings import Settings

logger = structlog.get_logger()

FIRST_BACKOFF_SECONDS: Final = 0.2
LAST_BACKOFF_SECONDS: Final = 5.0
# Above the grace that a worker gives its own calls.
STOP_SECONDS: Final = 10.0
ORPHAN_SECONDS: Final = 0.5


async def supervise(settings: Settings, stop: asyncio.Event) -> None:
    """Keep so many workers running until `stop`, then let them drain.

    One that crashes is started again, after a growing delay. Raises StartupError when the address
    is taken, or when the workers find their settings wrong.
    """
    _require_free(settings.listen_address)
    async with asyncio.TaskGroup() as group:
        for number in range(settings.workers):
            group.create_task(_keep_running(number + 1, settings, stop))


async def until_orphaned(supervisor_pid: int, stop: asyncio.Event) -> None:
    """Set `stop` once the supervisor is gone: nobody else would end this worker."""
    while os.getppid() == supervisor_pid:  # noqa: ASYNC110 - the kernel tells nobody
        await asyncio.sleep(ORPHAN_SECONDS)
    logger.error("the supervisor is gone")
    stop.set()


async def _keep_running(number: int, settings: Settings, stop: asyncio.Event) -> None:
    environment = {**os.environ, "WORKERS": "1", "SUPERVISOR_PID": str(os.getpid())}
    backoff_seconds = FIRST_BACKOFF_SECONDS
    while not stop.is_set():
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "gateway",
            env=environment,
            # Our own, not what native code writes to: that ends with us.
            stderr=sys.stderr,
        )
        logger.info("worker started", number=number, pid=worker.pid)
        code = await _run(worker, stop, settings.drain_seconds + STOP_SECONDS)
        if stop.is_set():
            return
        if code == USAGE_ERROR:
            raise StartupError(f"worker {number} could not start; see its own last line")
        logger.error("worker ended; starting it again", number=number, code=code)
        with suppress(TimeoutError):
            async with asyncio.timeout(backoff_seconds * random.uniform(0.8, 1.2)):
                await stop.wait()
        backoff_seconds = min(LAST_BACKOFF_SECONDS, backoff_seconds * 2)


async def _run(worker: asyncio.subprocess.Process, stop: asyncio.Event, grace: float) -> int:
    """The worker's exit code; it is told to stop when we are."""
    ended, stopping = asyncio.create_task(worker.wait()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, STOP_SECONDS)):
            if ended.done():
                break
            with suppress(ProcessLookupError):
                worker.send_signal(number)
            await asyncio.wait({ended}, timeout=seconds)
        return await ended
    finally:
        stopping.cancel()
        if worker.returncode is None:
            with suppress(ProcessLookupError):
                worker.kill()


def _require_free(address: str) -> None:
    """Workers share the address with anybody who asks to, so look first whether it is taken."""
    host, _, port = address.rpartition(":")
    if port == "0":
        raise StartupError("LISTEN_ADDRESS must name a port when there are several workers")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError:
            raise StartupError(
                f"{address} cannot be bound: it is taken or not ours; choose another address"
            ) from None
