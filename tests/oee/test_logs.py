from __future__ import annotations

import io
import threading

import pytest

from oee.logs import MAX_WAITING_LINES, MergedLog

RECORD = (
    '{"event": "serving", "port": 1, "service": "gateway", "level": "info", "timestamp": "now"}'
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Stuck(io.StringIO):
    """A terminal after Ctrl-S: a write waits until somebody reads on."""

    def __init__(self) -> None:
        super().__init__()
        self.reading_on = threading.Event()

    def write(self, text: str) -> int:
        self.reading_on.wait(10)
        return super().write(text)


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_lines_stand_behind_their_source() -> None:
    stream = io.StringIO()
    log = MergedLog(stream)

    log.show("gateway", RECORD)
    log.show("dex_sim", "a slot")
    log.close()

    assert stream.getvalue() == f"gateway    | {RECORD}\ndex_sim    | a slot\n"


def test_a_terminal_gets_colours_and_records_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    log = MergedLog(stream)

    log.show("gateway", RECORD)
    log.close()

    assert stream.getvalue() == "\x1b[36mgateway    | \x1b[0mnow info serving port=1\n"


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    log = MergedLog(stream)

    log.show("gateway", "plain")
    log.close()

    assert stream.getvalue() == "gateway    | plain\n"


def test_a_stuck_reader_holds_up_nobody_and_learns_what_it_missed() -> None:
    stream = Stuck()
    log = MergedLog(stream)

    for number in range(MAX_WAITING_LINES + 100):
        log.show("gateway", str(number))
    stream.reading_on.set()
    log.close()

    assert "lines dropped" in stream.getvalue()


def test_a_reader_that_is_gone_is_no_error() -> None:
    log = MergedLog(Gone())

    log.show("gateway", "unheard")
    log.close()
