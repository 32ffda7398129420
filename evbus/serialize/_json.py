"""JSON: msgspec's C encoder and decoder, with what they leave open decided here.

The common body is encoded by one call and a look at the bytes. When they show that something may need
putting right, the body is walked; when it does, :class:`_JsonNormaliser` rebuilds it.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import math
import re
import uuid
from collections.abc import Iterable
from typing import Any, NoReturn

import msgspec

from evbus.errors import InvalidPayload, PayloadTooDeep
from evbus.serialize import _shape
from evbus.serialize._content import as_bytes, refuse_pickle
from evbus.serialize._normal import MAX_DEPTH, Normaliser

__all__ = ["apply", "load", "strict_load"]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

#: The most digits of an integer: more take Python quadratic time, and ``int()`` refuses them.
_DIGITS = 4300
_HUGE = 10**_DIGITS

# What msgspec writes as it should be, whatever the value; floats are apart because of NaN.
_ATOMS: frozenset[type] = frozenset(
    {
        *(str, int, bool, type(None), bytes, bytearray, memoryview, uuid.UUID, decimal.Decimal),
        *(dt.datetime, dt.date, dt.time, dt.timedelta),
    }
)
_ATOMS_AND_FLOAT = _ATOMS | {float}


def apply(data: object) -> bytes:
    """Return ``data`` as compact JSON in UTF-8.

    What ``json.dumps(data, default=..., allow_nan=True)`` of pop-evbus writes and reads back is written
    and reads back the same here: sets as sorted lists (by ``repr`` when they cannot be sorted), other
    iterables as lists, unknown objects as their ``repr``, NaN and infinities as ``NaN``, ``Infinity``.
    On purpose different: dates, times, UUIDs, Decimals, enums, bytes, dataclasses, attrs classes and
    Structs take msgspec's form (ISO 8601, base64, objects), pydantic models that of
    ``model_dump(mode="json")``, and mappings that are no dict become objects instead of lists of keys.

    :raises SerializeError: a value or key that cannot be encoded, with its path.
    :raises PayloadTooDeep: containers nest more than 64 levels deep.
    """
    try:
        out = _encode(data)
    except MemoryError:
        raise
    except Exception:
        return _slow(data)
    # Looking for single bytes is much cheaper than for b"null", which only NaN and None leave behind.
    null = 117 in out and 110 in out and out.find(b"null") >= 0
    # One brace and no bracket is a flat object, and so without sets. Its keys are left to look at.
    if not null and 91 not in out and type(data) is dict and out.rfind(b"{") == 0:
        for key in data:
            if type(key) is not str:
                break
        else:
            return out
    return out if _plain(data, _ATOMS if null else _ATOMS_AND_FLOAT, MAX_DEPTH) else _slow(data)


def _plain(value: Any, atoms: frozenset[type], room: int) -> bool:
    """Say whether msgspec writes ``value`` as it should be written, in ``room`` levels at most.

    :param atoms: the types of which every value is written so.
    """
    kind = type(value)
    if kind is float:
        return math.isfinite(value)
    children: Iterable[Any]
    if kind is list or kind is tuple:
        children = value
    elif isinstance(value, dict):
        for key in value:
            if type(key) is not str:
                return False
        children = dict.values(value)
    elif isinstance(value, enum.Enum):
        return _plain(value.value, atoms, room)
    elif names := getattr(kind, "__struct_fields__", None) or getattr(kind, "__dataclass_fields__", None):
        children = [getattr(value, name, None) for name in names]
    else:
        return kind in atoms
    if room == 0:
        return False
    for child in children:  # noqa: SIM110 - all() takes twice the time
        if type(child) not in atoms and not _plain(child, atoms, room - 1):
            return False
    return True


def _slow(data: object) -> bytes:
    normaliser = _JsonNormaliser()
    built = normaliser(data)
    if normaliser.special:
        return json.dumps(built, ensure_ascii=False, separators=(",", ":")).encode()
    return _encode(built)


class _JsonNormaliser(Normaliser):
    """Rebuilds a body for JSON; ``special`` says that it holds NaN or an infinity."""

    plugin = "json"
    special = False

    def integer(self, value: int) -> int:
        if abs(value) >= _HUGE:
            raise self.error(f"an integer of more than {_DIGITS:,} digits, which no reader takes")
        return int.__add__(value, 0)

    def real(self, value: float) -> float:
        if not math.isfinite(value):
            self.special = True
        return float.__mul__(value, 1.0)

    def key(self, key: object) -> str:
        if isinstance(key, enum.Enum):
            return self.key(key.value)
        if isinstance(key, str):
            return self.text_key(key)
        if key is None or isinstance(key, (bool, float)):
            return json.dumps(key)
        if isinstance(key, int):
            if abs(key) >= _HUGE:
                raise self.error(f"a key that is an integer of more than {_DIGITS:,} digits")
            return int.__repr__(key)
        text = self._run("reading a key", lambda: _shape.as_text(key))
        if text is None:
            self.refuse_key(key, f"a key is a string, a number, a date or a UUID, not {type(key).__name__}")
        return text


# -- reading -----------------------------------------------------------------------------------

# A key is a string with a colon behind it. Once escapes are taken out, quotes alternate, so that no key
# is missed; a string that begins with a colon is taken for one, which costs time and nothing else.
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_KEY = re.compile(rb'"[ \t\r\n]*:')

# Strings that never end match too, so that the search does not start anew at each of their characters.
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NO_BRACKETS = re.compile(r"[^\[\]{}]+")
_LONE = re.compile(r"\\u[dD][89a-fA-F]")
_TOKEN = re.compile(
    r'(?P<text>"[^"\\]*(?:\\.[^"\\]*)*")(?P<colon>[ \t\r\n]*:)?|(?P<mark>[\[\]{}])'
    r"|(?P<word>-?Infinity|NaN)|(?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)",
    re.DOTALL,
)


class _Suspect(Exception):
    """Something that the standard library would accept."""


def load(data: bytes) -> Any:
    """Return the value of a JSON text; the literals ``NaN``, ``Infinity`` and ``-Infinity`` are accepted.

    They are because :func:`apply` writes them; :func:`strict_load` refuses them.

    :raises InvalidPayload: no JSON (RFC 8259), no UTF-8, a key twice in one object, an integer of more
        than 4,300 digits, a float out of range, a lone surrogate; with the reason and the place.
    :raises PayloadTooDeep: containers nest more than 64 levels deep.
    :raises ContentDisallowed: the bytes are a Python pickle.
    """
    return _load(data, allow_nan=True)


def strict_load(data: bytes) -> Any:
    """Return the value of a JSON text from outside: as :func:`load`, but NaN and infinities are refused."""
    return _load(data, allow_nan=False)


def _load(data: bytes, *, allow_nan: bool) -> Any:
    raw = data if type(data) is bytes else as_bytes(data)
    try:
        value = _decode(raw)
    except (ValueError, RecursionError):  # msgspec's own errors are ValueErrors
        return _read(raw, allow_nan=allow_nan)
    keys = _count_keys(value, MAX_DEPTH)
    # There are at least as many colons as keys in the text, and as many keys there as in the value. Where
    # the outer two are equal, no key stands twice.
    if raw.count(b":") != keys and len(_KEY.findall(_ESCAPE.sub(b"", raw) if 92 in raw else raw)) != keys:
        return _read(raw, allow_nan=allow_nan)
    return value


def _count_keys(value: Any, room: int) -> int:
    """Return how many keys the objects in ``value`` have.

    :raises PayloadTooDeep: containers nest deeper than ``room``.
    """
    children: Iterable[Any]
    if type(value) is dict:
        found, children = len(value), value.values()
    elif type(value) is list:
        found, children = 0, value
    else:
        return 0
    if room == 0:
        raise PayloadTooDeep(MAX_DEPTH)
    for child in children:
        if type(child) is dict or type(child) is list:
            found += _count_keys(child, room - 1)
    return found


def _read(raw: bytes, *, allow_nan: bool) -> Any:
    """Read with the standard library what msgspec does not read, or say why it cannot be read."""
    refuse_pickle(raw)
    try:
        text = raw.decode()
    except UnicodeDecodeError as exc:
        raise InvalidPayload(f"the body is not UTF-8: {exc.reason} at byte {exc.start}") from None
    if not text.strip():
        raise InvalidPayload("the body is empty, which is no JSON")
    if text.startswith("\ufeff"):
        raise InvalidPayload("the body starts with a byte order mark, which JSON does not allow")
    if _too_deep(text):
        raise PayloadTooDeep(MAX_DEPTH)
    try:
        value = _DECODERS[allow_nan].decode(text)
    except json.JSONDecodeError as exc:
        _refuse(text, exc.pos, exc.msg[:1].lower() + exc.msg[1:].removesuffix(" at"))
    except _Suspect:
        _explain(text, allow_nan=allow_nan)
        raise
    if _LONE.search(text):
        _explain(text, allow_nan=allow_nan)
    return value


def _too_deep(text: str) -> bool:
    """Say whether containers nest too deep, without parsing and so the same on every Python."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for bracket in _NO_BRACKETS.sub("", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) != len(pairs):
        raise _Suspect
    return built


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _Suspect
    return number


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _DIGITS:
        raise _Suspect
    return int(digits)


def _no_constant(_name: str) -> NoReturn:
    raise _Suspect


def _decoder(**options: Any) -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_int=_integer, **options)


_DECODERS = {True: _decoder(), False: _decoder(parse_constant=_no_constant)}


def _refuse(text: str, position: int, reason: str) -> NoReturn:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    raise InvalidPayload(f"the body is not valid JSON: {reason} at line {line} column {column}") from None


def _explain(text: str, *, allow_nan: bool) -> None:
    """Refuse the first token that is to be refused. Only bad bodies pay for this search.

    Up to that token the text is known to be valid, so that brackets match and keys lie in objects.
    """
    objects: list[set[str]] = []
    for token in _TOKEN.finditer(text):
        if token["mark"]:
            # An array gets a set as well: it has no keys, but it closes like an object.
            objects.append(set()) if token["mark"] in "[{" else objects.pop()
        elif reason := _reason(token, objects, allow_nan=allow_nan):
            _refuse(text, token.start(), reason)


def _reason(token: re.Match[str], objects: list[set[str]], *, allow_nan: bool) -> str:
    """Say why a token is refused; ``""`` when it is not."""
    if token["text"]:
        text = json.loads(token["text"])
        if not text.isascii() and _is_lone(text):
            return "a string with a lone surrogate (half of a pair of \\u escapes)"
        if token["colon"]:
            if text in objects[-1]:
                return f"the key {text!a:.80} stands twice in one object"
            objects[-1].add(text)
    elif token["word"]:
        return "" if allow_nan else f"{token['word']} is no JSON number"
    elif (digits := token["number"].lstrip("-")).isdecimal():
        return f"an integer of more than {_DIGITS:,} digits" if len(digits) > _DIGITS else ""
    elif math.isinf(float(digits)):
        return "a float out of range"
    return ""


def _is_lone(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
