"""A promise that a server is held to, and what came of holding it to that."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

import grpc

from engine.errors import EngineError

CALL_SECONDS: Final = 5.0
CHECK_SECONDS: Final = 30.0

# What would be right where a call fails that should not.
CURES: Final[Mapping[grpc.StatusCode, str]] = {
    grpc.StatusCode.UNIMPLEMENTED: "serve this method",
    grpc.StatusCode.DEADLINE_EXCEEDED: "answer sooner; the engine waits no longer than this",
    grpc.StatusCode.UNKNOWN: "answer; an exception in the server comes out as UNKNOWN",
}
CURE: Final = "answer the call; what is wrong with one item is told in that item's result"

S = TypeVar("S")


class Broken(EngineError):
    """The promise is broken: what was expected, what came, and what would be right."""

    def __init__(self, expected: str, came: str, right: str) -> None:
        super().__init__(f"expected {expected}; came {came}; right: {right}")
        self.words = {"expected": expected, "came": came, "right": right}


class NotChecked(EngineError):
    """The promise could not be put to the test; the message says why."""


class NoAnswer(EngineError):
    """A call ended with a code and not with an answer."""

    def __init__(self, method: str, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{method}: {code.name}" + (f": {details}" if details else ""))
        self.method = method
        self.code = code


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    """One promise in one sentence, and what puts it to the test.

    `run` raises Broken, NotChecked or NoAnswer; returning means that the promise is kept.
    """

    name: str
    promise: str
    run: Callable[[S], Awaitable[None]]


def checks(*runs: Callable[[S], Awaitable[None]]) -> tuple[Check[S], ...]:
    """A check of each function, in this order: its name and its docstring are the check's."""
    return tuple(
        Check(run.__name__.replace("_", "-"), " ".join((inspect.getdoc(run) or "").split()), run)
        for run in runs
    )


class Outcome(StrEnum):
    """What came of a check."""

    OK = "ok"
    FAILED = "FAILED"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """A check's outcome; of one that is not ok, `words` say why, by their titles."""

    check: str
    promise: str
    outcome: Outcome
    words: Mapping[str, str]


async def examine(subject: S, all_of: Sequence[Check[S]]) -> AsyncIterator[Finding]:
    """Put the promises to the test one after another; a finding each, as they come."""
    for check in all_of:
        outcome, words = await _judge(subject, check)
        yield Finding(check.name, check.promise, outcome, words)


async def _judge(subject: S, check: Check[S]) -> tuple[Outcome, Mapping[str, str]]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check.run(subject)
    except NotChecked as unknown:
        return Outcome.NOT_CHECKED, {"why": str(unknown)}
    except Broken as broken:
        return Outcome.FAILED, broken.words
    except NoAnswer as failed:
        expected, right = f"an answer to {failed.method}", CURES.get(failed.code, CURE)
        return Outcome.FAILED, {"expected": expected, "came": str(failed), "right": right}
    except TimeoutError:
        return Outcome.FAILED, {
            "expected": f"answers to all of this within {CHECK_SECONDS:g} s",
            "came": "no end of it",
            "right": "answer sooner",
        }
    return Outcome.OK, {}


class Caller:
    """Calls of one service, each under a deadline."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    async def __call__(self, method: str, request: Any) -> Any:
        """The answer; raises NoAnswer."""
        try:
            return await getattr(self._stub, method)(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise NoAnswer(method, error.code(), error.details() or "") from None

    async def is_refused(self, method: str, request: Any, what: str) -> None:
        """Returns when the whole call is INVALID_ARGUMENT; raises Broken when it is not."""
        try:
            await self(method, request)
        except NoAnswer as failed:
            if failed.code is grpc.StatusCode.INVALID_ARGUMENT:
                return
            came = str(failed)
        else:
            came = "an answer"
        raise Broken(
            f"{method} of {what} to be INVALID_ARGUMENT",
            came,
            "refuse the whole call with INVALID_ARGUMENT, so that nobody takes it for an outage",
        )
