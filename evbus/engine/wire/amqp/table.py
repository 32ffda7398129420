"""Read the field table of an AMQP message as text, and what is no text as it is as well.

Section 4.2.5.5, and RabbitMQ's errata to it.

What another program put there comes through the broker as it is. So nothing in it may be slow, endless or
fatal, and of what nests deep only the outer levels are read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from evbus.engine.wire.base.crossing import HISTORY
from evbus.types import Native

__all__ = ["DEEPEST", "read_table"]

#: Levels of tables and arrays that are read; what is below is null.
DEEPEST = 16

_SIZE = struct.Struct(">I")
_STRING, _ARRAY, _TABLE = ord("S"), ord("A"), ord("F")
#: Tag, and how its value is packed. A timestamp (T) stays the number of seconds that it is.
_NUMBERS = {
    ord(tag): struct.Struct(f">{code}") for tag, code in zip("tbBsuIilLfdT", "?bBhHiIqqfdQ", strict=True)
}
_DECIMAL = struct.Struct(">Bi")
_TOO_LONG = "a length in the table of headers reaches beyond its end"
_WITHIN_NAME = "the table of headers ends within a name"


def read_table(data: bytes, position: int) -> tuple[dict[str, str], dict[str, Native], int | None, int]:
    """Return the table at ``position``.

    That is its entries as text; those that were no text, as they came, without what brokers note; its
    ``x-delivery-count``, None if it has none; and where it ends. Arrays and tables become JSON, in which
    bytes are Base64.

    :raises ValueError: it is malformed.
    :raises struct.error: the same.
    """
    start = position + 4
    stop = start + _size(data, position, len(data))
    found: dict[str, str] = {}
    native: dict[str, Native] = {}
    count = None
    position = start
    while position < stop:
        # Without the functions below: most entries are text, and most messages have some.
        begin = position + 1 + data[position]
        if begin >= stop:
            raise ValueError(_WITHIN_NAME)
        key = data[position + 1 : begin].decode("utf-8", "replace")
        value: Any
        if data[begin] == _STRING:
            position = begin + 5 + _SIZE.unpack_from(data, begin + 1)[0]
            if position > stop:
                raise ValueError(_TOO_LONG)
            raw = data[begin + 5 : position]
            try:
                found[key] = raw.decode()
                continue
            except UnicodeDecodeError:
                value = raw
        else:
            value, position = _value(data, begin, stop, DEEPEST)
        text = found[key] = _text(value)
        if not key.startswith(HISTORY):
            native[key] = Native(text, "amqp", data[begin:position])
        elif key == "x-delivery-count" and isinstance(value, int):
            count = value
    return found, native, count, stop


def _size(data: bytes, position: int, stop: int) -> int:
    size: int = _SIZE.unpack_from(data, position)[0]
    if position + 4 + size > stop:
        raise ValueError(_TOO_LONG)
    return size


def _key(data: bytes, position: int, stop: int) -> tuple[str, int]:
    end = position + 1 + data[position]
    if end >= stop:
        raise ValueError(_WITHIN_NAME)
    return data[position + 1 : end].decode("utf-8", "replace"), end


def _value(data: bytes, position: int, stop: int, deeper: int) -> tuple[Any, int]:
    """Return a value and where it ends; nowhere beyond ``stop``."""
    tag = data[position]
    position += 1
    number = _NUMBERS.get(tag)
    value: Any = None
    if number is not None:
        (value,) = number.unpack_from(data, position)
        position += number.size
    elif tag in b"SxAF":
        start = position + 4
        position = start + _size(data, position, stop)
        if tag == _STRING:
            value = data[start:position].decode("utf-8", "replace")
        elif tag == ord("x"):
            value = data[start:position]
        elif deeper:
            value = _READ[tag](data, start, position, deeper - 1)
    elif tag == ord("D"):
        scale, raw = _DECIMAL.unpack_from(data, position)
        value = Decimal(raw).scaleb(-scale)
        position += _DECIMAL.size
    elif tag not in b"V\0":
        raise ValueError(f"the table of headers holds a value of the unknown type {chr(tag)!r}")
    if position > stop:
        raise ValueError("the table of headers ends within a value")
    return value, position


def _array(data: bytes, position: int, stop: int, deeper: int) -> list[Any]:
    values = []
    while position < stop:
        value, position = _value(data, position, stop, deeper)
        values.append(value)
    return values


def _pairs(data: bytes, position: int, stop: int, deeper: int) -> dict[str, Any]:
    found = {}
    while position < stop:
        key, position = _key(data, position, stop)
        found[key], position = _value(data, position, stop, deeper)
    return found


_READ: dict[int, Callable[[bytes, int, int, int], Any]] = {_ARRAY: _array, _TABLE: _pairs}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return str(value)
    return msgspec.json.encode(value).decode()
