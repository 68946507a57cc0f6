"""Channels to the services that a service calls."""

from __future__ import annotations

from typing import Final

import grpc

from engine.certificates import Files
from engine.tls import ReloadingChannel

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024


OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


def open_channel(address: str, tls: Files | None = None) -> grpc.aio.Channel:
    """A channel that finds a restarted peer within a second; with TLS files, one that reloads them.

    Raises StartupError when the files are no use.
    """
    if not tls:
        return grpc.aio.insecure_channel(address, options=OPTIONS)
    return ReloadingChannel(
        tls, lambda trust: grpc.aio.secure_channel(address, trust, options=OPTIONS)
    )
