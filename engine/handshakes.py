"""TLS handshakes that failed, told of in words and not too often."""

from __future__ import annotations

import ssl
import time
from typing import Final

import structlog

logger = structlog.get_logger()

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


class Handshakes:
    """Tells of each reason once in a while, however often it repeats."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, int]] = {}

    def tell(self, code: str, detail: str | None = None) -> None:
        """One has failed, for this reason of OpenSSL's."""
        reason = f"{code}: {detail}" if detail else code
        last, untold = self._told.get(reason, (-REPEAT_SECONDS, 0))
        now = time.monotonic()
        if now - last < REPEAT_SECONDS:
            self._told[reason] = (last, untold + 1)
            return
        self._told[reason] = (now, 0)
        logger.warning(
            "tls connection refused",
            why=_MEANINGS.get(code, "the TLS handshake failed"),
            reason=reason,
            **({"also_since_last_told": untold} if untold else {}),
        )

    def tell_error(self, error: ssl.SSLError) -> None:
        """One has failed with this error."""
        self.tell(error.reason or "UNKNOWN", getattr(error, "verify_message", None))
