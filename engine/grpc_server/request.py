"""What a stream asks for, read from its header fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import grpc

from engine.grpc_server.messages import ENCODINGS, IDENTITY, Assembly, Unreadable
from engine.grpc_server.metadata import (
    Field,
    Metadatum,
    read_metadata,
    read_timeout,
    write_status,
)

HEADERS: Final[list[Field]] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
# A request's header fields, counted as in RFC 9113, section 6.5.2.
MAX_METADATA_BYTES: Final = 16_384
FIELD_OVERHEAD: Final = 32
# With a message format of no name, or that of protobuf.
_CONTENT_TYPE: Final = re.compile(rb"application/grpc(\+proto)?(;.*)?")


class Method(NamedTuple):
    """One method as it is served, and what reads its requests and writes its responses."""

    name: str
    function: Callable[[Any, Any], Any]
    request_streaming: bool
    response_streaming: bool
    read: Callable[[bytes], Any] | None
    write: Callable[[Any], bytes] | None


def method_of(name: str, handler: Any) -> Method:
    """A grpc.RpcMethodHandler's method."""
    return Method(
        name,
        handler.unary_unary
        or handler.unary_stream
        or handler.stream_unary
        or handler.stream_stream,
        handler.request_streaming,
        handler.response_streaming,
        handler.request_deserializer,
        handler.response_serializer,
    )


class Request(NamedTuple):
    """A call that is about to begin."""

    method: Method
    metadata: tuple[Metadatum, ...]
    timeout_seconds: float | None
    # Of its messages, which are still to come.
    assembly: Assembly


class Refused(Exception):
    """No call begins; the stream is answered with these fields and nothing else."""

    def __init__(self, answer: list[Field]) -> None:
        super().__init__(answer)
        self.answer = answer


def read_request(
    fields: Sequence[Field], methods: Mapping[bytes, Method], max_message_bytes: int
) -> Request:
    """What these header fields ask for. Raises Refused."""
    if sum(len(name) + len(value) + FIELD_OVERHEAD for name, value in fields) > MAX_METADATA_BYTES:
        raise _refused(
            grpc.StatusCode.RESOURCE_EXHAUSTED, f"metadata of more than {MAX_METADATA_BYTES} bytes"
        )
    found = dict(fields)
    if not _CONTENT_TYPE.fullmatch(found.get(b"content-type", b"")):
        raise Refused([(b":status", b"415")])
    method = methods.get(found.get(b":path", b""))
    if method is None:
        raise _refused(grpc.StatusCode.UNIMPLEMENTED, "no such method here")
    try:
        timeout = found.get(b"grpc-timeout")
        return Request(
            method,
            read_metadata(fields),
            None if timeout is None else read_timeout(timeout),
            Assembly(found.get(b"grpc-encoding", IDENTITY), max_message_bytes),
        )
    except ValueError as error:
        raise _refused(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None
    except Unreadable as error:
        raise _refused(error.code, str(error)) from None


def _refused(code: grpc.StatusCode, message: str) -> Refused:
    return Refused(
        [
            *HEADERS,
            (b"grpc-accept-encoding", ENCODINGS),
            *write_status(code.value[0], message),
        ]
    )
