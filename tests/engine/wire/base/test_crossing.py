"""Values between AMQP 0-9-1 and AMQP 1.0: the types are checked with pamqp and proton."""

from __future__ import annotations

import datetime as dt
import struct
import uuid
from typing import Any

import proton
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import decode

from evbus.engine.wire.amqp1.decode import decode as decode_message
from evbus.engine.wire.base.crossing import as_field, as_value, without_frame
from evbus.types import Native, SharedNativeHeaders

TIME = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
MILLISECONDS = int(TIME.timestamp()) * 1000


def of_proton(value: Any) -> Native:
    """Return a value as it comes with a message of proton."""
    message = proton.Message(properties={"a": value})
    headers = decode_message(bytes(message.encode())).headers
    assert isinstance(headers, SharedNativeHeaders)
    return headers.native["a"]


def by_proton(encoded: bytes) -> Any:
    """Return what proton reads of an encoded value."""
    pair = b"\xa1\x01a" + encoded
    raw = b"\0\x53\x74\xd1" + struct.pack(">II", len(pair) + 4, 2) + pair
    message = proton.Message()
    message.decode(raw)
    assert message.properties is not None
    found = message.properties["a"]
    return bytes(found) if isinstance(found, memoryview) else found


@pytest.mark.parametrize(
    ("value", "tag", "found"),
    [
        (True, b"t", True),
        (False, b"t", False),
        (proton.byte(-3), b"b", -3),
        (proton.ubyte(200), b"B", 200),
        (proton.short(-300), b"s", -300),
        (proton.ushort(60_000), b"u", 60_000),
        (proton.int32(5), b"I", 5),
        (proton.int32(-70_000), b"I", -70_000),
        (proton.uint(0), b"i", 0),
        (proton.uint(7), b"i", 7),
        (proton.uint(4_000_000_000), b"i", 4_000_000_000),
        (7, b"l", 7),
        (-(2**40), b"l", -(2**40)),
        (proton.ulong(0), b"l", 0),
        (proton.ulong(7), b"l", 7),
        (proton.ulong(2**63 - 1), b"l", 2**63 - 1),
        (proton.float32(1.5), b"f", 1.5),
        (0.1, b"d", 0.1),
        (proton.timestamp(MILLISECONDS + 678), b"T", TIME),
        (b"\xff\0", b"x", b"\xff\0"),
        (None, b"V", None),
        ([1, "a", [None]], b"A", [1, "a", [None]]),
        ({"a": {"b": True}}, b"F", {"a": {"b": True}}),
    ],
)
def test_a_value_of_amqp_1_is_a_field_of_the_same_type(value: Any, tag: bytes, found: Any) -> None:
    field = as_field(of_proton(value))
    assert field is not None
    assert field[:1] == tag
    assert decode.embedded_value(field) == (len(field), found)


@pytest.mark.parametrize(
    "value",
    [
        proton.ulong(2**63),
        proton.timestamp(-1),
        uuid.uuid4(),
        [uuid.uuid4()],
        {"a": proton.ulong(2**64 - 1)},
        {1: "a"},
        {"n" * 256: 1},
    ],
)
def test_a_value_that_has_no_such_type_in_0_9_1_has_no_field(value: Any) -> None:
    found = as_field(of_proton(value))
    assert found is None or found[:1] == b"S"


@pytest.mark.parametrize(
    ("data", "found", "kind"),
    [
        (b"t\x01", True, bool),
        (b"b\xfd", -3, proton.byte),
        (b"B\xc8", 200, proton.ubyte),
        (b"s\xfe\xd4", -300, proton.short),
        (b"u\xea\x60", 60_000, proton.ushort),
        (b"I\0\0\0\x05", 5, proton.int32),
        (b"i\xff\xff\xff\xff", 2**32 - 1, proton.uint),
        (b"l" + b"\xff" * 8, -1, int),
        (b"L" + b"\xff" * 8, -1, int),
        (b"f" + struct.pack(">f", 1.5), 1.5, proton.float32),
        (b"d" + struct.pack(">d", 0.1), 0.1, float),
        (b"T" + struct.pack(">Q", MILLISECONDS // 1000), MILLISECONDS, proton.timestamp),
        (b"x\0\0\0\x02\xff\0", b"\xff\0", bytes),
        (b"S\0\0\0\x01\xff", b"\xff", bytes),
        (b"V", None, type(None)),
    ],
)
def test_a_field_is_a_value_of_amqp_1_of_the_same_type(data: bytes, found: Any, kind: type) -> None:
    encoded = as_value(Native("", "amqp", data))
    assert encoded is not None
    assert by_proton(encoded) == found
    assert isinstance(by_proton(encoded), kind)


@pytest.mark.parametrize(
    "data",
    [
        b"D\x02" + struct.pack(">i", 125),
        b"A\0\0\0\0",
        b"F\0\0\0\0",
        b"T" + b"\xff" * 8,
    ],
)
def test_a_field_that_no_application_property_can_be_has_no_value(data: bytes) -> None:
    assert as_value(Native("", "amqp", data)) is None


@given(
    st.recursive(
        st.one_of(
            st.booleans(),
            st.none(),
            st.integers(-(2**63), 2**63 - 1),
            st.binary(),
            st.floats(allow_nan=False),
        ),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
        max_leaves=8,
    )
)
def test_what_comes_from_amqp_1_is_read_as_it_was(value: Any) -> None:
    field = as_field(of_proton(value))
    assert field is not None
    assert decode.embedded_value(field) == (len(field), value)


def test_each_form_is_kept_as_it_is_where_it_came_from() -> None:
    raw = Native("?", "amqp", b"D\x02\0\0\0\x01")
    assert as_field(raw) == raw.data
    raw = of_proton(uuid.uuid4())
    assert as_value(raw) == raw.data


def test_the_length_and_the_receipt_of_a_stomp_frame_are_no_headers() -> None:
    sent = {"content-length": "8", "receipt": "3", "a": "b"}
    without_frame(sent)
    assert sent == {"a": "b"}
    for others in ({"receipt": "R-17"}, {"content-length": "long", "receipt": "R-17"}):
        found = dict(others)
        without_frame(found)
        assert found == others
