"""The load client: a lean process of its own, so that what is measured is the engine.

`python -m bench.load ADDRESS` reads jobs, a JSON line each, and answers each with a line.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import msgspec
import uvloop

import bench
from bench import lean, streaming, unary
from bench.job import Flow, Job, Outcome
from bench.tally import Tally
from engine.v1.orders_pb2_grpc import OrderServiceStub
from oee.health import channel

if TYPE_CHECKING:
    from engine.v1.orders_pb2_grpc import OrderServiceAsyncStub

# What the answer may take on top of the job's own limit.
ANSWER_SECONDS: Final = 30.0
LINE_BYTES: Final = 1 << 20
CODE: Final = str(Path(bench.__file__).resolve().parent.parent)

STREAMS: Final[Mapping[Flow, Callable[[OrderServiceAsyncStub, Tally], Awaitable[None]]]] = {
    Flow.STREAM: streaming.stream,
    Flow.OFFER: streaming.offer,
    Flow.ACCEPT: streaming.accept,
}
CALLS: Final[Mapping[Flow, Callable[[lean.Orders, Tally], Awaitable[None]]]] = {
    Flow.ACCEPT_UNARY: unary.accept,
    Flow.UNARY: unary.unary,
    Flow.WATCHERS: unary.watchers,
}


class LoadClient:
    """The running process, seen from the one that measures."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def run(self, job: Job) -> Outcome:
        """Have the job done. Raises RuntimeError when the client itself fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(job) + b"\n")
        try:
            async with asyncio.timeout(job.limit_seconds + ANSWER_SECONDS):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise RuntimeError(f"the load client does not answer to {job}") from None
        if not line:
            raise RuntimeError("the load client has ended; its log says why")
        return msgspec.json.decode(line, type=Outcome)


@asynccontextmanager
async def load_client(address: str, log: Path) -> AsyncIterator[LoadClient]:
    """A load client of the gateway at `address`; killed on leaving."""
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "bench.load", address),
            env={**os.environ, "PYTHONPATH": CODE},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            limit=LINE_BYTES,
            start_new_session=True,
        )
    try:
        yield LoadClient(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _serve(address: str) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        outcome = await do(address, msgspec.json.decode(line, type=Job))
        sys.stdout.write(msgspec.json.encode(outcome).decode() + "\n")
        sys.stdout.flush()


async def do(address: str, job: Job) -> Outcome:
    """Do the job. What stops it half way is told as the outcome's problem."""
    tally = Tally(job)
    problem = None
    try:
        async with asyncio.timeout(job.limit_seconds):
            if job.flow in CALLS:
                async with lean.orders(address) as orders:
                    await CALLS[job.flow](orders, tally)
            else:
                async with channel(address) as opened:
                    await STREAMS[job.flow](OrderServiceStub(opened), tally)
    except* TimeoutError:
        problem = f"not all was done after {job.limit_seconds:g} s"
    except* (grpc.aio.AioRpcError, lean.CallFailed, OSError) as failures:
        problem = _why(failures)
    return msgspec.structs.replace(tally.outcome(), problem=problem)


def _why(failures: BaseExceptionGroup[Exception]) -> str:
    """What the call failed with that made all the others be cancelled."""
    causes, _ = failures.split(_is_cause)
    error: BaseException = causes or failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error)


def _is_cause(error: BaseException) -> bool:
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() is not grpc.StatusCode.CANCELLED
    return isinstance(error, lean.CallFailed | OSError)


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
