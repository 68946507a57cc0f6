"""gRPC's messages in the data of a stream: a flag, a length, and the bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Final, NamedTuple

import grpc

IDENTITY: Final = b"identity"
# By what a message may be compressed, and zlib's window bits for it.
_WINDOW_BITS: Final[Mapping[bytes, int]] = {b"gzip": 31, b"deflate": 15}
ENCODINGS: Final = b",".join((IDENTITY, *_WINDOW_BITS))
_PREFIX: Final = struct.Struct(">BI")
PREFIX_BYTES: Final = _PREFIX.size


class Unreadable(Exception):
    """What arrived is no message that is taken here; ends its call with this code."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def write_message(payload: bytes) -> bytes:
    """One message, not compressed."""
    return _PREFIX.pack(0, len(payload)) + payload


class Packed(NamedTuple):
    """A message as it came: unpacked only when somebody takes it."""

    payload: bytes
    compressed: bool


class Assembly:
    """Puts one stream's messages together; holds one that is unfinished at most."""

    def __init__(self, encoding: bytes, max_bytes: int) -> None:
        """Raises Unreadable for an encoding that is not read here."""
        if encoding != IDENTITY and encoding not in _WINDOW_BITS:
            raise Unreadable(
                grpc.StatusCode.UNIMPLEMENTED,
                f"grpc-encoding {encoding[:32]!r} is not read here, only {ENCODINGS.decode()}",
            )
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._held = bytearray()

    @property
    def held_bytes(self) -> int:
        """What there is of a message that has begun and not ended."""
        return len(self._held)

    def feed(self, data: bytes) -> list[Packed]:
        """The messages that these bytes complete.

        Raises Unreadable for a message above the limit, before its bytes are held.
        """
        if not self._held and len(data) >= PREFIX_BYTES:
            compressed, length = _PREFIX.unpack_from(data)
            if length == len(data) - PREFIX_BYTES <= self._max_bytes:
                return [Packed(data[PREFIX_BYTES:], bool(compressed))]
        held = self._held
        held += data
        messages: list[Packed] = []
        start = 0
        while len(held) - start >= PREFIX_BYTES:
            compressed, length = _PREFIX.unpack_from(held, start)
            if length > self._max_bytes:
                raise self._too_large(length)
            end = start + PREFIX_BYTES + length
            if len(held) < end:
                break
            payload = bytes(memoryview(held)[start + PREFIX_BYTES : end])
            messages.append(Packed(payload, bool(compressed)))
            start = end
        del held[:start]
        return messages

    def unpack(self, message: Packed) -> bytes:
        """What was sent. Raises Unreadable for what is not what it says, or above the limit."""
        if not message.compressed:
            return message.payload
        if self._encoding == IDENTITY:
            raise Unreadable(
                grpc.StatusCode.INTERNAL, "a compressed message on a stream without grpc-encoding"
            )
        inflate = zlib.decompressobj(_WINDOW_BITS[self._encoding])
        try:
            whole = inflate.decompress(message.payload, self._max_bytes + 1)
        except zlib.error:
            raise Unreadable(
                grpc.StatusCode.INTERNAL, f"the message is not {self._encoding.decode()}"
            ) from None
        if len(whole) > self._max_bytes:
            raise self._too_large(len(whole))
        if not inflate.eof:
            raise Unreadable(grpc.StatusCode.INTERNAL, "the compressed message is cut short")
        return whole

    def _too_large(self, length: int) -> Unreadable:
        return Unreadable(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"a message of {length} bytes or more; at most {self._max_bytes} are taken",
        )
