"""Reads annotations and signatures, as far as they can be relied on."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Sequence
from inspect import Parameter
from typing import Any

from evbus.engine.handling.providers import derives, is_class, layers, members

__all__ = [
    "in_class",
    "listed",
    "may_be",
    "message_name",
    "namespaces",
    "providable",
    "resolved",
    "signature_of",
    "written",
]


def message_name(message: Any) -> str:
    """Return the name of a message for sentences: that of its class, or the string that it is."""
    return message.__qualname__ if is_class(message) else str(message)


def signature_of(function: Any) -> inspect.Signature:
    """Return the signature of a function; one that cannot be read takes anything."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        # Written in C, it does not always tell; calling it will.
        return inspect.Signature(
            [Parameter("args", Parameter.VAR_POSITIONAL), Parameter("kwargs", Parameter.VAR_KEYWORD)]
        )


def in_class(function: Any) -> bool:
    """Return whether a function was written in the body of a class."""
    return inspect.isfunction(function) and function.__qualname__.split(".")[-2:-1] not in ([], ["<locals>"])


def namespaces(function: Any, message: Any) -> list[dict[str, Any]]:
    """Return the namespaces in which the annotations of a function are looked up."""
    inner = [layer for layer in layers(function) if hasattr(layer, "__globals__")]
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    names = inner[-1].__globals__ if inner else vars(module) if module is not None else {}
    # A message's class that was defined within a function is no global.
    return [names, {**names, message.__name__: message}] if is_class(message) else [names]


def resolved(annotation: Any, namespaces: list[dict[str, Any]]) -> Any:
    """Return an annotation without names in strings; ``Any`` when there is none, or a name means nothing."""
    if annotation is Parameter.empty:
        return Any
    if is_class(annotation):
        return annotation
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    for names in namespaces:
        try:
            return typing.get_type_hints(holder, names, {})["it"]
        except Exception:  # noqa: S112 - an annotation may be anything, and is only a hint
            continue
    return Any


def may_be(kind: type, annotation: Any) -> bool:
    """Return whether an instance of ``kind`` may be what an annotation says; what it is not sure of, may."""
    return any(
        not is_class(one) or getattr(one, "_is_protocol", False) or derives(kind, one) or derives(one, kind)
        for one in members(annotation)
    )


def providable(annotation: Any, *, builtin: bool) -> bool:
    """Return whether the type may be provided later on; builtin ones hardly are."""
    kinds = [typing.get_origin(one) or one for one in members(annotation)]
    return any(is_class(kind) and (builtin or kind.__module__ != "builtins") for kind in kinds)


def written(annotation: Any) -> str:
    """Return an annotation as sentences show it."""
    return annotation.__qualname__ if is_class(annotation) else str(annotation)


def listed(names: Sequence[Any], last: str = "and") -> str:
    """Return ``'a', 'b' and 'c'``."""
    quoted = [repr(getattr(one, "name", one)) for one in names]
    return f" {last} ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
