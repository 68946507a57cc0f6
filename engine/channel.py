"""Channels to the services that a service calls."""

from __future__ import annotations

from typing import Final

import grpc

from engine.certificates import Files
from engine.tls import ReloadingChannel

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024


# A peer that vanished is found in 15 s: of silence 10, and 5 for the answer to a ping. The last
# is for the pings that gRPC sends of its own with data: while one is under way, no other is sent,
# and its answer would be waited for a minute.
KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
)
OPTIONS: Final = (
    # A service asks an idle peer too: the next call should not be the one to find out.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # What a connection may take to be made: a busy server says hello late.
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


def open_channel(address: str, tls: Files | None = None) -> grpc.aio.Channel:
    """A channel that finds a restarted peer within a second; with TLS files, one that reloads them.

    Raises StartupError when the files are no use.
    """
    options = OPTIONS + KEEPALIVE
    if not tls:
        return grpc.aio.insecure_channel(address, options=options)
    return ReloadingChannel(
        tls, lambda trust: grpc.aio.secure_channel(address, trust, options=options)
    )
