"""Checks of a plugin file's form, made when it is loaded and not when the first event reaches it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from evbus.engine.core.lane.sender import check_publish
from evbus.engine.core.pipeline import takes_descriptor
from evbus.errors import PluginError

__all__ = ["CHECKS", "check"]


class _Function(NamedTuple):
    """A function that plugins of a room may have, or must (``required``).

    :ivar why: why it has to be a plain one; ``""`` for an asynchronous one.
    :ivar by_name: others may call it with the names of its parameters.
    :ivar described: it may take a descriptor behind these parameters.
    :ivar yields: it is an asynchronous one with a yield in it.
    """

    name: str
    parameters: str
    why: str = ""
    required: bool = False
    by_name: bool = False
    described: bool = False
    yields: bool = False


_RUNS = "runs wherever an event is put"
#: Of a plugin that says what its message system can.
_DESCRIBE = _Function("describe", "hub, profile", "is asked while nothing runs")

#: The functions of each room. POP's ``sig_`` functions let pass what is async or lacks parameters, and refuse
#: defaults.
SHAPES = {
    "channel": (
        _Function("invoke", "hub, ctx, call, address", required=True),
        _Function("stream", "hub, ctx, call, address", yields=True),
        _Function("open", "hub, ctx"),
        _Function("close", "hub, ctx"),
    ),
    "connection": (
        _Function("open", "hub, ctx", required=True),
        _Function("close", "hub, connection", required=True),
    ),
    "egress": (
        _Function("consume", "hub, ctx, subscription", required=True, yields=True),
        _Function("attach", "hub, ctx, subscription, take", "may not wait"),
        _Function("check", "hub, ctx, subscription", "answers at once"),
        _DESCRIBE,
    ),
    "ingress": (
        _Function("publish", "hub, ctx, routing_key, body", required=True),
        _Function("publish_batch", "hub, ctx, events"),
        _Function("open", "hub, ctx"),
        _Function("close", "hub, ctx"),
        _Function("request", "hub, ctx, event, timeout"),
        _Function("reply", "hub, ctx, address, event"),
        _Function("begin_batch", "hub, ctx, events", "returns a future"),
        _Function("publish_nowait", "hub, ctx, events", "may not wait"),
        _Function("ready", "hub, ctx", "returns what to await"),
        _DESCRIBE,
    ),
    "match": (_Function("find", "hub, name, pattern", "answers at once", required=True, by_name=True),),
    "pipeline": (
        _Function("send", "hub, envelope", _RUNS, described=True),
        _Function("handle", "hub, envelope, call_next", described=True),
        _Function("configure", "hub, settings", "runs before any event"),
    ),
    "registry": (
        _Function("watch", "hub, ctx, component", required=True, yields=True),
        _Function("register", "hub, ctx, component, addresses"),
        _Function("deregister", "hub, ctx, component"),
        _Function("components", "hub, ctx"),
        _Function("open", "hub, ctx"),
        _Function("close", "hub, ctx"),
    ),
    "serialize": (
        _Function("apply", "hub, data", _RUNS, required=True, by_name=True),
        _Function("load", "hub, data", "runs wherever one is read", required=True, by_name=True),
    ),
}


def check(room: str, module: ModuleType) -> None:
    """Check the functions of a plugin file.

    :raises PluginError: with the line of the function.
    """
    found = {one.name: _function(module, one.name) for one in SHAPES[room]}
    if room == "pipeline" and found["send"] is None and found["handle"] is None:
        raise PluginError("it has neither send(hub, envelope) nor handle(hub, envelope, call_next)")
    for shape in SHAPES[room]:
        function = found[shape.name]
        if function is not None:
            try:
                check_publish(function) if shape.name == "publish" else _check_function(shape, function)
            except PluginError as exc:
                raise PluginError(exc.reason, line=inspect.unwrap(function).__code__.co_firstlineno) from None
        elif shape.required:
            raise PluginError(f"it has no function {shape.name}({shape.parameters})")
    order = getattr(module, "__order__", 0)
    if room == "pipeline" and (isinstance(order, bool) or not isinstance(order, (int, float))):
        raise PluginError(f"__order__ is a number, not {order!r}")


def _check_function(shape: _Function, function: Callable[..., Any]) -> None:
    name, parameters = shape.name, shape.parameters
    if shape.described and takes_descriptor(function, len(parameters.split(", "))):
        parameters += ", descriptor"
    if shape.yields:
        if not inspect.isasyncgenfunction(function):
            raise PluginError(f"{name} must be 'async def {name}({parameters})' with a yield in it")
    elif not shape.why:
        if not inspect.iscoroutinefunction(function):
            raise PluginError(f"{name} must be 'async def {name}({parameters})'")
    # What such a function returns is true enough, and would never run.
    elif inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PluginError(f"{name} {shape.why} and must be plain 'def', not 'async def'")
    elif inspect.isgeneratorfunction(function):
        raise PluginError(f"{name} {shape.why} and must be plain 'def', without a yield in it")
    _check_parameters(function, name, parameters)
    if shape.by_name:
        _check_names(function, name, parameters)


def _function(module: ModuleType, name: str) -> Callable[..., Any] | None:
    """Return the plain function that the hub will show under ``name``."""
    aliases = getattr(module, "__func_alias__", {})
    written = [key for key, alias in aliases.items() if alias == name] if isinstance(aliases, Mapping) else []
    for candidate in (*written, name):
        found = vars(module).get(candidate)
        if inspect.isfunction(found):
            return found
    return None


def _check_parameters(function: Callable[..., Any], name: str, parameters: str) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(*parameters.split(", "))
    except TypeError:
        raise PluginError(f"{name} takes {signature}, but is called with ({parameters})") from None


def _check_names(function: Callable[..., Any], name: str, parameters: str) -> None:
    """Check that calls by position and by name mean the same, as plugins of others may make either."""
    signature = inspect.signature(function)
    hub, *names = parameters.split(", ")
    if any(one.kind is one.VAR_POSITIONAL for one in signature.parameters.values()):
        return
    by_position = signature.bind(hub, *names).arguments
    try:
        by_name = signature.bind(hub, **dict(zip(names, names, strict=True))).arguments
    except TypeError:
        by_name = {}
    if by_name != by_position:
        raise PluginError(f"{name} takes {signature}, but its parameters are ({parameters})")


CHECKS: dict[str, Callable[[ModuleType], None]] = {room: functools.partial(check, room) for room in SHAPES}
