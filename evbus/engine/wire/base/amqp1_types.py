"""The type system of AMQP 1.0 (part 1 of the specification), as far as messages need it.

proton's own codec makes a C call, and often an object, for every value; for a message with ten headers that
is most of what sending it costs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import UUID

__all__ = [
    "Described",
    "Malformed",
    "binary",
    "items",
    "read",
    "string",
    "symbol",
    "timestamp",
    "uint",
    "value_list",
    "value_map",
]

#: Containers within containers; deeper is refused before the interpreter's own limit is met.
DEPTH = 32

NULL = b"\x40"
TRUE = b"\x41"
FALSE = b"\x42"

# By constructor, section 1.6: the size of a fixed value and how it is unpacked.
_FIXED: dict[int, struct.Struct] = {
    0x50: struct.Struct(">B"),
    0x51: struct.Struct(">b"),
    0x52: struct.Struct(">B"),
    0x53: struct.Struct(">B"),
    0x54: struct.Struct(">b"),
    0x55: struct.Struct(">b"),
    0x60: struct.Struct(">H"),
    0x61: struct.Struct(">h"),
    0x70: struct.Struct(">I"),
    0x71: struct.Struct(">i"),
    0x72: struct.Struct(">f"),
    0x80: struct.Struct(">Q"),
    0x81: struct.Struct(">q"),
    0x82: struct.Struct(">d"),
    0x83: struct.Struct(">q"),
}
_CONSTANT: dict[int, Any] = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0, 0x45: []}
_DECIMAL = {0x74: 4, 0x84: 8, 0x94: 16}
_SIZE = struct.Struct(">I")
_PAIR = struct.Struct(">II")


class Malformed(ValueError):
    """Bytes that are no AMQP 1.0."""


class Described(NamedTuple):
    """A value with its descriptor, section 1.2."""

    descriptor: Any
    value: Any


def string(text: str) -> bytes:
    """Encode a string."""
    return _variable(0xA1, text.encode())


def symbol(text: str) -> bytes:
    """Encode a symbol, which is ASCII."""
    return _variable(0xA3, text.encode("ascii"))


def binary(data: bytes) -> bytes:
    """Encode bytes."""
    return _variable(0xA0, data)


def _variable(code: int, data: bytes) -> bytes:
    size = len(data)
    if size < 256:
        return bytes((code, size)) + data
    return bytes((code + 0x10,)) + _SIZE.pack(size) + data


def uint(number: int) -> bytes:
    """Encode an unsigned integer of 32 bits."""
    return bytes((0x52, number)) if number < 256 else b"\x70" + _SIZE.pack(number)


def timestamp(milliseconds: int) -> bytes:
    """Encode a time, in milliseconds since 1970."""
    return b"\x83" + _FIXED[0x83].pack(milliseconds)


def value_list(values: list[bytes]) -> bytes:
    """Encode a list of encoded values; the nulls at its end are left out."""
    while values and values[-1] == NULL:
        values.pop()
    return _compound(0xC0, b"".join(values), len(values))


def value_map(values: list[bytes]) -> bytes:
    """Encode a map of encoded keys and values in turn."""
    return _compound(0xC1, b"".join(values), len(values))


def _compound(code: int, content: bytes, count: int) -> bytes:
    size = len(content)
    if size < 255 and count < 256:
        return bytes((code, size + 1, count)) + content
    return bytes((code + 0x10,)) + _PAIR.pack(size + 4, count) + content


def read(data: bytes, position: int, depth: int = DEPTH) -> tuple[Any, int]:
    """Return the value that begins at a position, and the position behind it.

    :raises Malformed: there is no value, or it reaches beyond the end.
    """
    try:
        return _read(data, position, depth)
    except (IndexError, struct.error, UnicodeDecodeError) as exc:
        raise Malformed(f"a value is cut short or none: {exc}") from None


def items(data: bytes, position: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of each value in the list or map at a position; none if it is neither.

    :raises Malformed: see :func:`read`.
    """
    code = data[position]
    if code & 0xEF not in (0xC0, 0xC1):
        return
    _, stop = read(data, position)
    position += 9 if code & 0x10 else 3
    while position < stop:
        begin = position
        _, position = read(data, position)
        yield begin, position


def _read(data: bytes, position: int, depth: int) -> tuple[Any, int]:
    code = data[position]
    if code:
        return _value(data, code, position + 1, depth)
    if not depth:
        raise Malformed(f"values nest more than {DEPTH} levels deep")
    descriptor, position = _read(data, position + 1, depth - 1)
    value, position = _read(data, position, depth - 1)
    return Described(descriptor, value), position


def _value(data: bytes, code: int, position: int, depth: int) -> tuple[Any, int]:
    """Return the value of a constructor's code, whose data begins at the position."""
    if code >= 0xA0:
        return _sized(data, code, position, depth)
    if code in _CONSTANT:
        return _CONSTANT[code] if code != 0x45 else [], position
    fixed = _FIXED.get(code)
    if fixed is not None:
        return fixed.unpack_from(data, position)[0], position + fixed.size
    if code == 0x56:
        return bool(data[position]), position + 1
    size = 4 if code == 0x73 else 16 if code == 0x98 else _DECIMAL.get(code, 0)
    raw = data[position : position + size]
    if not size or len(raw) < size:
        raise Malformed(f"there is no value of the type 0x{code:02x}")
    if code == 0x73:
        return raw.decode("utf-32-be"), position + size
    # What Python has no type for, the decimals of IEEE 754, is kept as its bytes.
    return UUID(bytes=bytes(raw)) if code == 0x98 else bytes(raw), position + size


def _sized(data: bytes, code: int, position: int, depth: int) -> tuple[Any, int]:
    if code & 0x10:
        (size,) = _SIZE.unpack_from(data, position)
        begin, width = position + 4, 4
    else:
        size, begin, width = data[position], position + 1, 1
    end = begin + size
    if end > len(data):
        raise Malformed(f"a value of {size} bytes reaches beyond the end")
    kind = code & 0xEF
    if kind == 0xA1:
        return str(data[begin:end], "utf-8"), end
    if kind == 0xA3:
        return str(data[begin:end], "ascii"), end
    if kind == 0xA0:
        return bytes(data[begin:end]), end
    if kind not in (0xC0, 0xC1, 0xE0):
        raise Malformed(f"there is no type 0x{code:02x}")
    if size < width:
        raise Malformed("a container has no room for its count")
    if not depth:
        raise Malformed(f"values nest more than {DEPTH} levels deep")
    count = data[begin] if width == 1 else _SIZE.unpack_from(data, begin)[0]
    return _container(data[begin + width : end], kind, count, depth - 1), end


def _container(data: bytes, kind: int, count: int, depth: int) -> Any:
    values: list[Any] = []
    position = 0
    if kind == 0xE0:
        return _array(data, count, depth)
    # A null takes a byte, so that a count cannot ask for more memory than there are bytes.
    if count > len(data):
        raise Malformed(f"a container of {len(data)} bytes holds no {count} values")
    for _ in range(count):
        value, position = _read(data, position, depth)
        values.append(value)
    if kind == 0xC0:
        return values
    if count % 2:
        raise Malformed("a map has a key without a value")
    try:
        return dict(zip(values[::2], values[1::2], strict=True))
    except TypeError:
        raise Malformed("a map has a key that is a container") from None


def _array(data: bytes, count: int, depth: int) -> list[Any]:
    if not count:
        return []
    code, position = data[0], 1
    if not code:
        _, position = _read(data, 1, depth)
        code, position = data[position], position + 1
    if count > len(data):
        raise Malformed(f"an array of {len(data)} bytes holds no {count} values")
    values = []
    for _ in range(count):
        value, position = _value(data, code, position, depth)
        values.append(value)
    return values
