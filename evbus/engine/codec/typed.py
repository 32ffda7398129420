"""Plain values, as they come out of JSON or MessagePack, made into the types that a program declares."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import msgspec
import msgspec.inspect

from evbus.engine.codec.fit import fitted, parts
from evbus.engine.codec.models import is_model, keys_of, reads_digits, validated
from evbus.errors import InvalidPayload

# What attrs says of a number that is too small or too large.
_COMPARED = re.compile(r"^('\w+' must be [<>]=? .*?): .*?(?=$| - at `)")

__all__ = ["optional_keys", "reader", "travels", "wants_digits", "within"]


def travels(kind: Any) -> bool:
    """Return whether instances of a class can be written as plain values, and read again."""
    return isinstance(kind, type) and (
        dataclasses.is_dataclass(kind)
        or hasattr(kind, "__attrs_attrs__")
        or is_model(kind)
        or issubclass(kind, msgspec.Struct)
    )


def wants_digits(kind: Any) -> bool:
    """Return whether a type has a Decimal, and so is to be read of numbers that know how they were written.

    :raises TypeError: it is no type; :class:`NameError` when one of its annotations means nothing.
    """
    if is_model(kind):
        return reads_digits(kind)
    return any(
        isinstance(part, msgspec.inspect.DecimalType)
        or (isinstance(part, msgspec.inspect.CustomType) and is_model(part.cls) and reads_digits(part.cls))
        for part in parts(msgspec.inspect.type_info(kind))
    )


def optional_keys(kind: Any) -> frozenset[str] | None:
    """Return the keys that objects of a class may have, if they need not have any.

    None when one of them has to be there, when others mean something to the class, too, and when it has none.
    """
    if is_model(kind):
        return keys_of(kind)
    info = msgspec.inspect.type_info(kind)
    fields = getattr(info, "fields", ())
    if getattr(info, "tag", None) is not None or any(field.required for field in fields):
        return None
    return frozenset(field.encode_name for field in fields) or None


def reader(kind: Any, *, digits: bool = False) -> Callable[[Any], Any]:
    """Return a function that makes a ``kind`` of plain values.

    The function raises :class:`~evbus.errors.InvalidPayload`, which names the place and the reason, and not
    the value.

    :param kind: a type that msgspec knows, or a pydantic model; those may be within each other.
    :param digits: numbers may be each a :class:`~evbus.engine.kit.strictjson.Number`, and Decimals are made
        exactly.
    :raises TypeError: it is no such type; :class:`NameError` when one of its annotations means nothing.
    """
    if is_model(kind):
        return lambda value: _validated(kind, value)
    msgspec.json.Decoder(kind, dec_hook=within)  # here, and not with the first message
    info = msgspec.inspect.type_info(kind)
    for part in parts(info):
        if isinstance(part, msgspec.inspect.DataclassType) and is_model(part.cls):
            raise TypeError(
                f"{_name(part.cls)} is a dataclass of pydantic's, which validates itself neither in a "
                "collection nor in a class that is not pydantic's"
            )
    if digits:
        return lambda value: _converted(kind, fitted(info, value))

    def read(value: Any) -> Any:
        try:
            return msgspec.convert(value, kind, str_keys=True, dec_hook=within)
        except msgspec.ValidationError:
            return _converted(kind, fitted(info, value))

    return read


def _converted(kind: Any, value: Any) -> Any:
    try:
        return msgspec.convert(value, kind, str_keys=True, dec_hook=within)
    except msgspec.ValidationError as exc:
        raise InvalidPayload(f"this is no {_name(kind)}: {_without_value(exc)}") from None


def _without_value(problem: msgspec.ValidationError) -> str:
    """Return msgspec's message; of one by a validator of attrs the text alone, without the value in it."""
    said, cause = str(problem), problem.__cause__
    args: tuple[Any, ...] = getattr(cause, "args", ())
    if len(args) > 2 and isinstance(args[0], str) and type(args[1]).__name__ == "Attribute":
        # The text, the attribute, what it has to be, the value.
        value = repr(args[-1])
        text = args[0].partition(f" (got {value}")[0].partition(f" ({value}")[0]
        return text + said.removeprefix(str(cause))
    return _COMPARED.sub(r"\1", said)


def within(kind: Any, value: Any) -> Any:
    """Make what msgspec does not know, as its ``dec_hook``: it adds the place to what this raises."""
    if is_model(kind):
        try:
            return validated(kind, value)
        except ValueError as exc:
            raise ValueError(_said(exc)) from None
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    raise ValueError(f"Expected `{_name(kind)}`, got `{type(value).__name__}`")


def _validated(kind: Any, value: Any) -> Any:
    try:
        return validated(kind, value)
    except ValueError as exc:
        raise InvalidPayload(f"this is no {_name(kind)}: {_said(exc)}") from None


def _said(problem: ValueError) -> str:
    """Return the message of pydantic's ValidationError in one line, without the values that it shows."""
    errors = getattr(problem, "errors", None)
    if not callable(errors):
        return str(problem)
    return "; ".join(
        f"{each['msg']} - at `{_path(each['loc'])}`"
        for each in errors(include_url=False, include_input=False, include_context=False)
    )


def _path(location: tuple[Any, ...]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


def _name(kind: Any) -> str:
    return kind.__qualname__ if isinstance(kind, type) else str(kind)
