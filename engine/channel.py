"""Channels to the services that a service calls."""

from __future__ import annotations

from typing import Final

import grpc

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel that finds a restarted peer within a second."""
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )
