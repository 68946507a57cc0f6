"""NATS credentials against a server that trusts an operator's JWTs only."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from engine.bus import Bus, Queue, open_bus
from engine.errors import StartupError
from engine.nats_credentials import Credentials
from oee.nats import Nats
from oee.ports import HOST
from tests.engine.test_bus import ORDER, connected, until
from tests.nats_operator import ACCOUNT, Key, Operator

PATIENCE_SECONDS = 15


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path / "operator")


@pytest.fixture
async def guarded(operator: Operator, tmp_path: Path) -> AsyncIterator[Nats]:
    """A nats-server whose accounts and users are the operator's."""
    server = Nats(tmp_path / "nats", options=["--config", str(operator.config_file)])
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.stop)


async def warned(logs: Sequence[MutableMapping[str, Any]], event: str) -> MutableMapping[str, Any]:
    """The first warning of this event, once there is one."""

    async def told() -> bool:
        return any(line["event"] == event for line in logs)

    await until(told)
    return next(line for line in logs if line["event"] == event)


async def works(bus: Bus) -> None:
    """Hints that are published wait in their queue."""
    await bus.ensure()
    await bus.publish(Queue.ROUTE.hints([ORDER]))

    async def waits() -> bool:
        return bool(await bus.waiting(Queue.ROUTE))

    await until(waits)


async def test_whoever_has_credentials_works_with_the_queues(
    operator: Operator, guarded: Nats
) -> None:
    async with open_bus(guarded.url, "test", creds_file=operator.creds("engine")) as bus:
        await connected(bus)
        await works(bus)


@pytest.mark.parametrize(
    "shown",
    [
        lambda ours, other: None,
        lambda ours, other: other.creds("foreign"),
        lambda ours, other: ours.creds("expired", lives_seconds=-60),
    ],
    ids=["none", "another operator's", "expired"],
)
async def test_whoever_has_none_that_count_is_refused_and_says_so_once(
    operator: Operator,
    guarded: Nats,
    tmp_path: Path,
    shown: Callable[[Operator, Operator], Path | None],
) -> None:
    creds_file = shown(operator, Operator(tmp_path / "other"))
    with capture_logs() as logs:
        async with open_bus(guarded.url, "test", creds_file=creds_file) as bus:
            told = await warned(logs, "nats connection refused")
            await until(lambda: repeated(logs))
            assert not bus.connected

    assert told["log_level"] == "warning"
    assert told["reason"] == "Authorization Violation"
    assert [line["log_level"] for line in logs if line.get("reason")].count("warning") == 1


async def repeated(logs: Sequence[MutableMapping[str, Any]]) -> bool:
    """Whether a refusal followed the first."""
    return [line["event"] for line in logs].count("nats connection refused") > 1


async def test_credentials_that_run_out_are_told_of_and_the_renewed_ones_used(
    operator: Operator, guarded: Nats
) -> None:
    creds_file = operator.creds("engine", lives_seconds=3)
    with capture_logs() as logs:
        async with open_bus(guarded.url, "test", creds_file=creds_file) as bus:
            await connected(bus)
            told = await warned(logs, "nats connection lost; reconnecting")
            assert not bus.connected
            assert operator.creds("engine") == creds_file
            await connected(bus)
            await works(bus)

    reasons = [line["reason"] for line in logs if line["event"] == "nats connection refused"]
    assert told["log_level"] == "warning"
    assert reasons[0] == "user authentication expired"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[text.index("*") :],
        lambda text: text[: text.index("*")],
        lambda text: text.replace("\nSU", "\nSUA"),
        lambda text: re.sub(r"\bSU\w+", Key(ACCOUNT).seed, text),
    ],
    ids=["empty", "no JWT", "no seed", "a seed mistyped", "an account's seed"],
)
async def test_a_file_that_is_no_use_is_named_and_not_quoted(
    operator: Operator, spoil: Callable[[str], str]
) -> None:
    creds_file = operator.creds("engine")
    creds_file.write_text(spoil(creds_file.read_text()))

    with pytest.raises(StartupError, match=r"NATS_CREDS_FILE: .*engine\.creds") as refused:
        async with open_bus(f"nats://{HOST}:1", "test", creds_file=creds_file):
            pass
    assert "SU" not in str(refused.value)
    assert "eyJ" not in str(refused.value)


def test_a_file_that_is_being_replaced_leaves_the_old_credentials_in_use(
    operator: Operator,
) -> None:
    creds_file = operator.creds("engine")
    credentials = Credentials(creds_file)
    before = credentials.sign("nonce"), credentials.jwt()
    creds_file.write_text("half")

    assert (credentials.sign("nonce"), credentials.jwt()) == before
