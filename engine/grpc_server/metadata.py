"""What gRPC writes into HTTP/2's header fields, and reads from them.

After "gRPC over HTTP2", doc/PROTOCOL-HTTP2.md of github.com/grpc/grpc.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes

import grpc

Metadata = grpc.aio.Metadata | Sequence[tuple[str, str | bytes]]
Field = tuple[bytes, bytes]

# Of the request's fields, those that are the protocols' and no metadata of the caller's.
_OURS: Final = frozenset(
    {
        b"te",
        b"content-type",
        b"content-length",
        b"grpc-timeout",
        b"grpc-encoding",
        b"grpc-accept-encoding",
    }
)
# Of one key in one field: each is a few bytes to send and a hundred to keep.
MAX_VALUES: Final = 64
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_KEY: Final = re.compile(r"[0-9a-z_.-]+")
# Printable ASCII without the percent sign goes as it is.
_PLAIN: Final = bytes(range(0x20, 0x7F)).replace(b"%", b"")


class Metadatum(NamedTuple):
    """One of the caller's, as grpc.aio gives them."""

    key: str
    value: str | bytes


def read_metadata(fields: Iterable[Field]) -> tuple[Metadatum, ...]:
    """The caller's metadata: text, and bytes where the key ends in -bin.

    Raises ValueError, naming the key, for bytes that are not base64.
    """
    found: list[Metadatum] = []
    for name, value in fields:
        if name[0] == 0x3A or name in _OURS:  # a colon: a field of HTTP/2's own
            continue
        key = name.decode("latin-1")
        if key.endswith("-bin"):
            if value.count(b",") >= MAX_VALUES:
                raise ValueError(f"metadata {key!r} must have {MAX_VALUES} values at most")
            found += [Metadatum(key, _from_base64(key, one)) for one in value.split(b",")]
        else:
            found.append(Metadatum(key, _text(value)))
    return tuple(found)


def write_metadata(metadata: Metadata) -> list[Field]:
    """The fields of it; raises ValueError, naming the key, for what cannot be sent."""
    return [_field(key, value) for key, value in metadata]


def read_timeout(value: bytes) -> float:
    """Seconds of a grpc-timeout; raises ValueError for anything else."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise ValueError("grpc-timeout must be up to 8 digits and one of H, M, S, m, u, n")
    return int(match[1]) * _UNITS[match[2]]


def write_status(code: int, message: str, metadata: Metadata = ()) -> list[Field]:
    """The trailers that end a call."""
    fields = [(b"grpc-status", b"%d" % code)]
    if message:
        fields.append((b"grpc-message", _encoded(message)))
    return fields + write_metadata(metadata)


def _encoded(message: str) -> bytes:
    encoded = quote_from_bytes(message.encode(), _PLAIN).encode()
    # A field neither begins nor ends in a blank (RFC 9113, section 8.2.1).
    if encoded.startswith(b" "):
        encoded = b"%20" + encoded[1:]
    return encoded[:-1] + b"%20" if encoded.endswith(b" ") else encoded


def _field(key: str, value: str | bytes) -> Field:
    if not _KEY.fullmatch(key):
        raise ValueError(f"metadata key {key!r}: lower-case letters, digits, '_', '.', '-' only")
    if key.endswith("-bin"):
        raw = value.encode() if isinstance(value, str) else value
        return key.encode(), base64.b64encode(raw).rstrip(b"=")
    raw = value.encode("ascii") if isinstance(value, str) else value
    if not all(0x20 <= byte < 0x7F for byte in raw) or raw != raw.strip():
        raise ValueError(
            f"metadata {key!r}: printable ASCII without a blank at either end, or a key in -bin"
        )
    return key.encode(), raw


def _from_base64(key: str, value: bytes) -> bytes:
    value = value.strip()
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        raise ValueError(f"metadata {key!r} must be base64") from None


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
