"""Values as texts: in the path, the query and the headers of a request."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from msgspec import inspect

from evbus.engine.codec import json
from evbus.engine.codec.fit import alternatives
from evbus.errors import InvalidPayload, PayloadError

__all__ = ["Texts", "texts_of"]

_INTEGER = re.compile(r"[+-]?[0-9]{1,4300}")
_REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NOT_FINITE = frozenset({"nan", "inf", "-inf"})
_TRUTH = {"true": True, "false": False, "1": True, "0": False}

_LISTS = (inspect.ListType, inspect.SetType, inspect.FrozenSetType, inspect.VarTupleType)
#: Types whose values are texts in JSON, which say themselves what they are.
_WRITTEN = (
    *(inspect.DecimalType, inspect.UUIDType, inspect.DateTimeType, inspect.DateType, inspect.TimeType),
    *(inspect.TimeDeltaType, inspect.BytesType),
)
_NUMBERS = (inspect.IntType, inspect.FloatType, inspect.BoolType)
#: Types of which any text is a value.
_FREE = {inspect.AnyType, inspect.StrType}


class Texts(NamedTuple):
    """How the values of a type are texts.

    :ivar several: a value is a list, and any number of texts.
    :ivar nullable: a value may be None, which is no text at all.
    :ivar read_one: makes of a text what JSON would have: a number, a truth value, or the text.
    """

    several: bool
    nullable: bool
    read_one: Callable[[str], Any]

    def write(self, value: Any) -> list[str]:
        """Return the texts of a value: none for None and for an empty list.

        :raises PayloadError: it is none that could be a text.
        """
        if value is None:
            return []
        if not self.several:
            return [_text(value)]
        plain = json.load(json.apply(value))
        if not isinstance(plain, list):
            raise PayloadError(f"a list is wanted here, and not {type(value).__name__}")
        return [_text(each) for each in plain]

    def read(self, texts: Sequence[str]) -> Any:
        """Return the plain value that texts stand for, of which there is one at least.

        :raises InvalidPayload: there are several, and a value is one.
        """
        if self.several:
            return [self.read_one(each) for each in texts]
        if len(texts) > 1:
            raise InvalidPayload(f"it came {len(texts)} times, and is one value")
        return self.read_one(texts[0])


def texts_of(kind: Any) -> Texts | None:
    """Return how the values of a type are texts, None when they are not: objects, and lists of lists.

    :raises NameError: a name in an annotation within it means nothing.
    """
    try:
        info = inspect.type_info(kind)
    except NameError:
        raise
    except Exception:  # a type may be anything, and fail in any way
        return None
    types = list(alternatives(info))
    rest = [each for each in types if not isinstance(each, inspect.NoneType)]
    several = len(rest) == 1 and isinstance(rest[0], _LISTS)
    items = list(alternatives(rest[0].item_type)) if several else rest
    read_one = _reader(items, nullable=not several and len(rest) < len(types))
    return None if read_one is None else Texts(several, len(rest) < len(types), read_one)


def _reader(types: list[Any], *, nullable: bool) -> Callable[[str], Any] | None:
    """Return what reads a text as one of some types, None when that cannot be told."""
    known = {_text(value): value for each in types for value in _values(each)}
    kinds = {type(each) for each in types} - {inspect.EnumType, inspect.LiteralType}
    if not types or not kinds <= {*_WRITTEN, *_NUMBERS, *_FREE}:
        return None
    if kinds & _FREE:
        # Of a text or a number nothing shows which one is meant.
        return None if len(kinds) > 1 or known else _as_it_is
    whole, real, truth = (each in kinds for each in _NUMBERS)

    def read(text: str) -> Any:
        if text in known:
            return known[text]
        if whole and _INTEGER.fullmatch(text):
            return int(text)
        if real and (found := _real(text)) is not None:
            return found
        if truth and text.lower() in _TRUTH:
            return _TRUTH[text.lower()]
        # How some clients write None.
        return None if nullable and not text else text

    return read


def _values(info: Any) -> list[Any]:
    """Return the values that an enumeration or a literal has."""
    if isinstance(info, inspect.EnumType):
        return [one.value for one in info.cls]
    return list(info.values) if isinstance(info, inspect.LiteralType) else []


def _real(text: str) -> float | None:
    if text in _NOT_FINITE:
        return float(text)
    found = float(text) if _REAL.fullmatch(text) else math.inf
    return None if math.isinf(found) else found


def _as_it_is(text: str) -> str:
    return text


def _text(value: Any) -> str:
    """Return the text of a single value.

    :raises PayloadError: it has none.
    """
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if kind is int:
        return str(value)
    plain = json.load(json.apply(value))
    if isinstance(plain, str):
        return plain
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if isinstance(plain, (int, float)):
        return repr(plain)
    raise PayloadError(f"a value of the type {kind.__name__} cannot stand in a text")
