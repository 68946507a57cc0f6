"""What a person reads of something that is painted."""

from __future__ import annotations

from rich.console import Console

from oee.console import WIDTH


def text(thing: object) -> str:
    """Its lines as they are piped: no colours, nothing cut, no blanks at their ends."""
    console = Console(width=WIDTH, soft_wrap=True, color_system=None)
    with console.capture() as capture:
        console.print(thing)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
