"""The commands that the documents show, as they are written there."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from oee.ports import Ports

ROOT: Final = Path(__file__).parents[2]
SECTION: Final = r"^## {}\n(.*?)(?=^## |\Z)"
# A fenced block of commands, and the block that shows what they print, if one follows.
FENCED: Final = re.compile(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)
INDENTED: Final = re.compile(r"^(?:    .*\n)+", re.M)


@dataclass(frozen=True, slots=True)
class Shown:
    """Commands as a page shows them, and lines that it shows of their output."""

    commands: str
    output: tuple[str, ...] = ()

    def at(self, ports: Ports) -> str:
        """The commands for a stack that listens elsewhere than documented; else as written."""
        commands = self.commands
        pairs = zip(dataclasses.astuple(Ports.default()), dataclasses.astuple(ports), strict=True)
        for documented, actual in pairs:
            commands = commands.replace(f"localhost:{documented}", f"127.0.0.1:{actual}")
        return commands


def fenced(page: str, section: str | None = None) -> list[Shown]:
    """The fenced commands of a page, or of one section of it."""
    text = (ROOT / page).read_text()
    if section is not None:
        [text] = re.findall(SECTION.format(re.escape(section)), text, re.M | re.S)
    return [
        Shown(commands, tuple(line.strip() for line in output.splitlines() if line.strip()))
        for commands, output in FENCED.findall(text)
    ]


def indented(page: str, program: str) -> list[Shown]:
    """The indented commands of a page that call `program`."""
    blocks = INDENTED.findall((ROOT / page).read_text())
    return [Shown(block) for block in blocks if block.split()[0] == program]
