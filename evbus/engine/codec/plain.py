"""Whether msgspec writes a value as it should be written; sets are among those that it does not."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import math
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from evbus.engine.codec.models import is_model
from evbus.engine.codec.moments import to_the_minute
from evbus.engine.codec.shape import lacking

__all__ = ["ATOMS", "ATOMS_AND_FLOAT", "Check", "check_of", "is_plain"]

# What msgspec writes as it should be, whatever the value; floats are apart because of NaN, dates with a time
# and times because of their offsets.
ATOMS: frozenset[type] = frozenset(
    {
        *(str, int, bool, type(None), bytes, bytearray, memoryview, uuid.UUID, decimal.Decimal),
        *(dt.date, dt.timedelta),
    }
)
ATOMS_AND_FLOAT = ATOMS | {float}

#: Says of a value whether msgspec writes it so, as :func:`is_plain` does.
Check = Callable[[Any, frozenset[type], int], bool]

#: The attribute of a class that keeps the class, as those that derive from it have the attribute as well, and
#: its check.
_CHECK = "__evbus_check__"
_UNKNOWN: tuple[type | None, Check | None] = (None, None)


def is_plain(value: Any, atoms: frozenset[type], room: int) -> bool:
    """Say whether msgspec writes ``value`` as it should be written, in ``room`` levels at most.

    :param atoms: the types of which every value is written so.
    :raises AttributeError: a field of an object was deleted, or never set.
    """
    kind = type(value)
    check = _CHECKS.get(kind) or check_of(kind)
    if check is not None:
        return check(value, atoms, room)
    if isinstance(value, dict):
        return _is_object(value, atoms, room)
    if isinstance(value, enum.Enum):
        return is_plain(value.value, atoms, room)
    return kind in atoms


def _are_plain(values: Iterable[Any], atoms: frozenset[type], room: int) -> bool:
    """Say whether what is one level down is written as it should be."""
    if room == 0:
        return False
    room -= 1
    last: type | None = None
    check: Check = is_plain
    for value in values:
        kind = type(value)
        # Most are texts, and lists are of one kind.
        if kind is str or kind in atoms:
            continue
        if kind is not last:
            last, check = kind, _CHECKS.get(kind) or check_of(kind) or is_plain
        if not check(value, atoms, room):
            return False
    return True


def _is_object(value: dict[Any, Any], atoms: frozenset[type], room: int) -> bool:
    for key in value:
        if type(key) is not str:
            return False
    return _are_plain(dict.values(value), atoms, room)


def _is_real(value: float, _atoms: frozenset[type], _room: int) -> bool:
    return math.isfinite(value)


def _is_moment(value: dt.datetime | dt.time, _atoms: frozenset[type], _room: int) -> bool:
    return value.tzinfo is dt.UTC or to_the_minute(value)


_CHECKS: dict[type, Check] = {
    list: _are_plain,
    tuple: _are_plain,
    dict: _is_object,
    float: _is_real,
    dt.datetime: _is_moment,
    dt.time: _is_moment,
}


def check_of(kind: Any) -> Check | None:
    """Return the check of a class with fields, None for any other."""
    owner, check = getattr(kind, _CHECK, _UNKNOWN)
    if owner is not kind:
        names = getattr(kind, "__struct_fields__", None)
        if names is None and hasattr(kind, "__dataclass_fields__"):
            names = tuple(field.name for field in dataclasses.fields(kind))
        if names is None:
            return None
        check = _check(kind, names)
        # Whatever its metaclass says to attributes.
        type.__setattr__(kind, _CHECK, (kind, check))
    return check


def _check(kind: Any, names: tuple[str, ...]) -> Check:
    if is_model(kind):
        # A dataclass of pydantic's, which msgspec does not write as pydantic does.
        return lambda value, atoms, room: False
    if not kind.__dictoffset__ or any(hasattr(getattr(kind, name, None), "__get__") for name in names):
        # Some have slots.
        return lambda value, atoms, room: _are_plain([getattr(value, name) for name in names], atoms, room)
    lacks = lacking(kind) if hasattr(kind, "__dataclass_fields__") else frozenset()
    if not lacks:
        return lambda value, atoms, room: _are_plain(value.__dict__.values(), atoms, room)

    def check(value: Any, atoms: frozenset[type], room: int) -> bool:
        own = value.__dict__
        return lacks <= own.keys() and _are_plain(own.values(), atoms, room)

    return check
