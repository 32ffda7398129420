"""Calls and their answers as plain values, whatever they travel in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evbus.engine.service.call import Call
from evbus.engine.service.encoding import Encoding
from evbus.engine.service.method import MethodSpec
from evbus.errors import InvalidPayload, PayloadError, PayloadTooDeep, SerializeError

__all__ = ["argument", "bytes_of", "call_in", "error_in", "failed", "items_as", "message_of", "stream_of"]


def message_of(call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call as it travels."""
    message: dict[str, Any] = {"method": call.name, "args": args}
    if kwargs:
        message["kwargs"] = kwargs
    return message


def bytes_of(encoding: Encoding, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Return a call as bytes.

    :raises PayloadError: an argument cannot travel: names it, and its type.
    """
    try:
        return encoding.encode(message_of(call, args, kwargs))
    except PayloadError:
        names = [one.name for one in call.spec.positional]
        for name, value in [*zip(names, args, strict=False), *kwargs.items()]:
            argument(encoding, call.spec, name, value)
        raise


def argument(encoding: Encoding, spec: MethodSpec, name: str, value: Any, which: str = "") -> bytes:
    """Return an argument as bytes.

    :param which: says which part of it.
    :raises PayloadError: it cannot travel.
    """
    try:
        return encoding.encode(value)
    except PayloadError as exc:
        what = f"{spec.title}: {which}the argument {name!r}, of the type {type(value).__qualname__},"
        if isinstance(exc, SerializeError):
            raise SerializeError(exc.reason, path=exc.path, plugin=exc.plugin, what=what) from None
        if isinstance(exc, PayloadTooDeep):
            raise PayloadTooDeep(exc.limit, path=exc.path, what=what) from None
        raise


def items_as(encoding: Encoding, spec: MethodSpec, name: str) -> Callable[[list[Any]], bytes]:
    """Return what makes bytes of items of the argument that is a stream. Errors as of :func:`argument`."""

    def encode(items: list[Any]) -> bytes:
        try:
            return encoding.encode(items)
        except PayloadError:
            for item in items:
                argument(encoding, spec, name, item, "an item of ")
            raise

    return encode


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
