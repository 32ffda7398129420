"""Plain values, as they come out of JSON or MessagePack, made into the types that a program declares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, get_origin

import msgspec

from evbus.errors import InvalidPayload

__all__ = ["reader", "travels"]


def travels(kind: Any) -> bool:
    """Return whether instances of a class can be written as plain values, and read again."""
    return isinstance(kind, type) and (
        dataclasses.is_dataclass(kind)
        or hasattr(kind, "__attrs_attrs__")
        or _is_model(kind)
        or issubclass(kind, msgspec.Struct)
    )


def reader(kind: Any) -> Callable[[Any], Any]:
    """Return a function that makes a ``kind`` of plain values.

    The function raises :class:`~evbus.errors.InvalidPayload`, which names the place and the reason, and not
    the value.

    :param kind: a type that msgspec knows, or a pydantic model; those may be within each other.
    :raises TypeError: it is no such type; :class:`NameError` when one of its annotations means nothing.
    """
    if _is_model(kind):
        return lambda value: _validated(kind, value)
    msgspec.json.Decoder(kind, dec_hook=_within)  # here, and not with the first message
    return lambda value: _converted(kind, value)


def _is_model(kind: Any) -> bool:
    return callable(getattr(kind, "model_validate", None))


def _converted(kind: Any, value: Any) -> Any:
    try:
        return msgspec.convert(value, kind, str_keys=True, dec_hook=_within)
    except msgspec.ValidationError as exc:
        raise InvalidPayload(f"this is no {_name(kind)}: {exc}") from None


def _within(kind: Any, value: Any) -> Any:
    """Make what msgspec does not know: it adds the place to what this raises."""
    if _is_model(kind):
        try:
            return _model(kind, value)
        except ValueError as exc:
            raise ValueError(_said(exc)) from None
    if isinstance(kind, type) and isinstance(value, kind):
        return value
    raise ValueError(f"Expected `{_name(kind)}`, got `{type(value).__name__}`")


def _validated(kind: Any, value: Any) -> Any:
    try:
        return _model(kind, value)
    except ValueError as exc:
        raise InvalidPayload(f"this is no {_name(kind)}: {_said(exc)}") from None


def _model(kind: Any, value: Any) -> Any:
    # By the names of fields, as they were written, or by the aliases that others may know.
    try:
        return kind.model_validate(value, by_alias=True, by_name=True)
    except ValueError:
        # A strict model wants a date, and takes the text of one from JSON alone.
        try:
            return kind.model_validate_json(msgspec.json.encode(value), by_alias=True, by_name=True)
        except ValueError:
            pass
        raise


def _said(problem: ValueError) -> str:
    """Return what pydantic's ValidationError says in one line, without the values that it shows."""
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
    # On Python 3.10 list[int] is a type, too.
    return kind.__qualname__ if isinstance(kind, type) and get_origin(kind) is None else str(kind)
