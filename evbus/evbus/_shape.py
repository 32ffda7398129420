"""What a plugin file has to look like, said when it is loaded and not when the first event reaches it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from evbus.errors import PluginError

from ._sender import check_publish

__all__ = ["CHECKS", "check_egress", "check_ingress", "check_pipeline"]


def check_ingress(module: ModuleType) -> None:
    """Check ``publish`` and the optional functions beside it.

    :raises PluginError: with the line of the function.
    """
    publish = _function(module, "publish")
    if publish is None:
        raise PluginError("it has no function publish(hub, ctx, routing_key, body)")
    _located(check_publish, publish)
    for name, parameters in (
        ("publish_batch", "hub, ctx, events"),
        ("open", "hub, ctx"),
        ("close", "hub, ctx"),
    ):
        function = _function(module, name)
        if function is not None:
            _located(_check_async, function, name, parameters)
    now = _function(module, "publish_nowait")
    if now is not None:
        _located(_check_plain, now, "publish_nowait", "hub, ctx, events", "may not wait")
    ready = _function(module, "ready")
    if ready is not None:
        _located(_check_plain, ready, "ready", "hub, ctx", "returns what to await")


def check_pipeline(module: ModuleType) -> None:
    """Check ``send``, ``handle``, ``configure`` and ``__order__``.

    :raises PluginError: with the line of the function.
    """
    send, handle = _function(module, "send"), _function(module, "handle")
    if send is None and handle is None:
        raise PluginError("it has neither send(hub, envelope) nor handle(hub, envelope, call_next)")
    if send is not None:
        _located(_check_plain, send, "send", "hub, envelope", "runs wherever an event is put")
    if handle is not None:
        _located(_check_async, handle, "handle", "hub, envelope, call_next")
    configure = _function(module, "configure")
    if configure is not None:
        _located(_check_plain, configure, "configure", "hub, settings", "runs before any event")
    order = getattr(module, "__order__", 0)
    if isinstance(order, bool) or not isinstance(order, (int, float)):
        raise PluginError(f"__order__ is a number, not {order!r}")


def check_egress(module: ModuleType) -> None:
    """Check ``consume``.

    :raises PluginError: with the line of the function.
    """
    consume = _function(module, "consume")
    if consume is None:
        raise PluginError("it has no function consume(hub, ctx, subscription)")
    _located(_check_generator, consume)


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
    # What a coroutine function returns is true enough, and would never run.
    if inspect.iscoroutinefunction(function):
        raise PluginError(f"{name} {why} and must be plain 'def', not 'async def'")
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


#: By subsystem; the others are checked by the ``sig_`` functions of their contracts.
CHECKS: dict[str, Callable[[ModuleType], None]] = {
    "egress": check_egress,
    "ingress": check_ingress,
    "pipeline": check_pipeline,
}
