"""The types of AMQP 1.0: what proton encodes is read, and what is no AMQP is refused."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import proton
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus.engine.wire.base.amqp1_types import (
    DEPTH,
    Described,
    Malformed,
    binary,
    read,
    string,
    symbol,
    uint,
    value_list,
    value_map,
)


def encoded(value: Any) -> bytes:
    """Return a value as proton encodes it."""
    data = proton.Data()
    data.put_object(value)
    return bytes(data.encode())


def decoded(raw: bytes) -> Any:
    """Return a value as proton decodes it."""
    data = proton.Data()
    assert data.decode(raw) == len(raw)
    data.next()
    found = data.get_object()
    # A view of memory that goes with `data`.
    return bytes(found) if isinstance(found, memoryview) else found


WHO = UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        2**62,
        1.5,
        "",
        "ü" * 300,
        b"\0\xff",
        b"x" * 70_000,
        [],
        [1, [2, ["three"]]],
        {},
        {"a": 1, "b": [True, {"c": None}]},
        WHO,
        [list(range(300))],
    ],
)
def test_what_proton_encodes_is_read(value: Any) -> None:
    raw = encoded(value)
    assert read(raw, 0) == (value, len(raw))


@pytest.mark.parametrize(
    ("given_", "found"),
    [
        (proton.ubyte(200), 200),
        (proton.byte(-3), -3),
        (proton.ushort(60_000), 60_000),
        (proton.short(-30_000), -30_000),
        (proton.uint(0), 0),
        (proton.uint(7), 7),
        (proton.uint(2**32 - 1), 2**32 - 1),
        (proton.int32(-5), -5),
        (proton.ulong(0), 0),
        (proton.ulong(9), 9),
        (proton.ulong(2**64 - 1), 2**64 - 1),
        (proton.float32(0.5), 0.5),
        (proton.timestamp(1_700_000_000_000), 1_700_000_000_000),
        (proton.char("€"), "€"),
        (proton.symbol("a:b"), "a:b"),
        (proton.decimal32(1), b"\0\0\0\1"),
        (proton.decimal64(1), b"\0" * 7 + b"\1"),
        (proton.decimal128(b"x" * 16), b"x" * 16),
        (proton.Array(proton.UNDESCRIBED, proton.Data.INT, 1, -2), [1, -2]),
        (proton.Array(proton.UNDESCRIBED, proton.Data.STRING, "a", "b" * 300), ["a", "b" * 300]),
        (proton.Array(proton.UNDESCRIBED, proton.Data.INT), []),
        (proton.Array(proton.symbol("d"), proton.Data.INT, 1, 2), [1, 2]),
        (proton.Described(proton.ulong(5), "x"), Described(5, "x")),
    ],
)
def test_every_type_is_read(given_: Any, found: Any) -> None:
    raw = encoded(given_)
    assert read(raw, 0) == (found, len(raw))


def test_what_is_written_is_read_by_proton() -> None:
    for text in ("", "ü", "x" * 255, "x" * 256):
        assert decoded(string(text)) == text
    assert decoded(symbol("text/plain")) == "text/plain"
    assert decoded(binary(b"\0" * 300)) == b"\0" * 300
    assert [decoded(uint(number)) for number in (0, 255, 256, 2**32 - 1)] == [0, 255, 256, 2**32 - 1]
    assert decoded(value_map([string("a"), string("b" * 300)])) == {"a": "b" * 300}
    assert decoded(value_list([uint(1), b"\x40", uint(2), b"\x40"])) == [1, None, 2]
    assert decoded(value_list([string("x" * 100)] * 300)) == ["x" * 100] * 300


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xa1\x05abc",
        b"\xb1\xff\xff\xff\xffabc",
        b"\x70\0\0",
        b"\x98short",
        b"\x73\0\0\0",
        b"\x73\xff\xff\xff\xff",
        b"\x01",
        b"\xff\0\0\0\0",
        b"\xa1\x01\xff",
        b"\xa3\x01\xff",
        b"\xc0\x00",
        b"\xc1\x02\x01\x40",
        b"\xc1\x04\x02\xc0\x00\x40",
        b"\xd0\0\0\0\x04\xff\xff\xff\xff",
        b"\xf0\0\0\0\x05\xff\xff\xff\xff\x40",
        b"\xe0\x01\x05",
        b"\0",
        b"\0\x53",
        b"\0" * 100_000,
        b"\xd0" + b"\0\0\0\x08\0\0\0\x01\xd0" * 50,
    ],
)
def test_what_is_no_value_is_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        read(raw, 0)


def test_nesting_is_read_to_a_depth_and_no_deeper() -> None:
    value: Any = 1
    for _ in range(DEPTH):
        value = [value]
    assert read(encoded(value), 0)[0] == value
    with pytest.raises(Malformed, match="nest"):
        read(encoded([value]), 0)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        _, end = read(raw, 0)
    except Malformed:
        return
    assert 0 < end <= len(raw)
