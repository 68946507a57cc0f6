"""One service of the stack: a process that is started again whenever it crashes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from engine.errors import StartupError
from oee.health import until_serving
from oee.processes import forget, record

FIRST_BACKOFF_SECONDS: Final = 0.2
LAST_BACKOFF_SECONDS: Final = 5.0
# Above the grace a service gives its own calls when it drains.
STOP_SECONDS: Final = 15.0
# What a process has written is read to the end, unless a child of its own holds the pipe open.
READ_REST_SECONDS: Final = 1.0
TAIL_LINES: Final = 20
CHUNK_BYTES: Final = 64 * 1024
USAGE_ERROR: Final = 2


class Service:
    """A service process at `addresses`, kept running from `start` to `stop`.

    Its lines go to `show(name, line)`. `pid_file` names it while it runs, for whoever has to
    clear up after us.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        addresses: Sequence[str],
        pid_file: Path,
        show: Callable[[str, str], None],
    ) -> None:
        self.name = name
        self.addresses = tuple(addresses)
        self._command = tuple(command)
        self._environment = environment
        self._pid_file = pid_file
        self._show = show
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._wanted = False
        self._halt = asyncio.Event()
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        self._has_served = False

    @property
    def pid(self) -> int:
        """Its process id; RuntimeError between two processes and when stopped."""
        if self._process is None or self._process.returncode is not None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    async def start(self) -> None:
        """Start the process, without waiting until it serves; nothing when it is kept running."""
        if self._wanted and self._keeper is not None and not self._keeper.done():
            return
        await self.stop()
        self._wanted = True
        self._halt.clear()
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        process = await self._spawn()
        self._keeper = asyncio.create_task(self._keep_running(process))

    async def serving(self, timeout_seconds: float) -> None:
        """Return once every address says SERVING.

        Raises StartupError when that takes too long, or when the service finds its settings
        wrong or its address taken.
        """
        if self._keeper is None:
            raise RuntimeError(f"{self.name} was not started")
        answers = asyncio.create_task(self._answers())
        try:
            await asyncio.wait(
                {answers, self._keeper},
                timeout=timeout_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            answers.cancel()
            with suppress(asyncio.CancelledError):
                await answers
        if self._keeper.done():
            self._keeper.result()
            raise StartupError(f"{self.name} was stopped before it was SERVING")
        if answers.cancelled():
            raise StartupError(
                f"{self.name} is not SERVING after {timeout_seconds:.0f} s: {self._last_words()}"
            )
        self._has_served = True

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL when the grace is over; not started again. Safe to repeat."""
        self._wanted = False
        self._halt.set()
        if self._keeper is None:
            return
        if self._signal(signal.SIGTERM):
            # A paused process takes its signal only when it is resumed.
            self._signal(signal.SIGCONT)
            await asyncio.wait({self._keeper}, timeout=STOP_SECONDS)
            if self._signal(signal.SIGKILL):
                self._show(self.name, f"did not stop within {STOP_SECONDS:.0f} s and was killed")
        await asyncio.wait({self._keeper})

    async def drain(self) -> int | None:
        """Stop it, and say with which code it went; None when it was not running."""
        process = self._process
        await self.stop()
        return None if process is None else process.returncode

    async def kill(self, *, restart: bool = True) -> None:
        """SIGKILL; returns once the process is gone. Then it is started again, or not."""
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        process = self._process
        if not restart:
            self._wanted = False
        if process is not None and self._signal(signal.SIGKILL):
            await process.wait()
        if not restart:
            await self.stop()

    def pause(self) -> None:
        """SIGSTOP: the process stands still, its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> bool:
        """Signal the process; tells whether there was one."""
        process = self._process
        if process is None or process.returncode is not None:
            return False
        with suppress(ProcessLookupError):
            process.send_signal(number)
        return True

    async def _spawn(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # A session of its own keeps the terminal's Ctrl-C away from it: it is stopped by us.
            start_new_session=True,
        )
        record(self._pid_file, process.pid)
        self._process = process
        return process

    async def _keep_running(self, process: asyncio.subprocess.Process) -> None:
        while True:
            started = time.monotonic()
            code = await self._until_exit(process)
            forget(self._pid_file)
            if not self._wanted:
                return
            if code == USAGE_ERROR and not self._has_served:
                raise StartupError(f"{self.name} cannot start: {self._last_words()}")
            if time.monotonic() - started > LAST_BACKOFF_SECONDS:
                self._backoff_seconds = FIRST_BACKOFF_SECONDS
            backoff_seconds = self._backoff_seconds
            self._show(self.name, f"exited with {code}; is started again in {backoff_seconds:g} s")
            self._backoff_seconds = min(2 * backoff_seconds, LAST_BACKOFF_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff_seconds):
                    await self._halt.wait()
            if not self._wanted:
                return
            process = await self._spawn()

    async def _until_exit(self, process: asyncio.subprocess.Process) -> int:
        assert process.stdout is not None
        forwarding = asyncio.create_task(self._forward(process.stdout))
        try:
            code = await process.wait()
            await asyncio.wait({forwarding}, timeout=READ_REST_SECONDS)
            return code
        finally:
            forwarding.cancel()

    async def _forward(self, output: asyncio.StreamReader) -> None:
        async for line in _lines(output):
            self._tail.append(line)
            self._show(self.name, line)

    async def _answers(self) -> None:
        for address in self.addresses:
            await until_serving(address)

    def _last_words(self) -> str:
        return " | ".join(self._tail) or "it wrote nothing"


async def _lines(output: asyncio.StreamReader) -> AsyncIterator[str]:
    """Lines of any length; one longer than a chunk comes in pieces."""
    rest = b""
    while chunk := await output.read(CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
        if len(rest) > CHUNK_BYTES:
            yield rest.decode(errors="replace")
            rest = b""
    if rest:
        yield rest.decode(errors="replace")
