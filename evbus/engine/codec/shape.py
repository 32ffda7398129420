"""The shape of an object from outside: its fields if it is a record, its text if it is a value."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import uuid
from collections.abc import Callable, Collection, Iterator
from typing import Any, cast

import msgspec

from evbus.engine.codec.models import dumped, is_model
from evbus.engine.codec.moments import written_exactly

__all__ = ["as_text", "lacking", "record"]

_BINARY = (bytes, bytearray, memoryview)
_DATES = (dt.date, dt.time, dt.timedelta)
_VALUES = (*_DATES, *_BINARY, uuid.UUID, decimal.Decimal)


def as_text(value: object) -> str | None:
    """Return the text that msgspec writes for dates, times, bytes, UUIDs and Decimals, else None.

    ISO 8601 for dates and times, in UTC when their offset has seconds; base64 for bytes. Instances of
    subclasses, which msgspec does not take, are written as their base class is.
    """
    if not isinstance(value, _VALUES):
        return None
    return cast("str", msgspec.to_builtins(written_exactly(_exact(value))))


def _exact(value: Any) -> object:
    """Return ``value``, or when its class is a subclass, the same as an instance of the base class."""
    if isinstance(value, dt.datetime) and type(value) is not dt.datetime:
        return dt.datetime.combine(value.date(), value.timetz())
    if isinstance(value, dt.date) and type(value) not in (dt.date, dt.datetime):
        return dt.date(value.year, value.month, value.day)
    if isinstance(value, dt.time) and type(value) is not dt.time:
        return dt.time.fromisoformat(value.isoformat())
    if isinstance(value, dt.timedelta) and type(value) is not dt.timedelta:
        return dt.timedelta(value.days, value.seconds, value.microseconds)
    if isinstance(value, _BINARY):
        return bytes(value)
    if isinstance(value, decimal.Decimal):
        return decimal.Decimal(value)
    return value


def record(value: object, *, binary: bool = False) -> object | None:
    """Return the fields of a record, one level deep: a mapping, or a list for an array-like Struct.

    Records are msgspec Structs, dataclasses, attrs classes, pydantic's models and dataclasses, whatever has
    ``model_dump``, and msgspec.Raw, which is decoded. Anything else gives None. Names, order, tags and
    omitted fields are as msgspec writes them; those of pydantic are plain values already.

    :param binary: bytes of pydantic's stay bytes, and are no base64.
    """
    kind = type(value)
    if isinstance(value, msgspec.Struct):
        return _struct(value)
    if is_model(kind) and hasattr(kind, "__pydantic_serializer__"):
        return cast("object", dumped(value, binary=binary))
    if hasattr(kind, "__dataclass_fields__"):
        return _present(value, kind.__dataclass_fields__, lacking(kind))
    if hasattr(kind, "__attrs_attrs__"):
        return _present(value, [field.name for field in kind.__attrs_attrs__])
    dump: Callable[..., object] | None = getattr(kind, "model_dump", None)
    if callable(dump):
        return dump(value, mode="json")
    if isinstance(value, msgspec.Raw):
        return cast("object", msgspec.json.decode(value))
    return None


def lacking(kind: type[Any]) -> frozenset[str]:
    """Return the fields of a dataclass that msgspec leaves out when it has read the object without them.

    Their default stands on the class, and msgspec does not copy it to the object, which __init__ does; what
    it writes is what the object has itself.
    """
    if not kind.__dictoffset__:
        return frozenset()
    fields = dataclasses.fields(kind)
    return frozenset(
        field.name for field in fields if field.init and field.default is not dataclasses.MISSING
    )


def _present(
    value: object, names: Collection[str], defaults: frozenset[str] = frozenset()
) -> dict[str, object]:
    # A default of a field outside __init__ stands on the class alone, too, and is left out.
    own = getattr(value, "__dict__", names)
    found = ((name, getattr(value, name, msgspec.UNSET)) for name in names if name in own or name in defaults)
    return {name: each for name, each in found if each is not msgspec.UNSET}


def _struct(value: msgspec.Struct) -> dict[str, object] | list[object]:
    config = value.__struct_config__
    pairs = list(_fields(value, omit=config.omit_defaults and not config.array_like))
    if config.array_like:
        head = [] if config.tag is None else [config.tag]
        return head + [found for _, found in pairs]
    tagged: dict[str, object] = {} if config.tag is None else {str(config.tag_field): config.tag}
    return tagged | {name: found for name, found in pairs if found is not msgspec.UNSET}


def _fields(value: msgspec.Struct, *, omit: bool) -> Iterator[tuple[str, object]]:
    names, defaults = value.__struct_fields__, value.__struct_defaults__
    # Defaults belong to the last fields.
    first = len(names) - len(defaults)
    for index, (name, written) in enumerate(zip(names, value.__struct_encode_fields__, strict=True)):
        found = getattr(value, name)
        if not (omit and index >= first and _is_default(found, defaults[index - first])):
            yield written, found


def _is_default(found: object, default: object) -> bool:
    """Say whether msgspec's ``omit_defaults`` leaves the value out: the same object, or empty by factory."""
    factory = getattr(default, "factory", None)
    if factory in (list, dict, set):
        return type(found) is factory and not found
    return found is default
