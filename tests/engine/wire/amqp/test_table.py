"""Tables of headers that other programs wrote."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import struct
from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from pamqp import encode

from evbus.engine.wire.amqp.table import DEEPEST, read_table


def read(data: bytes) -> dict[str, str]:
    headers, _, _, stop = read_table(data, 0)
    assert stop == len(data)
    return headers


def sized(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def entry(value: bytes) -> bytes:
    """Return a table with one entry, a."""
    return sized(b"\x01a" + value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"t\x01", "true"),
        (b"t\x00", "false"),
        (b"b\xff", "-1"),
        (b"B\xff", "255"),
        (b"s\xff\xfe", "-2"),
        (b"u\xff\xfe", "65534"),
        (b"I\xff\xff\xff\xfe", "-2"),
        (b"i\xff\xff\xff\xfe", "4294967294"),
        (b"l" + b"\xff" * 8, "-1"),
        (b"L" + b"\xff" * 8, "-1"),
        (b"f" + struct.pack(">f", 1.5), "1.5"),
        (b"d" + struct.pack(">d", 0.1), "0.1"),
        (b"D\x02" + struct.pack(">i", -150), "-1.50"),
        (b"S" + sized("grün".encode()), "grün"),
        (b"S" + sized(b"\xff"), "\ufffd"),
        (b"x" + sized(b"\x00\xff"), "\x00\ufffd"),
        (b"T" + struct.pack(">Q", 1_700_000_000), "1700000000"),
        (b"T" + b"\xff" * 8, "18446744073709551615"),
        (b"V", "null"),
        (b"\0", "null"),
        (b"A" + sized(b"t\x01" + b"V" + b"b\x02"), "[true,null,2]"),
        (b"A" + sized(b"S" + sized(b"a") + b"x" + sized(b"\xff\xfe")), '["a","//4="]'),
        (
            b"A" + sized(b"d" + struct.pack(">d", float("nan")) + b"D\x01" + struct.pack(">i", 5)),
            '[null,"0.5"]',
        ),
        (b"F" + entry(b"F" + entry(b"A" + sized(b""))), '{"a":{"a":[]}}'),
    ],
)
def test_every_type_becomes_text(value: bytes, text: str) -> None:
    assert read(entry(value)) == {"a": text}


KEYS = st.text(st.characters(min_codepoint=32, max_codepoint=0x3000), max_size=20)
VALUES = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        st.none(),
        st.decimals(-1000, 1000, places=3),
        st.integers(0, 2**32 - 1).map(lambda seconds: dt.datetime.fromtimestamp(seconds, dt.UTC)),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_what_pamqp_writes_is_read(table: dict[str, Any]) -> None:
    try:
        data = encode.field_table(table)
    except struct.error:
        reject()  # pamqp 3 cannot write small negative numbers
    found = read(data)
    assert set(found) == set(table)
    for name, value in table.items():
        if isinstance(value, str):
            assert found[name] == value
        elif isinstance(value, dt.datetime):
            assert found[name] == str(int(value.timestamp()))
        elif isinstance(value, decimal.Decimal):
            assert decimal.Decimal(found[name]) == value
        else:
            assert json.loads(found[name]) == plain(value)


def plain(value: Any) -> Any:
    """Return what JSON makes of a nested value."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    if isinstance(value, dt.datetime):
        return int(value.timestamp())
    return str(value) if isinstance(value, decimal.Decimal) else value


@pytest.mark.parametrize("tag", [b"A", b"F"])
def test_of_what_nests_deep_the_outer_levels_are_read(tag: bytes) -> None:
    value = b"V"
    for _ in range(DEEPEST + 10_000):
        value = b"A" + sized(value) if tag == b"A" else b"F" + entry(value)
    text = read(entry(value))["a"]
    assert text.count("null") == 1
    assert text.count("[") + text.count("{") == DEEPEST


@given(st.binary(max_size=80))
def test_what_is_no_table_is_told_soon(data: bytes) -> None:
    for whole in (data, sized(data), entry(data), entry(b"A" + sized(data)), entry(b"F" + sized(data))):
        try:
            headers, native, _, stop = read_table(whole, 0)
        except (ValueError, IndexError, struct.error):
            continue
        assert stop <= len(whole)
        assert all(isinstance(text, str) for pair in headers.items() for text in pair)
        assert all(each.text == headers[name] for name, each in native.items())


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00\x05",
        entry(b""),
        sized(b"\x05a"),
        entry(b"S\x00\x00\x00\x05x"),
        entry(b"S\xff\xff\xff\xf0"),
        entry(b"A\x00\x00\x00\x64"),
        entry(b"A" + sized(b"I\x00")) + b"\x00\x00\x00",
        entry(b"F\x00\x00\x00\x64\x01b"),
        entry(b"?"),
    ],
)
def test_a_length_that_leads_elsewhere_is_told(data: bytes) -> None:
    with pytest.raises(ValueError, match="the table of headers"):
        read_table(data, 0)
