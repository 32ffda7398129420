"""Read JSON from outside strictly: what means two things, or takes too long to find out, is refused."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

import msgspec

from evbus.errors import InvalidPayload, PayloadTooDeep

__all__ = ["DIGITS", "MAX_DEPTH", "Number", "load", "nests_deeper"]

#: The deepest nesting of a body, in containers.
MAX_DEPTH = 64
#: The most digits of an integer: more take Python quadratic time, and ``int()`` refuses them.
DIGITS = 4300


class Number(float):
    """A number with a fraction or an exponent that knows how it was written, in ``text``.

    Its value is rounded, and infinite beyond the range of floats.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        """Return the text that was written, of which a Decimal is made that is exact."""
        return self.text


_decode = msgspec.json.Decoder().decode
_decode_exactly = msgspec.json.Decoder(float_hook=Number).decode

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


class _Allowed(NamedTuple):
    """The numbers that are accepted beside those of JSON: NaN and infinities, those that no float can be."""

    nan: bool
    huge: bool


def load(
    data: bytes,
    *,
    allow_nan: bool = False,
    exactly: bool = False,
    max_depth: int = MAX_DEPTH,
    what: str = "the body",
) -> Any:
    """Return the value of a JSON text from outside (RFC 8259).

    :param allow_nan: accept the literals ``NaN``, ``Infinity`` and ``-Infinity``.
    :param exactly: numbers with a fraction or an exponent are each a :class:`Number`, of any range.
    :param max_depth: the deepest nesting, in containers; at most :data:`MAX_DEPTH` and one more.
    :param what: what the text is called in errors.
    :raises InvalidPayload: no JSON, no UTF-8, a key twice in one object, an integer of more than 4,300
        digits, a float out of range, a lone surrogate; with the reason and the place.
    :raises PayloadTooDeep: containers nest deeper, the same on every Python.
    """
    try:
        value = (_decode_exactly if exactly else _decode)(data)
    except (ValueError, RecursionError):  # msgspec's own errors are ValueErrors
        return _read(data, _Allowed(allow_nan, exactly), max_depth, what)
    keys = _count_keys(value, max_depth, max_depth)
    # There are at least as many colons as keys in the text, and as many keys there as in the value. Where
    # the outer two are equal, no key stands twice.
    if data.count(b":") != keys and len(_KEY.findall(_ESCAPE.sub(b"", data) if 92 in data else data)) != keys:
        return _read(data, _Allowed(allow_nan, exactly), max_depth, what)
    return value


def _count_keys(value: Any, room: int, limit: int) -> int:
    """Count the keys of the objects in ``value``.

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
        raise PayloadTooDeep(limit)
    for child in children:
        if type(child) is dict or type(child) is list:
            found += _count_keys(child, room - 1, limit)
    return found


def _read(raw: bytes, allowed: _Allowed, max_depth: int, what: str) -> Any:
    """Read with the standard library what msgspec does not read, or say why it cannot be read."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as exc:
        raise InvalidPayload(f"{what} is not UTF-8: {exc.reason} at byte {exc.start}") from None
    if not text.strip():
        raise InvalidPayload(f"{what} is empty, which is no JSON")
    if text.startswith("\ufeff"):
        raise InvalidPayload(f"{what} starts with a byte order mark, which JSON does not allow")
    if nests_deeper(text, max_depth):
        raise PayloadTooDeep(max_depth)
    try:
        value = _DECODERS[allowed].decode(text)
    except json.JSONDecodeError as exc:
        _refuse(text, exc.pos, exc.msg[:1].lower() + exc.msg[1:].removesuffix(" at"), what)
    except _Suspect:
        _explain(text, allowed, what)
        raise
    if _LONE.search(text):
        _explain(text, allowed, what)
    return value


def nests_deeper(text: str, limit: int) -> bool:
    """Say whether containers nest deeper than ``limit``, without parsing and so the same on every Python."""
    if text.count("[") + text.count("{") <= limit:
        return False
    depth = 0
    for bracket in _NO_BRACKETS.sub("", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > limit:
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
    if len(digits.lstrip("-")) > DIGITS:
        raise _Suspect
    return int(digits)


def _no_constant(_name: str) -> NoReturn:
    raise _Suspect


def _decoder(allowed: _Allowed) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_unique,
        parse_float=Number if allowed.huge else _finite,
        parse_int=_integer,
        parse_constant=None if allowed.nan else _no_constant,
    )


_DECODERS = {
    allowed: _decoder(allowed)
    for allowed in (_Allowed(*both) for both in itertools.product((True, False), repeat=2))
}


def _refuse(text: str, position: int, reason: str, what: str) -> NoReturn:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    raise InvalidPayload(f"{what} is not valid JSON: {reason} at line {line} column {column}") from None


def _explain(text: str, allowed: _Allowed, what: str) -> None:
    """Refuse the first token that is to be refused. Only bad bodies pay for this search.

    Up to that token the text is known to be valid, so that brackets match and keys lie in objects.
    """
    objects: list[set[str]] = []
    for token in _TOKEN.finditer(text):
        if token["mark"]:
            # An array gets a set as well: it has no keys, but it closes like an object.
            objects.append(set()) if token["mark"] in "[{" else objects.pop()
        elif reason := _reason(token, objects, allowed):
            _refuse(text, token.start(), reason, what)


def _reason(token: re.Match[str], objects: list[set[str]], allowed: _Allowed) -> str:
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
        return "" if allowed.nan else f"{token['word']} is no JSON number"
    elif (digits := token["number"].lstrip("-")).isdecimal():
        return f"an integer of more than {DIGITS:,} digits" if len(digits) > DIGITS else ""
    elif not allowed.huge and math.isinf(float(digits)):
        return "a float out of range"
    return ""


def _is_lone(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
