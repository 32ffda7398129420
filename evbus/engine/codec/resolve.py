"""Names in the annotations of classes: those that mean nothing at run time, and those of local classes."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from evbus.engine.codec.typed import travels

__all__ = ["annotations_of", "resolve_local", "unreadable"]


class _Unknown(NamedTuple):
    """A name in an annotation that means nothing.

    :ivar path: the field, with those that lead to it.
    :ivar owner: the class that has the field.
    """

    path: str
    name: str
    owner: type


def unreadable(cls: type, problem: NameError) -> str:
    """Explain why a class cannot be read whose annotations have raised ``problem``, and what to do."""
    found = _unknown(cls, "", set())
    where = "its fields" if found is None else f"the field {found.path}"
    name = problem.name if found is None else found.name
    module = "" if found is None else f" in {found.owner.__module__}"
    return (
        f"{where} cannot be read, as the name {name} means nothing{module} when the program runs; import it "
        "there outside of `if TYPE_CHECKING:`, or define it at the top level of the module"
    )


def resolve_local(cls: type, local: Mapping[str, Any]) -> None:
    """Put the classes that a function has defined in place of their names, as nobody finds them later.

    :param local: the variables of the function.
    """
    _resolve(cls, local, set())


def _unknown(cls: type, before: str, seen: set[type]) -> _Unknown | None:
    if cls in seen or (hasattr(cls, "model_validate") and getattr(cls, "__pydantic_complete__", False)):
        return None
    seen.add(cls)
    for owner, field, annotation in _annotations(cls):
        path = f"{before}.{field}" if before else field
        try:
            hint = _meaning(annotation, owner, {})
        except NameError as exc:
            return _Unknown(path, str(exc.name), owner)
        except Exception:  # noqa: S112 - an annotation may be anything; who reads the class says what is wrong
            continue
        for kind in _within(hint):
            found = _unknown(kind, path, seen)
            if found is not None:
                return found
    return None


def _resolve(cls: type, local: Mapping[str, Any], seen: set[type]) -> None:
    if cls in seen:
        return
    seen.add(cls)
    for owner, field, annotation in _annotations(cls):
        hint = _meant(annotation, owner, {})
        if "<locals>" in owner.__qualname__:
            here = _meant(annotation, owner, local)
            if here is not None and here != hint:
                owner.__annotations__[field] = hint = here
        for kind in _within(hint):
            if "<locals>" in kind.__qualname__:
                _resolve(kind, local, seen)


def _meant(annotation: Any, owner: type, local: Mapping[str, Any]) -> Any:
    """Resolve an annotation, to None while it means nothing; it is looked at again when it is used."""
    try:
        return _meaning(annotation, owner, local)
    except Exception:  # an annotation may be anything, and fail in any way
        return None


def _annotations(cls: type) -> Iterator[tuple[type, str, Any]]:
    """Yield the annotations of a class and its bases, each with the class that has it."""
    for owner in reversed(cls.__mro__):
        if owner.__module__ in {"builtins", "msgspec", "pydantic.main", "typing"}:
            continue
        for field, annotation in annotations_of(owner).items():
            yield owner, field, annotation


def annotations_of(cls: type) -> dict[str, Any]:
    """Return the annotations of a class itself, without those of its bases."""
    try:
        return dict(inspect.get_annotations(cls))
    except NameError:  # from Python 3.14 on, a name that is not there is noticed here
        return {}


def _meaning(annotation: Any, owner: type, local: Mapping[str, Any]) -> Any:
    module = sys.modules.get(owner.__module__)
    names = {**(vars(module) if module is not None else {}), **local}
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    return typing.get_type_hints(holder, names, dict(vars(owner)), include_extras=True)["it"]


def _within(hint: Any) -> Iterator[type]:
    """Yield the classes with fields that an annotation names."""
    if isinstance(hint, type) and travels(hint):
        yield hint
    for part in typing.get_args(hint):
        yield from _within(part)
