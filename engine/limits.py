"""What one server allows a connection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a connection and of a message; a setting of every process that serves."""

    max_message_bytes: int = 4 * 1024 * 1024
    # What one connection may have under way; its further calls wait in the client.
    max_concurrent_streams: int = 4096
    # After it, a connection takes no new calls, and clients make another one: behind a load
    # balancer that is how a new gateway gets its share.
    max_connection_age_seconds: float = 1800
    # What still runs on such a connection then ends with UNAVAILABLE: watches, which resume.
    max_connection_age_grace_seconds: float = 300
    # How long a connection may be silent before a ping asks whether anybody is there.
    keepalive_seconds: float = 30
