"""MessagePack: the C packers of msgpack and msgspec, msgpack's unpacker, and the rules of the JSON one."""

from __future__ import annotations

import datetime as dt
import enum
import threading
from collections.abc import Iterable
from typing import Any, NoReturn

import msgpack  # type: ignore[import-untyped]
import msgspec

from evbus.engine.codec.content import as_bytes, refuse_pickle
from evbus.engine.codec.normal import Normaliser
from evbus.engine.codec.plain import ATOMS_AND_FLOAT, is_plain
from evbus.engine.codec.skim import skim
from evbus.engine.kit.strictjson import MAX_DEPTH
from evbus.errors import InvalidPayload, PayloadTooDeep

__all__ = ["apply", "load"]

# What the packer writes as it should be, whatever the value.
_ATOMS = frozenset({str, int, bool, type(None), float, bytes, bytearray, memoryview, dt.datetime})
# Keys that can be read back: an array or a map as a key could not be hashed.
_KEYS = frozenset({str, int, bool, type(None), float, bytes})

#: The most items of a container that is read without looking at the bytes first. The unpacker makes
#: room for as many items as a header claims, at each of up to 1,024 levels, before it sees the first.
_UNCHECKED = 2048

#: The largest buffer, in bytes, that a thread's packer keeps for the next body.
_KEPT = 1 << 20

_TIMESTAMP = -1
_encode = msgspec.msgpack.Encoder().encode


def apply(data: object) -> bytes:
    """Return ``data`` as MessagePack.

    A datetime with a time zone becomes a timestamp, one without an ISO 8601 string; bytes stay bytes.
    What MessagePack has no form for is treated as :func:`evbus.engine.codec.json.apply` treats it.

    :raises SerializeError: a value or key that cannot be encoded, with its path; so are integers of
        more than 64 bits, and keys that could not be read back.
    :raises PayloadTooDeep: containers nest more than 64 levels deep.
    """
    if _plain(data, MAX_DEPTH):
        try:
            return _pack(data)
        except (ValueError, OverflowError):
            pass  # a naive datetime, a lone surrogate, a long integer: the walk below knows which, and where
    else:
        out = _records(data)
        if out is not None:
            return out
    return _pack(_MsgpackNormaliser()(data))


def _records(data: object) -> bytes | None:
    """Return what holds records as msgspec writes it in one go; None where that may not be right."""
    try:
        return _encode(data) if is_plain(data, ATOMS_AND_FLOAT, MAX_DEPTH) else None
    except MemoryError:
        raise
    except Exception:  # there is something that msgspec does not know, or a field is not there
        return None


class _Packers(threading.local):
    """One packer for each thread: making one costs as much as packing, and threads cannot share one."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.pack = msgpack.Packer(datetime=True).pack


_packers = _Packers()


def _pack(data: object) -> bytes:
    packed: bytes = _packers.pack(data)
    if len(packed) > _KEPT:
        _packers.renew()  # a packer keeps its buffer as large as it ever was
    return packed


def _plain(value: Any, room: int) -> bool:
    """Say whether the packer writes ``value`` as it should be written, in ``room`` levels at most."""
    children: Iterable[Any]
    if type(value) is list or type(value) is tuple:
        children = value
    elif isinstance(value, dict):
        for key in value:
            if type(key) not in _KEYS:
                return False
        children = dict.values(value)
    else:
        return type(value) in _ATOMS
    if room == 0:
        return False
    for child in children:  # noqa: SIM110 - all() takes twice the time
        if type(child) not in _ATOMS and not _plain(child, room - 1):
            return False
    return True


class _MsgpackNormaliser(Normaliser):
    """Rebuilds a body for MessagePack."""

    plugin = "msgpack"
    binary = True

    def integer(self, value: int) -> int:
        if not -(2**63) <= value < 2**64:
            raise self.error("an integer of more than 64 bits, which MessagePack cannot carry")
        return int.__add__(value, 0)

    def real(self, value: float) -> float:
        return float.__mul__(value, 1.0)

    def native(self, value: object) -> Any:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        if isinstance(value, (msgpack.Timestamp, msgpack.ExtType)):
            return value
        if isinstance(value, dt.datetime) and value.tzinfo is not None:
            return dt.datetime.combine(value.date(), value.timetz())
        return None

    def key(self, key: object) -> Any:
        if isinstance(key, enum.Enum):
            return self.key(key.value)
        if isinstance(key, str):
            return self.text_key(key)
        if key is None or isinstance(key, bool):
            return key
        if isinstance(key, int):
            if not -(2**63) <= key < 2**64:
                self.refuse_key(key, "an integer of more than 64 bits, which MessagePack cannot carry")
            return int.__add__(key, 0)
        if isinstance(key, float):
            return self.real(key)
        if isinstance(key, bytes):
            return bytes(key)
        plain = self.plain_key(key)
        if plain is msgspec.UNSET:
            kind = type(key).__name__
            self.refuse_key(key, f"a key is a string, bytes, a number, a date or a UUID, not {kind}")
        return plain if type(plain) is str else self.key(plain)


def load(data: bytes) -> Any:
    """Return the value that ``data`` stands for; timestamps become datetimes in UTC, to the microsecond.

    :raises InvalidPayload: broken, missing or surplus bytes, an unknown extension type, a string that
        is no UTF-8, a key that is a container.
    :raises PayloadTooDeep: containers nest more than 64 levels deep.
    :raises ContentDisallowed: the bytes are a Python pickle.
    """
    raw = data if type(data) is bytes else as_bytes(data)
    try:
        value = _unpack(raw, min(len(raw), _UNCHECKED))
    except ValueError as exc:
        if len(raw) <= _UNCHECKED or "_len(" not in str(exc):
            _refuse(raw, exc)
        skim(raw)
        try:
            value = _unpack(raw, len(raw))
        except (ValueError, TypeError, OverflowError) as again:
            _refuse(raw, again)
    except (TypeError, OverflowError) as exc:
        _refuse(raw, exc)
    if len(raw) > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise PayloadTooDeep(MAX_DEPTH)
    return value


def _unpack(raw: bytes, most: int) -> Any:
    return msgpack.unpackb(
        raw, strict_map_key=False, timestamp=3, ext_hook=_no_extension, max_array_len=most, max_map_len=most
    )


def _no_extension(code: int, data: bytes) -> NoReturn:
    raise InvalidPayload(
        f"the body is not valid MessagePack for evbus: the extension type {code} is unknown; "
        f"only timestamps ({_TIMESTAMP}) are read"
    )


def _deeper(value: Any, room: int) -> bool:
    """Say whether containers in ``value`` nest deeper than ``room``."""
    if type(value) is dict:
        value = value.values()
    elif type(value) is not list:
        return False
    if room == 0:
        return True
    for child in value:  # noqa: SIM110 - all() takes twice the time
        if (type(child) is dict or type(child) is list) and _deeper(child, room - 1):
            return True
    return False


def _refuse(raw: bytes, exc: Exception) -> NoReturn:
    """Say why the unpacker gave up, in words that do not depend on its version."""
    refuse_pickle(raw)
    if isinstance(exc, msgpack.exceptions.StackError):
        raise PayloadTooDeep(MAX_DEPTH) from None
    if isinstance(exc, msgpack.exceptions.ExtraData):
        reason = f"{len(exc.extra)} surplus bytes after the value"
    elif isinstance(exc, msgpack.exceptions.FormatError):
        reason = "it holds the byte 0xc1, which stands for nothing"
    elif isinstance(exc, UnicodeDecodeError):
        reason = f"a string is not UTF-8: {exc.reason}"
    elif isinstance(exc, TypeError):
        reason = "a key of a map is itself an array or a map"
    elif isinstance(exc, OverflowError) or "timestamp" in str(exc):
        reason = "a timestamp is out of range or has a wrong length"
    elif not raw:
        reason = "it is empty"
    else:
        reason = "it ends early, or a length in it is longer than the body"
    raise InvalidPayload(f"the body is not valid MessagePack: {reason}") from None
