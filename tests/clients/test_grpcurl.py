"""Every grpcurl command of the documents, run as it is written there."""

from __future__ import annotations

import asyncio

import pytest

from engine.v1 import orders_pb2 as pb
from tests.clients.pages import Shown, fenced, indented
from tests.clients.programs import PATIENCE_SECONDS, require, running
from tests.system.conftest import Engine

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGE = "docs/grpcurl.md"


@pytest.fixture
def grpcurl() -> None:
    require(
        ("grpcurl",),
        "go install github.com/fullstorydev/grpcurl/cmd/grpcurl with the version in .ci/run",
    )


async def assert_prints(engine: Engine, shown: Shown) -> None:
    """The commands succeed, and print what the page shows of it."""
    script = shown.at(engine.stack.ports)
    async with asyncio.timeout(PATIENCE_SECONDS), running(script) as process:
        output, words = await process.communicate()
    printed = output.decode() + words.decode()

    assert process.returncode == 0, f"{script}\n{printed}"
    for line in shown.output:
        assert line in printed, script


@pytest.mark.usefixtures("grpcurl")
async def test_every_command_of_the_page_does_what_the_page_shows(engine: Engine) -> None:
    for shown in fenced(PAGE):
        assert shown.output, f"the page shows nothing of what this prints: {shown.commands}"
        await assert_prints(engine, shown)


@pytest.mark.usefixtures("grpcurl")
async def test_every_command_of_the_readme_works(engine: Engine) -> None:
    for shown in indented("README.md", "grpcurl"):
        await assert_prints(engine, shown)


async def test_the_page_calls_every_method() -> None:
    commands = "\n".join(shown.commands for shown in fenced(PAGE))
    service = pb.DESCRIPTOR.services_by_name["OrderService"]

    assert [
        m.name for m in service.methods if f"{service.full_name}/{m.name}" not in commands
    ] == []
