"""Which classes can be events: their fields have to be values that can be written down."""

from __future__ import annotations

from typing import Any

import msgspec.inspect

from evbus._typed import travels
from evbus.errors import HandlerSignatureError

__all__ = ["check_fields", "fields_of"]


def check_fields(cls: Any) -> None:
    """Refuse a class of which not every field can be encoded and decoded.

    :raises HandlerSignatureError: names the field and its type.
    """
    if not isinstance(cls, type) or not travels(cls):
        name = getattr(cls, "__qualname__", repr(cls))
        raise HandlerSignatureError(
            f"{name} cannot be an event: it is no dataclass, msgspec Struct, attrs class or pydantic model; "
            "put @event() above @dataclass"
        )
    if hasattr(cls, "model_validate"):
        return  # pydantic refuses such fields itself
    try:
        info = msgspec.inspect.type_info(cls)
    except NameError:
        return  # a name that is defined further down; what is wrong is said when the first is encoded
    except TypeError as exc:
        raise HandlerSignatureError(f"the event {cls.__qualname__}: {exc}") from None
    found = _custom(info, "", set())
    if found is not None:
        path, kind = found
        raise HandlerSignatureError(
            f"the event {cls.__qualname__}: the field {path} is a {getattr(kind, '__qualname__', kind)}, "
            "which cannot be encoded; make that a dataclass or a plain value"
        )


def fields_of(cls: type) -> list[str]:
    """Return the names of the fields of an event, none when they cannot be had."""
    found = getattr(cls, "model_fields", None) or getattr(cls, "__struct_fields__", None)
    if found is None:
        found = getattr(cls, "__dataclass_fields__", None) or [
            each.name for each in getattr(cls, "__attrs_attrs__", ())
        ]
    return list(found)


def _custom(info: Any, path: str, seen: set[int]) -> tuple[str, Any] | None:
    """Return the path and type of the first part that msgspec does not know."""
    if id(info) in seen:
        return None
    seen.add(id(info))
    if isinstance(info, msgspec.inspect.CustomType):
        return None if travels(info.cls) else (path, info.cls)  # a pydantic model travels
    for field in getattr(info, "fields", ()):
        found = _custom(field.type, f"{path}.{field.name}" if path else field.name, seen)
        if found is not None:
            return found
    inner = [getattr(info, name, None) for name in ("item_type", "key_type", "value_type")]
    for part in [*inner, *getattr(info, "item_types", ()), *getattr(info, "types", ())]:
        found = _custom(part, path, seen) if part is not None else None
        if found is not None:
            return found
    return None
