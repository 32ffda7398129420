"""Sizes and durations as people write them: ``10MB``, ``64KiB``, ``30s``, ``1.5h``."""

from __future__ import annotations

import enum
import re
import typing
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from evbus.engine.kit.redact import one_line

__all__ = ["Bytes", "Seconds", "Unit", "UnitError", "number", "with_units"]

_NUMBER = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]+)\s*", re.ASCII)
_SIZES: dict[str, int | str] = {
    "": 1,
    **{letter: 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}i": 1024**power for power, letter in enumerate("kmgt", 1)},
}
_TIMES: dict[str, int | str] = {
    "ms": "1/1000",
    **dict.fromkeys(("s", "sec"), 1),
    **dict.fromkeys(("m", "min"), 60),
    "h": 3600,
    "d": 86_400,
}


class Unit(enum.Enum):
    """The unit that the number of a key counts."""

    BYTES = "a number of bytes is right, or one with a unit such as 10MB or 64KiB"
    SECONDS = "a number of seconds is right, or one with a unit such as 500ms, 30s, 5m, 2h or 1d"


#: The type of a key that holds bytes, and of one that holds seconds, in the Struct of a plugin's profiles.
Bytes = Annotated[int, Unit.BYTES]
Seconds = Annotated[float, Unit.SECONDS]


class UnitError(ValueError):
    """A text is no size, or no duration; ``path`` leads to its key (``.retry.min``)."""

    def __init__(self, reason: str, path: str = "") -> None:
        self.reason = reason
        self.path = path
        super().__init__(reason)


def number(value: str, unit: Unit) -> int | float | str:
    """Return the number of bytes or seconds in a text with a unit; a text without a unit as it is.

    Decimal units are powers of 1,000 (``kB``, ``MB``, ``GB``, ``TB``), binary ones of 1,024 (``KiB``,
    ``MiB``, ``GiB``, ``TiB``); the case of letters means nothing.

    :raises UnitError: there is a unit, and it is none of these.
    """
    found = _NUMBER.fullmatch(value)
    if found is None:
        return value
    name = found[2].lower()
    factor = _SIZES.get(name.removesuffix("b")) if unit is Unit.BYTES else _TIMES.get(name)
    if factor is None:
        raise UnitError(f"{one_line(repr(value), 40)} has an unknown unit; {unit.value}")
    from fractions import Fraction

    exact = Fraction(found[1]) * Fraction(factor)
    if unit is Unit.SECONDS:
        return float(exact)
    if exact.denominator != 1:
        raise UnitError(f"{one_line(repr(value), 40)} is no whole number of bytes")
    return exact.numerator


def with_units(data: Any, schema: Any, path: str = "") -> Any:
    """Return ``data`` with texts of sizes and durations as numbers, where ``schema`` wants these.

    :param schema: the type of a Struct, or of one of its fields.
    :raises UnitError: a unit is unknown; with the path of the key.
    """
    parts = (schema, *typing.get_args(schema))
    if isinstance(data, str):
        # Annotated keeps what it was made of in an attribute, not among its arguments.
        unit = next(
            (mark for part in parts for mark in getattr(part, "__metadata__", ()) if isinstance(mark, Unit)),
            None,
        )
        if unit is None:
            return data
        try:
            found = number(data, unit)
        except UnitError as exc:
            raise UnitError(exc.reason, path) from None
        if isinstance(found, str) and not _takes(parts, found):
            raise UnitError(f"it is no number; {unit.value}", path)
        return found
    structs = [part for part in parts if isinstance(part, type) and issubclass(part, msgspec.Struct)]
    if isinstance(data, Mapping) and len(structs) == 1 and typing.get_origin(schema) is not dict:
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(structs[0])}
        return {
            key: with_units(value, fields[key], f"{path}.{key}") if key in fields else value
            for key, value in data.items()
        }
    return data


def _takes(parts: tuple[Any, ...], text: str) -> bool:
    """Return whether a key may have a text as its value."""
    if any(part is str or typing.get_origin(part) is typing.Literal for part in parts):
        return True
    try:
        float(text)
    except ValueError:
        return text == "null" and type(None) in parts
    return True
