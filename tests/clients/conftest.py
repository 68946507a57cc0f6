"""A real stack, and the examples built as the README says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

import pytest
import pytest_asyncio

from tests.clients.pages import Shown, fenced
from tests.clients.programs import missing, require, running
from tests.system.conftest import Engine, running_engine

# By the folder below examples/: what must be there to build and run it.
TOOLS: Final[Mapping[str, tuple[str, ...]]] = {
    "python": ("python3",),
    "go": ("go", "buf"),
    "node": ("node", "npm"),
    "java": ("java", "javac", "mvn"),
}
PROGRAM: Final = re.compile(r"\S+(?=\s+localhost:50051 )")
BUILD_SECONDS: Final = 240


@dataclass(frozen=True, slots=True)
class Example:
    """One way to run one of the examples."""

    language: str
    build: str
    run: str

    @property
    def name(self) -> str:
        found = PROGRAM.search(self.run)
        assert found is not None
        return f"{self.language}/{found[0]}"

    def at(self, address: str) -> str:
        """What runs it against another address."""
        return self.run.replace("localhost:50051", address)


def read_example(shown: Shown) -> list[Example]:
    """A block of the README: into the folder, what builds, and each line that runs."""
    enter, *lines = shown.commands.splitlines(keepends=True)
    runs = [line for line in lines if PROGRAM.search(line)]
    build = "".join([enter, *(line for line in lines if line not in runs)])
    language = enter.split("/")[-1].strip()
    return [Example(language, build, enter + run) for run in runs]


EXAMPLES: Final = [
    example for shown in fenced("README.md", "From any language") for example in read_example(shown)
]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    async with running_engine(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def builds() -> AsyncIterator[Mapping[str, asyncio.Task[None]]]:
    """Every language's build, all under way at once: one compiles while another downloads."""
    scripts = {example.language: example.build for example in EXAMPLES}
    tasks = {
        language: asyncio.create_task(_build(script))
        for language, script in scripts.items()
        if not missing(TOOLS[language])
    }
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


# One example after the other, so that the first are tried while the last are still built.
@pytest_asyncio.fixture(
    scope="session", loop_scope="session", params=EXAMPLES, ids=lambda example: example.name
)
async def example(
    request: pytest.FixtureRequest, builds: Mapping[str, asyncio.Task[None]]
) -> Example:
    """Each of the examples, ready to run."""
    wanted: Example = request.param
    require(TOOLS[wanted.language], f"examples/{wanted.language} is built and run with it")
    await builds[wanted.language]
    return wanted


async def _build(script: str) -> None:
    async with asyncio.timeout(BUILD_SECONDS), running(script) as process:
        output, errors = await process.communicate()
    assert process.returncode == 0, f"{script}\n{output.decode()}\n{errors.decode()}"
