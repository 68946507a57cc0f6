"""The log lines of many processes, merged into one stream."""

from __future__ import annotations

import json
import os
import queue
import threading
from typing import Final, TextIO

MAX_WAITING_LINES: Final = 10_000
CLOSE_SECONDS: Final = 2.0
NAME_WIDTH: Final = 10
COLOURS: Final = (36, 33, 35, 32, 34, 31)
# Which fields of a structured record stand before the rest, and need no name.
PLAIN_FIELDS: Final = ("timestamp", "level", "event")


class MergedLog:
    """Writes lines with their source in front of them, in colour on a terminal.

    A thread of its own does the writing: a terminal that is stopped (Ctrl-S, a pager) holds up
    nobody. Lines beyond what may wait are dropped and counted.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._coloured = self._terminal and not os.environ.get("NO_COLOR")
        self._colours: dict[str, int] = {}
        self._waiting: queue.Queue[tuple[str, str] | None] = queue.Queue(MAX_WAITING_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_all, name="merged-log", daemon=True)
        self._thread.start()

    def show(self, source: str, line: str) -> None:
        """Write one line, soon; never blocks."""
        try:
            self._waiting.put_nowait((source, line))
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what is waiting, as far as the stream takes it within a short time."""
        try:
            self._waiting.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(CLOSE_SECONDS)

    def _write_all(self) -> None:
        while (item := self._waiting.get()) is not None:
            lines = [self._render(*item)]
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                lines.append(self._render("log", f"{dropped} lines dropped: the output was stuck"))
            try:
                self._stream.write("".join(lines))
                self._stream.flush()
            except (OSError, ValueError):
                # The reader is gone (`oee up | head`); the services need not care.
                continue

    def _render(self, source: str, line: str) -> str:
        prefix = f"{source:<{NAME_WIDTH}} | "
        if self._coloured:
            colour = self._colours.setdefault(source, COLOURS[len(self._colours) % len(COLOURS)])
            prefix = f"\x1b[{colour}m{prefix}\x1b[0m"
        return f"{prefix}{_readable(line) if self._terminal else line}\n"


def _readable(line: str) -> str:
    """A structured record as a line for people; any other line as it is."""
    try:
        record = json.loads(line)
        plain = [str(record.pop(field)) for field in PLAIN_FIELDS]
    except (ValueError, TypeError, AttributeError, KeyError):
        return line
    record.pop("service", None)
    return " ".join([*plain, *(f"{name}={value}" for name, value in record.items())])
