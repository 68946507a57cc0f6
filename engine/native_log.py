"""What gRPC's core writes to stderr, as records: TLS handshakes that failed, and real trouble."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from typing import Final

import structlog

logger = structlog.get_logger()

# Severity, date, time, thread, place in the source, message.
_LINE: Final = re.compile(r"([IWEF])\d{4} [\d:.]+ +\d+ [\w.]+:\d+\] (.*)")
_HANDSHAKE: Final = re.compile(
    r"Handshake failed with error .*OPENSSL_internal:([A-Z0-9_]+)(?:: ([^:]+))?"
)
# The core adds this where there is nothing to say about a certificate.
_NOTHING_TO_SAY: Final = "Invalid certificate verification context"
_MEANINGS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client sent no certificate",
    "CERTIFICATE_VERIFY_FAILED": "the other side's certificate is not trusted here",
    "WRONG_VERSION_NUMBER": "the other side does not speak TLS",
    "HTTP_REQUEST": "the other side does not speak TLS",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the other side says that our certificate has expired",
    "TLSV1_ALERT_UNKNOWN_CA": "the other side does not trust our certificate",
    "TLSV1_ALERT_CERTIFICATE_REQUIRED": "the other side wants a certificate of ours",
}
# Whoever is refused tries again at once: one line a reason, and how often it was.
REPEAT_SECONDS: Final = 10.0


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
            elif not handshakes.tell(found[2]) and found[1] != "I":
                logger.warning("grpc", message=found[2])


class Handshakes:
    """Tells of each reason once in a while, however often it repeats."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, int]] = {}

    def tell(self, message: str) -> bool:
        """Whether the message is of a failed handshake; if so, it is dealt with."""
        found = _HANDSHAKE.match(message)
        if found is None:
            return False
        reason = found[1] if found[2] in (None, _NOTHING_TO_SAY) else f"{found[1]}: {found[2]}"
        last, untold = self._told.get(reason, (-REPEAT_SECONDS, 0))
        now = time.monotonic()
        if now - last < REPEAT_SECONDS:
            self._told[reason] = (last, untold + 1)
            return True
        self._told[reason] = (now, 0)
        logger.warning(
            "tls connection refused",
            why=_MEANINGS.get(found[1], "the TLS handshake failed"),
            reason=reason,
            **({"also_since_last_told": untold} if untold else {}),
        )
        return True
