"""Plain values, as they come out of JSON or MessagePack, made into the types that a program declares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, is_typeddict

import msgspec

from evbus.errors import InvalidPayload

__all__ = ["reader", "travels"]


def travels(kind: Any) -> bool:
    """Return whether instances of a class can be written as plain values, and read again."""
    return (
        dataclasses.is_dataclass(kind)
        or is_typeddict(kind)
        or hasattr(kind, "__attrs_attrs__")
        or hasattr(kind, "model_validate")
        or (isinstance(kind, type) and issubclass(kind, msgspec.Struct))
    )


def reader(kind: Any) -> Callable[[Any], Any]:
    """Return a function that makes a ``kind`` of plain values: a type that msgspec knows, or a pydantic model.

    The function raises :class:`~evbus.errors.InvalidPayload`, which names the place and the reason.
    """
    validate = getattr(kind, "model_validate", None)
    if callable(validate):
        return lambda value: _validated(kind, validate, value)
    return lambda value: _converted(kind, value)


def _converted(kind: Any, value: Any) -> Any:
    try:
        return msgspec.convert(value, kind, str_keys=True)
    except msgspec.ValidationError as exc:
        raise InvalidPayload(f"this is no {_name(kind)}: {exc}") from None


def _validated(kind: Any, validate: Callable[[Any], Any], value: Any) -> Any:
    try:
        return validate(value)
    except ValueError as exc:
        # pydantic's ValidationError is a ValueError; its own text is of several lines, and shows values.
        errors = getattr(exc, "errors", None)
        said = [
            f"{problem['msg']} - at `$.{'.'.join(map(str, problem['loc']))}`"
            for problem in (errors(include_url=False, include_input=False) if callable(errors) else [])
        ]
        raise InvalidPayload(f"this is no {_name(kind)}: {'; '.join(said) or exc}") from None


def _name(kind: Any) -> str:
    return kind.__qualname__ if isinstance(kind, type) else str(kind)
