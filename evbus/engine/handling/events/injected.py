"""Injects parameters of listeners by their types, the same that handlers are given."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from evbus.engine.handling.annotations import namespaces, providable, resolved, written
from evbus.engine.handling.plan import Dependency, find
from evbus.engine.handling.providers import MISSING, Injector, Provider
from evbus.errors import HandlerSignatureError

__all__ = ["HOLDER", "Dependencies", "Injected", "read_dependencies"]

#: Who uses what was made for listeners.
HOLDER = "listeners"

Dependencies = tuple[Dependency, ...]


def read_dependencies(
    parameters: Sequence[inspect.Parameter], function: Any, injector: Injector, listener: str
) -> tuple[Dependencies, list[str]]:
    """Return the parameters that are, or may be, provided by their types, and the others that are needed.

    :param function: has the parameters; names in their annotations are looked up where it was written.
    :param listener: its name in sentences.
    :raises HandlerSignatureError: several types are provided for one of them.
    """
    names = namespaces(function, None)
    dependencies, strange = [], []
    for one in parameters:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            continue
        annotation = resolved(one.annotation, names)
        required = one.default is one.empty
        known = find(injector.find, annotation, "", listener) is not MISSING
        # It may be provided later; what has a default keeps it then if it is not.
        if (known or providable(annotation, builtin=False)) and one.kind is not one.POSITIONAL_ONLY:
            dependencies.append(Dependency(one.name, annotation, required, known))
        elif required:
            strange.append(one.name)
    return tuple(dependencies), strange


class Injected:
    """A listener that takes what is provided: it is made of that when it begins to listen.

    :ivar init: what its constructor takes, and ``call`` what it is called with.
    :ivar bound: makes what is called of both, by parameter.
    :ivar made: what is called; None while something has to be awaited first.
    """

    def __init__(self, injector: Injector, listener: str) -> None:
        self.init: Dependencies = ()
        self.call: Dependencies = ()
        self.bound: Callable[[dict[str, Any], dict[str, Any]], Callable[..., Any]]
        self.made: Callable[..., Any] | None = None
        self._injector = injector
        self._listener = listener
        self._making = asyncio.Lock()

    def complete(self) -> None:
        """Make it, or leave it to :meth:`make` where something has to be awaited.

        :raises HandlerSignatureError: something is provided by nobody, or by several.
        """
        parts = self._sources()
        self._injector.hold(HOLDER)
        self.made = None
        if any(isinstance(value, Provider) and value.is_async for part in parts for value in part.values()):
            return
        # A plain function may turn out to return something to await, which is left to make() then.
        with contextlib.suppress(HandlerSignatureError):
            self.made = self.bound(
                *({name: self._now(value) for name, value in part.items()} for part in parts)
            )

    async def make(self) -> Callable[..., Any]:
        """Make it, unless that was done."""
        async with self._making:
            if self.made is None:
                self.made = self.bound(*[await self._injector.fill(part) for part in self._sources()])
            return self.made

    def _now(self, value: Any) -> Any:
        return self._injector.resolve_now(value) if isinstance(value, Provider) else value

    def _sources(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._found(self.init), self._found(self.call)

    def _found(self, dependencies: Dependencies) -> dict[str, Any]:
        found = {}
        for dependency in dependencies:
            value = find(self._injector.find, dependency.annotation, "", self._listener)
            if value is not MISSING:
                found[dependency.parameter] = value
            elif dependency.required:
                kind = written(dependency.annotation)
                raise HandlerSignatureError(
                    f"nothing is provided for {dependency.parameter!r}, a {kind}; call "
                    f"hub.dispatch.init.provide({kind}, ...) before the bus starts",
                    handler=self._listener,
                )
        return found
