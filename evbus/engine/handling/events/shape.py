"""Checks that a class can be an event: its fields have to be values that can be written down."""

from __future__ import annotations

from typing import Any

import msgspec.inspect

from evbus.engine.codec.models import is_model, unfit
from evbus.engine.codec.resolve import annotations_of, resolve_local, unreadable
from evbus.engine.codec.typed import travels
from evbus.errors import HandlerSignatureError

__all__ = ["check_declared", "check_fields", "fields_of"]


def check_declared(cls: Any) -> None:
    """Refuse what can be no event as soon as it is declared, as far as that shows already.

    A decorator that comes after, such as ``@dataclass`` above ``@event()``, may make the fields yet, and
    names may be defined further down: :func:`check_fields` looks at the class again before its first use.

    :raises HandlerSignatureError: as of :func:`check_fields`.
    """
    # What msgspec finds before the fields are there would stay.
    if not isinstance(cls, type) or _has_own_fields(cls):
        _check(cls, later=True)


def check_fields(cls: Any) -> None:
    """Refuse a class of which not every field can be encoded and decoded.

    :raises HandlerSignatureError: names the field and its type, or the name in it that means nothing.
    """
    if isinstance(cls, type) and "<locals>" in cls.__qualname__:
        resolve_local(cls, {cls.__name__: cls})
    _check(cls, later=False)


def _check(cls: Any, *, later: bool) -> None:
    if not isinstance(cls, type) or not travels(cls):
        name = getattr(cls, "__qualname__", repr(cls))
        raise HandlerSignatureError(
            f"{name} cannot be an event: it is no dataclass, msgspec Struct, attrs class or pydantic model; "
            "put @dataclass above it"
        )
    if not _has_own_fields(cls):
        _refuse_lost(cls)
    try:
        found = _unfit(cls)
    except NameError as exc:
        if later:
            return
        raise _nameless(cls, exc) from None
    except TypeError as exc:
        raise HandlerSignatureError(f"the event {cls.__qualname__}: {exc}") from None
    if found is not None:
        path, reason = found
        raise HandlerSignatureError(f"the event {cls.__qualname__}: the field {path} {reason}")


def _has_own_fields(cls: type) -> bool:
    """Return whether the fields are those of the class, and not only those of a base."""
    if hasattr(cls, "model_validate") or issubclass(cls, msgspec.Struct):
        return True
    return not vars(cls).keys().isdisjoint(("__dataclass_fields__", "__attrs_attrs__"))


def _refuse_lost(cls: type) -> None:
    """Refuse a class below a dataclass whose own fields nobody has made."""
    known = fields_of(cls)
    for name, annotation in annotations_of(cls).items():
        if name not in known and "ClassVar" not in str(annotation):
            raise HandlerSignatureError(
                f"the event {cls.__qualname__}: {name} is no field yet, as the class is no dataclass itself; "
                "put @dataclass above it, too"
            )


def _nameless(cls: type, problem: NameError) -> HandlerSignatureError:
    return HandlerSignatureError(f"the event {cls.__qualname__}: {unreadable(cls, problem)}")


def fields_of(cls: type) -> list[str]:
    """Return the names of the fields of an event, none when they cannot be had."""
    found = getattr(cls, "model_fields", None) or getattr(cls, "__struct_fields__", None)
    if found is None:
        found = getattr(cls, "__dataclass_fields__", None) or [
            each.name for each in getattr(cls, "__attrs_attrs__", ())
        ]
    return list(found)


def _unfit(cls: type) -> tuple[str, str] | None:
    """Return the path of the first field that cannot be written down and read again, and why."""
    if is_model(cls):
        return unfit(cls)
    info = msgspec.inspect.type_info(cls)
    return _within(info, "", set()) if not isinstance(info, msgspec.inspect.CustomType) else None


def _within(info: Any, path: str, seen: set[int]) -> tuple[str, str] | None:
    if id(info) in seen:
        return None
    seen.add(id(info))
    if isinstance(info, msgspec.inspect.CustomType):
        return _custom(info.cls, path)
    if isinstance(info, msgspec.inspect.DataclassType) and is_model(info.cls):
        return path, (
            f"is a {info.cls.__qualname__}, a dataclass of pydantic's, which would not validate itself "
            "there; make it a model, or the event a dataclass of pydantic's or a model"
        )
    for field in getattr(info, "fields", ()):
        found = _within(field.type, f"{path}.{field.name}" if path else field.name, seen)
        if found is not None:
            return found
    key = getattr(info, "key_type", None)
    if isinstance(key, (msgspec.inspect.BoolType, msgspec.inspect.NoneType)):
        return path, "has keys that are no texts, numbers, dates or the like; no JSON can be read as them"
    inner = [getattr(info, name, None) for name in ("type", "item_type", "key_type", "value_type")]
    for part in [*inner, *getattr(info, "item_types", ()), *getattr(info, "types", ())]:
        found = _within(part, path, seen) if part is not None else None
        if found is not None:
            return found
    return None


def _custom(kind: Any, path: str) -> tuple[str, str] | None:
    """Return the path of what is wrong with a type that msgspec does not know, and why."""
    if is_model(kind):
        found = unfit(kind)
        return None if found is None else (f"{path}.{found[0]}", found[1])
    if travels(kind):
        return None
    name = getattr(kind, "__qualname__", kind)
    return path, f"is a {name}, which cannot be encoded; make that a dataclass or a plain value"
