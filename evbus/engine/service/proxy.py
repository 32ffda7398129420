"""Proxies: objects of an interface whose methods are called here, or in another process."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from evbus.engine.service.declare import ServiceSpec
from evbus.engine.service.method import MethodSpec

__all__ = ["Target", "bind", "made"]


class Target(Protocol):
    """What a proxy hands its calls to."""

    def invoke(self, spec: MethodSpec, args: Any, kwargs: Any) -> Any:
        """Return what to await for the result of an asynchronous method."""

    def stream(self, spec: MethodSpec, args: Any, kwargs: Any) -> Any:
        """Return an asynchronous iterator of what a method yields."""

    def wait(self, spec: MethodSpec, args: Any, kwargs: Any) -> Any:
        """Return the result of a plain method."""


def made(service: ServiceSpec, target: Target) -> Any:
    """Return a proxy of an interface.

    Its class derives from the interface; nothing but the declared methods goes to ``target``.
    """
    proxy: Any = object.__new__(_class_of(service))
    vars(proxy)["_evbus_target"] = target
    return proxy


def bind(proxy: Any, service: ServiceSpec, methods: Mapping[str, Any] | None) -> None:
    """Let the methods of a proxy be these; None: those of its target."""
    own = vars(proxy)
    for name in service.methods:
        if methods is None:
            own.pop(name, None)
        else:
            own[name] = methods[name]


def _class_of(service: ServiceSpec) -> type:
    if service.proxy is None:
        cls = service.cls
        body = {name: _method(spec) for name, spec in service.methods.items()}
        about = {"__module__": cls.__module__, "__doc__": cls.__doc__, "__repr__": _repr}
        service.proxy = type(cls)(cls.__name__, (cls,), {**body, **about, "__qualname__": cls.__qualname__})
        # Private methods that are abstract are nobody's to call.
        service.proxy.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    return service.proxy


def _method(spec: MethodSpec) -> Callable[..., Any]:
    def waits(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self._evbus_target.wait(spec, args, kwargs)

    async def invokes(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return await self._evbus_target.invoke(spec, args, kwargs)

    def streams(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self._evbus_target.stream(spec, args, kwargs)

    made = streams if spec.item is not None else invokes if spec.asynchronous else waits
    wrapped: Callable[..., Any] = functools.wraps(spec.function)(made)
    wrapped.__isabstractmethod__ = False  # type: ignore[attr-defined]
    del wrapped.__wrapped__  # type: ignore[attr-defined]
    wrapped.__signature__ = spec.signature  # type: ignore[attr-defined]
    return wrapped


def _repr(self: Any) -> str:
    return f"<{type(self).__name__} {self._evbus_target!r}>"
