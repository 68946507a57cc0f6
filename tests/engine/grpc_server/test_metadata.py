"""gRPC's header fields, read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.grpc_server.metadata import (
    MAX_VALUES,
    read_metadata,
    read_timeout,
    write_metadata,
    write_status,
)

KEYS = st.from_regex(r"[a-z][a-z0-9_.-]{0,20}", fullmatch=True).filter(
    lambda key: key not in ("te", "content-type", "content-length")
)
TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30).map(str.strip)


@given(
    st.lists(
        st.tuples(KEYS.filter(lambda key: not key.endswith("-bin")), TEXT)
        | st.tuples(KEYS.map(lambda key: key + "-bin"), st.binary(max_size=30)),
        max_size=5,
    )
)
def test_what_is_written_is_read(metadata: list[tuple[str, str | bytes]]) -> None:
    assert list(read_metadata(write_metadata(metadata))) == metadata


def test_only_the_callers_own_fields_are_metadata() -> None:
    fields = [
        (b":path", b"/engine.v1.OrderService/SubmitOrder"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"grpc-timeout", b"1S"),
        (b"authorization", b"Bearer secret"),
        (b"user-agent", b"grpc-go/1"),
    ]
    assert read_metadata(fields) == (
        ("authorization", "Bearer secret"),
        ("user-agent", "grpc-go/1"),
    )


def test_bytes_are_read_with_and_without_padding_and_several_in_one_field() -> None:
    fields = [(b"a-bin", b"AQ"), (b"b-bin", b"AQ=="), (b"c-bin", b"AQ,Ag==")]
    assert read_metadata(fields) == (
        ("a-bin", b"\1"),
        ("b-bin", b"\1"),
        ("c-bin", b"\1"),
        ("c-bin", b"\2"),
    )


def test_what_is_not_base64_is_named() -> None:
    with pytest.raises(ValueError, match="'token-bin' must be base64"):
        read_metadata([(b"token-bin", b"?")])


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ([("Upper", "x")], "'Upper'"),
        ([("", "x")], "''"),
        ([("line", "a\nb")], "'line'"),
        ([("end", "blank ")], "'end'"),
    ],
)
def test_what_no_field_can_hold_is_not_sent(
    metadata: list[tuple[str, str | bytes]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_metadata(metadata)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"2H", 7200), (b"3M", 180), (b"5S", 5), (b"250m", 0.25), (b"7u", 7e-6), (b"9n", 9e-9)],
)
def test_a_timeout_is_read_in_its_unit(value: bytes, seconds: float) -> None:
    assert read_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"S", b"5", b"-5S", b"1.5S", b"123456789S", b"5s"])
def test_what_is_no_timeout_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="grpc-timeout"):
        read_timeout(value)


def test_a_status_message_is_percent_encoded() -> None:
    assert write_status(3, "20 % of ½\n") == [
        (b"grpc-status", b"3"),
        (b"grpc-message", b"20 %25 of %C2%BD%0A"),
    ]
    assert write_status(0, "") == [(b"grpc-status", b"0")]


@pytest.mark.parametrize(
    ("message", "field"),
    [(" ", b"%20"), (" a", b"%20a"), ("a: ", b"a:%20"), ("  a  ", b"%20 a %20")],
)
def test_a_status_message_neither_begins_nor_ends_in_a_blank(message: str, field: bytes) -> None:
    assert write_status(3, message)[1] == (b"grpc-message", field)


def test_one_field_has_so_many_values() -> None:
    assert len(read_metadata([(b"a-bin", b"," * (MAX_VALUES - 1))])) == MAX_VALUES
    with pytest.raises(ValueError, match=f"'a-bin' must have {MAX_VALUES} values at most"):
        read_metadata([(b"a-bin", b"," * MAX_VALUES)])
