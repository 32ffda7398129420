"""Checks of a plugin file's form, made when it is loaded and not when the first event reaches it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from evbus.engine.core.lane.sender import check_publish
from evbus.engine.core.pipeline import takes_descriptor
from evbus.errors import PluginError

__all__ = [
    "CHECKS",
    "check_connection",
    "check_egress",
    "check_ingress",
    "check_match",
    "check_pipeline",
    "check_serialize",
]


#: Of a plugin that says what its message system can.
DESCRIBE = ("describe", "hub, profile", "is asked while nothing runs")


def check_ingress(module: ModuleType) -> None:
    """Check ``publish`` and the optional functions beside it.

    :raises PluginError: with the line of the function.
    """
    publish = _required(module, "publish", "hub, ctx, routing_key, body")
    _located(check_publish, publish)
    for name, parameters in (
        ("publish_batch", "hub, ctx, events"),
        ("open", "hub, ctx"),
        ("close", "hub, ctx"),
        ("request", "hub, ctx, event, timeout"),
        ("reply", "hub, ctx, address, event"),
    ):
        function = _function(module, name)
        if function is not None:
            _located(_check_async, function, name, parameters)
    for name, parameters, why in (
        ("publish_nowait", "hub, ctx, events", "may not wait"),
        ("ready", "hub, ctx", "returns what to await"),
        DESCRIBE,
    ):
        _check_optional(module, name, parameters, why)


def check_pipeline(module: ModuleType) -> None:
    """Check ``send``, ``handle``, ``configure`` and ``__order__``.

    :raises PluginError: with the line of the function.
    """
    send, handle = _function(module, "send"), _function(module, "handle")
    if send is None and handle is None:
        raise PluginError("it has neither send(hub, envelope) nor handle(hub, envelope, call_next)")
    if send is not None:
        described = ", descriptor" if takes_descriptor(send, 2) else ""
        _located(_check_plain, send, "send", f"hub, envelope{described}", "runs wherever an event is put")
    if handle is not None:
        described = ", descriptor" if takes_descriptor(handle, 3) else ""
        _located(_check_async, handle, "handle", f"hub, envelope, call_next{described}")
    configure = _function(module, "configure")
    if configure is not None:
        _located(_check_plain, configure, "configure", "hub, settings", "runs before any event")
    order = getattr(module, "__order__", 0)
    if isinstance(order, bool) or not isinstance(order, (int, float)):
        raise PluginError(f"__order__ is a number, not {order!r}")


def check_egress(module: ModuleType) -> None:
    """Check ``consume``, and ``attach`` and ``describe`` beside it.

    :raises PluginError: with the line of the function.
    """
    _located(_check_generator, _required(module, "consume", "hub, ctx, subscription"))
    for name, parameters, why in (("attach", "hub, ctx, subscription, take", "may not wait"), DESCRIBE):
        _check_optional(module, name, parameters, why)


def check_match(module: ModuleType) -> None:
    """Check ``find``.

    :raises PluginError: with the line of the function.
    """
    find = _required(module, "find", "hub, name, pattern")
    _located(_check_plain, find, "find", "hub, name, pattern", "answers at once")
    _located(_check_names, find, "find", "hub, name, pattern")


def check_serialize(module: ModuleType) -> None:
    """Check ``apply`` and ``load``.

    :raises PluginError: with the line of the function.
    """
    for name, why in (("apply", "runs wherever an event is put"), ("load", "runs wherever one is read")):
        function = _required(module, name, "hub, data")
        _located(_check_plain, function, name, "hub, data", why)
        _located(_check_names, function, name, "hub, data")


def check_connection(module: ModuleType) -> None:
    """Check ``open`` and ``close``.

    :raises PluginError: with the line of the function.
    """
    _located(_check_async, _required(module, "open", "hub, ctx"), "open", "hub, ctx")
    _located(_check_async, _required(module, "close", "hub, connection"), "close", "hub, connection")


def _check_optional(module: ModuleType, name: str, parameters: str, why: str) -> None:
    function = _function(module, name)
    if function is not None:
        _located(_check_plain, function, name, parameters, why)


def _required(module: ModuleType, name: str, parameters: str) -> Callable[..., Any]:
    function = _function(module, name)
    if function is None:
        raise PluginError(f"it has no function {name}({parameters})")
    return function


def _check_generator(function: Callable[..., Any]) -> None:
    if not inspect.isasyncgenfunction(function):
        raise PluginError("consume must be 'async def consume(hub, ctx, subscription)' with a yield in it")
    _check_parameters(function, "consume", "hub, ctx, subscription")


def _function(module: ModuleType, name: str) -> Callable[..., Any] | None:
    """Return the plain function that the hub will show under ``name``."""
    aliases = getattr(module, "__func_alias__", {})
    written = [key for key, alias in aliases.items() if alias == name] if isinstance(aliases, Mapping) else []
    for candidate in (*written, name):
        found = vars(module).get(candidate)
        if inspect.isfunction(found):
            return found
    return None


def _located(check: Callable[..., Any], function: Callable[..., Any], *arguments: Any) -> None:
    try:
        check(function, *arguments)
    except PluginError as exc:
        raise PluginError(exc.reason, line=inspect.unwrap(function).__code__.co_firstlineno) from None


def _check_plain(function: Callable[..., Any], name: str, parameters: str, why: str) -> None:
    # What such a function returns is true enough, and would never run.
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PluginError(f"{name} {why} and must be plain 'def', not 'async def'")
    if inspect.isgeneratorfunction(function):
        raise PluginError(f"{name} {why} and must be plain 'def', without a yield in it")
    _check_parameters(function, name, parameters)


def _check_async(function: Callable[..., Any], name: str, parameters: str) -> None:
    if not inspect.iscoroutinefunction(function):
        raise PluginError(f"{name} must be 'async def {name}({parameters})'")
    _check_parameters(function, name, parameters)


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


#: By subsystem. POP's ``sig_`` functions let pass what is async or lacks parameters, and refuse defaults.
CHECKS: dict[str, Callable[[ModuleType], None]] = {
    "connection": check_connection,
    "egress": check_egress,
    "ingress": check_ingress,
    "match": check_match,
    "pipeline": check_pipeline,
    "serialize": check_serialize,
}
