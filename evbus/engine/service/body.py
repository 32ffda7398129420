"""Calls and their answers as plain values, whatever they travel in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evbus.engine.service.call import Call
from evbus.engine.service.method import MethodSpec
from evbus.errors import InvalidPayload

__all__ = ["call_in", "error_in", "failed", "message_of", "stream_of"]


def message_of(call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call as it travels."""
    message: dict[str, Any] = {"method": call.name, "args": args}
    if kwargs:
        message["kwargs"] = kwargs
    return message


def call_in(value: Any) -> tuple[str, list[Any], dict[str, Any]]:
    """Return the name of a method and its arguments, of plain values.

    :raises InvalidPayload: they are no call.
    """
    found = value if type(value) is dict else {}
    name, args, kwargs = found.get("method"), found.get("args", []), found.get("kwargs", {})
    if (
        type(name) is not str
        or type(args) is not list
        or type(kwargs) is not dict
        or not all(type(key) is str for key in kwargs)
    ):
        raise InvalidPayload('a call is {"method": "component:service:method", "args": [...]}')
    return name, args, kwargs


def failed(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to a call that failed; ``error`` as :class:`.MethodFailed` has it."""
    return {"result": None, "exception": error["reason"] or error["type"], "error": error}


def error_in(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the error of an answer, None of a result."""
    text = found.get("exception")
    if text is None:
        return None
    error = found.get("error")
    if isinstance(error, dict):
        return error
    # Of a service that is not of evbus: it has a text and nothing else.
    return {"type": "Exception", "reason": text if isinstance(text, str) else repr(text)}


def stream_of(spec: MethodSpec) -> int | None:
    """Return the position of the argument that is a stream."""
    for number, parameter in enumerate(spec.parameters):
        if parameter.item is not None:
            return number
    return None
