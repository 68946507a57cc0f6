"""Where a running service spends its time: py-spy's samples, by function."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from engine.errors import StartupError

SAMPLES_PER_SECOND: Final = 200
# It is told to stop long before.
LONGEST_SECONDS: Final = 3600
ATTACH_SECONDS: Final = 15.0
WRITE_SECONDS: Final = 30.0
SHOWN: Final = 25
_LINE_NUMBER: Final = re.compile(r":\d+\)$")


class Profile(msgspec.Struct, frozen=True):
    """The share of the samples in percent: in the function itself, and with what it calls."""

    samples: int
    own: Sequence[tuple[str, float]]
    cumulative: Sequence[tuple[str, float]]


class Recording:
    """A running py-spy; `profile` is there once it has ended."""

    profile: Profile | None = None


@asynccontextmanager
async def profiled(pid: int) -> AsyncIterator[Recording]:
    """Sample the process while inside.

    Raises StartupError when py-spy may not look into it: on Linux that takes root or
    kernel.yama.ptrace_scope=0, on macOS root.
    """
    recording = Recording()
    with tempfile.TemporaryDirectory() as directory:
        stacks = Path(directory, "stacks")
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("py-spy")),
            # Who holds the interpreter is at work; the others merely wait for a socket.
            *("record", "--gil", "--format", "raw", "--output", str(stacks), "--pid", str(pid)),
            *("--rate", str(SAMPLES_PER_SECOND), "--duration", str(LONGEST_SECONDS)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            # What it says first is that it samples, or why it cannot.
            said = await asyncio.wait_for(process.stdout.readline(), ATTACH_SECONDS)
            if b"Sampling" not in said:
                rest = await asyncio.wait_for(process.stdout.read(), ATTACH_SECONDS)
                raise StartupError(f"py-spy: {(said + rest).decode().strip()}")
            yield recording
            process.send_signal(signal.SIGINT)
            await asyncio.wait_for(process.communicate(), WRITE_SECONDS)
            recording.profile = _read(stacks)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _read(stacks: Path) -> Profile:
    return aggregate(stacks.read_text().splitlines())


def aggregate(lines: Sequence[str]) -> Profile:
    """The profile of stacks written as `outermost;…;innermost count`."""
    own: Counter[str] = Counter()
    cumulative: Counter[str] = Counter()
    for stack, count in _stacks(lines):
        own[stack[-1]] += count
        for function in set(stack):
            cumulative[function] += count
    samples = own.total()

    def top(counts: Counter[str]) -> list[tuple[str, float]]:
        return [(name, round(100 * n / samples, 1)) for name, n in counts.most_common(SHOWN)]

    return Profile(samples, top(own), top(cumulative))


def _stacks(lines: Sequence[str]) -> Iterator[tuple[list[str], int]]:
    for line in lines:
        frames, _, count = line.rpartition(" ")
        yield [_LINE_NUMBER.sub(")", frame) for frame in frames.split(";")], int(count)
