"""Tables, all of one look."""

from __future__ import annotations

from collections.abc import Collection

from rich.table import Table


def table(*columns: str, numbers: Collection[str] = (), wrapped: Collection[str] = ()) -> Table:
    """An empty table with these columns; of `numbers` the last digits stand below each other."""
    made = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        made.add_column(
            name, justify="right" if name in numbers else "left", no_wrap=name not in wrapped
        )
    return made
