"""Messages in the data of a stream, however they are cut."""

from __future__ import annotations

import gzip
import zlib

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.grpc_server.messages import IDENTITY, Assembly, Unreadable, write_message

LIMIT = 1_000


def read(assembly: Assembly, data: bytes) -> list[bytes]:
    """What was sent in these bytes."""
    return [assembly.unpack(message) for message in assembly.feed(data)]


def compressed(payload: bytes) -> bytes:
    return b"\x01" + len(payload).to_bytes(4, "big") + payload


@given(
    st.lists(st.binary(max_size=LIMIT), max_size=5),
    st.lists(st.integers(1, 400), min_size=1, max_size=30),
)
def test_messages_are_the_same_however_the_data_are_cut(
    messages: list[bytes], cuts: list[int]
) -> None:
    sent = b"".join(map(write_message, messages))
    assembly = Assembly(IDENTITY, LIMIT)
    found: list[bytes] = []
    for cut in [*cuts, len(sent)]:
        found += read(assembly, sent[:cut])
        sent = sent[cut:]
    assert found == messages
    assert assembly.held_bytes == 0


def test_a_message_that_has_begun_is_unfinished() -> None:
    assembly = Assembly(IDENTITY, LIMIT)
    cut = write_message(b"cut")[:-1]
    assert read(assembly, write_message(b"whole") + cut) == [b"whole"]
    assert assembly.held_bytes == len(cut)


@pytest.mark.parametrize(
    ("encoding", "compress"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)]
)
def test_compressed_messages_are_read(encoding: bytes, compress: object) -> None:
    assembly = Assembly(encoding, LIMIT)
    assert callable(compress)
    data = compressed(compress(b"small")) + write_message(b"plain")
    assert read(assembly, data) == [b"small", b"plain"]


def unreadable(assembly: Assembly, data: bytes) -> grpc.StatusCode:
    with pytest.raises(Unreadable) as caught:
        read(assembly, data)
    return caught.value.code


def test_the_largest_message_is_taken_and_a_larger_one_refused_before_it_is_held() -> None:
    assembly = Assembly(IDENTITY, LIMIT)
    assert read(assembly, write_message(bytes(LIMIT))) == [bytes(LIMIT)]
    too_large = write_message(bytes(LIMIT + 1))
    assert unreadable(assembly, too_large[:5]) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert unreadable(Assembly(IDENTITY, LIMIT), too_large) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_message_that_unpacks_to_more_than_the_limit_is_refused() -> None:
    largest = compressed(gzip.compress(bytes(LIMIT)))
    assert read(Assembly(b"gzip", LIMIT), largest) == [bytes(LIMIT)]
    bomb = compressed(gzip.compress(bytes(LIMIT + 1)))
    assert unreadable(Assembly(b"gzip", LIMIT), bomb) is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("encoding", "payload"),
    [(IDENTITY, b"x"), (b"gzip", b"x"), (b"gzip", gzip.compress(b"whole")[:-9])],
    ids=["no grpc-encoding", "no gzip", "cut short"],
)
def test_what_is_not_what_it_says_is_refused(encoding: bytes, payload: bytes) -> None:
    refused = unreadable(Assembly(encoding, LIMIT), compressed(payload))
    assert refused is grpc.StatusCode.INTERNAL


def test_an_encoding_that_is_not_read_is_named_with_those_that_are() -> None:
    with pytest.raises(Unreadable, match=r"zstd.*identity,gzip,deflate") as caught:
        Assembly(b"zstd", LIMIT)
    assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED
