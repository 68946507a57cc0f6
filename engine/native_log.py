"""What gRPC's core writes to stderr, as records: TLS handshakes that failed, and real trouble."""

from __future__ import annotations

import os
import re
import sys
import threading
from typing import Final

import structlog

from engine.handshakes import Handshakes

logger = structlog.get_logger()

# Severity, date, time, thread, place in the source, message.
_LINE: Final = re.compile(r"([IWEF])\d{4} [\d:.]+ +\d+ [\w.]+:\d+\] (.*)")
_HANDSHAKE: Final = re.compile(
    r"Handshake failed with error .*OPENSSL_internal:([A-Z0-9_]+)(?:: ([^:]+))?"
)
# The core adds this where there is nothing to say about a certificate.
_NOTHING_TO_SAY: Final = "Invalid certificate verification context"


def collect() -> None:
    """From now on, what native code writes to stderr passes through here; Python's own does not.

    Chatter is dropped: gRPC reports every connection that ends. To be called once, before logs
    are configured.
    """
    direct = os.dup(sys.stderr.fileno())
    terminal = os.fdopen(direct, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    # A traceback on the way out must not depend on the thread below.
    sys.stderr = terminal
    threading.Thread(target=_pass_on, args=(reading,), name="native-log", daemon=True).start()


def _pass_on(reading: int) -> None:
    handshakes = Handshakes()
    with os.fdopen(reading, encoding="utf-8", errors="backslashreplace") as lines:
        for line in lines:
            found = _LINE.fullmatch(line.rstrip("\n"))
            if found is None:
                sys.stderr.write(line)
            elif (failed := handshake_in(found[2])) is not None:
                handshakes.tell(*failed)
            elif found[1] != "I":
                logger.warning("grpc", message=found[2])


def handshake_in(message: str) -> tuple[str, str | None] | None:
    """Code and detail of the handshake whose failure this tells, if it does."""
    found = _HANDSHAKE.match(message)
    if found is None:
        return None
    return found[1], None if found[2] == _NOTHING_TO_SAY else found[2]
