"""Translates a message's values between AMQP 0-9-1, AMQP 1.0 and STOMP.

Sections named here are those of AMQP 1.0; a *field* is a value of a table of AMQP 0-9-1 (4.2.5.5 there).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from evbus.engine.wire.base.amqp1_types import binary, items, read, timestamp
from evbus.types import Native

__all__ = ["HISTORY", "as_field", "as_value", "without_frame"]

# What brokers wrote about a former life. Sent again it would be taken for a broker's own notes.
HISTORY = (
    "x-death",
    "x-first-death-",
    "x-last-death-",
    "x-delivery-count",
    "x-acquired-count",
    "x-stream-offset",
)

#: Numbers, by constructor (section 1.6): tag and packing of the field of the same type.
_NUMBERS = {
    code: (tag.encode(), struct.Struct(f">{packed}"))
    for code, tag, packed in (
        (0x50, "B", "B"),
        (0x51, "b", "b"),
        (0x60, "u", "H"),
        (0x61, "s", "h"),
        (0x70, "i", "I"),
        (0x52, "i", "I"),
        (0x43, "i", "I"),
        (0x71, "I", "i"),
        (0x54, "I", "i"),
        (0x81, "l", "q"),
        (0x55, "l", "q"),
        # There is no unsigned one of 64 bits.
        (0x80, "l", "q"),
        (0x53, "l", "q"),
        (0x44, "l", "q"),
        (0x72, "f", "f"),
        (0x82, "d", "d"),
        (0x41, "t", "?"),
        (0x42, "t", "?"),
        (0x56, "t", "?"),
    )
}
#: Fields whose bytes are those of a value of AMQP 1.0, by tag: its constructor.
_ALIKE = {
    ord(tag): bytes((code,))
    for tag, code in zip(
        "tbBsuIilLfd", (0x56, 0x51, 0x50, 0x61, 0x60, 0x71, 0x70, 0x81, 0x81, 0x72, 0x82), strict=True
    )
}
_SIZE = struct.Struct(">I")
_SECONDS = struct.Struct(">Q")
#: The most seconds whose milliseconds have 63 bits.
_LAST = 2**63 // 1000


def without_frame(headers: dict[str, str]) -> None:
    """Take off what came from a STOMP frame: RabbitMQ keeps its length and receipt as headers."""
    if headers.get("content-length", "").isdecimal():
        del headers["content-length"]
        headers.pop("receipt", None)


def as_field(native: Native) -> bytes | None:
    """Return a value as a field, None when AMQP 0-9-1 has no such type."""
    return native.data if native.form == "amqp" else _field(native.data, 0)


def as_value(native: Native) -> bytes | None:
    """Return a value as AMQP 1.0 encodes it; None when an application property cannot be of its type."""
    data = native.data
    if native.form == "amqp1":
        return data
    tag = data[0]
    if tag in _ALIKE:
        return _ALIKE[tag] + data[1:]
    if tag in b"Sx":
        return binary(data[5:])
    if tag in b"V\0":
        return b"\x40"
    if tag == ord("T"):
        (seconds,) = _SECONDS.unpack_from(data, 1)
        return timestamp(seconds * 1000) if seconds < _LAST else None
    return None


def _field(data: bytes, position: int) -> bytes | None:
    code = data[position]
    value, _ = read(data, position)
    number = _NUMBERS.get(code)
    if number is not None:
        return number[0] + number[1].pack(value) if code != 0x80 or value < 2**63 else None
    if code == 0x83:
        return b"T" + _SECONDS.pack(value // 1000) if value >= 0 else None
    if isinstance(value, str):
        return b"S" + _sized(value.encode())
    if code & 0xEF == 0xA0:
        return b"x" + _sized(value)
    if code == 0x40:
        return b"V"
    container = _CONTAINERS.get(code & 0xEF)
    if container is None and code != 0x45:
        return None
    tag, parts = (b"F", _table) if container is _table else (b"A", _array)
    found = list(parts(data, position))
    fields = [field for field in found if field is not None]
    return tag + _sized(b"".join(fields)) if len(fields) == len(found) else None


def _array(data: bytes, position: int) -> Iterator[bytes | None]:
    for begin, _ in items(data, position):
        yield _field(data, begin)


def _table(data: bytes, position: int) -> Iterator[bytes | None]:
    found = iter(items(data, position))
    for begin, _ in found:
        name: Any = read(data, begin)[0]
        key = name.encode() if isinstance(name, str) else b""
        begin, _ = next(found)
        yield bytes((len(key),)) + key if isinstance(name, str) and len(key) < 256 else None
        yield _field(data, begin)


_CONTAINERS: dict[int, Callable[[bytes, int], Iterator[bytes | None]]] = {0xC0: _array, 0xC1: _table}


def _sized(data: bytes) -> bytes:
    return _SIZE.pack(len(data)) + data
