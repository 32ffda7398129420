"""The handlers of each message."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from evbus.engine.handling.annotations import message_name
from evbus.engine.handling.binding import Binding, HandlerBinding
from evbus.engine.handling.dispatch.core import Core, DispatcherState
from evbus.engine.handling.providers import name_of
from evbus.errors import HandlerDoesNotExist, RouterFrozen, nearest

__all__ = ["REMEMBERED", "HandlerRegistry"]

#: Kinds of messages whose handlers are remembered.
REMEMBERED = 10_000

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Message = type | str


class HandlerRegistry:
    """The handlers of one sort of messages.

    :ivar name: that of the router on the hub.
    """

    def __init__(self, core: Core, name: str) -> None:
        self.core = core
        self.name = name
        self._bindings: dict[_Message, list[Binding]] = {}
        self._found: dict[_Message, tuple[Binding, ...]] = {}

    # Binding

    def bind(
        self,
        message: Any,
        handler: Any,
        argname: str | None = None,
        response_event: Any = None,
        **initkwargs: Any,
    ) -> Binding:
        """Let ``handler`` handle ``message``.

        :param message: a class, whose instances and those of its subclasses are meant, or a string.
        :param handler: an ``async def`` function, or an object or class with ``handle`` or an asynchronous
            ``__call__``; a class is built with ``initkwargs``.
        :param argname: the parameter that takes the message, where that is not clear.
        :param response_event: a class, or several: a result of it is sent on as an event.
        :param initkwargs: what else the handler takes: values, ``Singleton[...]``, ``Factory[...]``.
        :raises HandlerError: the handler cannot be bound; says why, and what would be right.
        """
        self.check_open(message, name_of(handler))
        binding = HandlerBinding(
            message,
            handler,
            injector=self.core.injector,
            the_hub=self.core.the_hub,
            argname=argname,
            response_event=response_event,
            given=initkwargs,
        )
        self.add(binding)
        return binding

    def check_open(self, message: Any, handler: str) -> None:
        """Refuse a handler once the dispatcher is started.

        :raises RouterFrozen: it is.
        """
        if self.core.frozen:
            raise RouterFrozen(
                "the dispatcher is started and its routers are frozen; bind before the start",
                message=message_name(message),
                handler=handler,
            )

    def register(
        self, message: Any, argname: str | None = None, response_event: Any = None, **initkwargs: Any
    ) -> Callable[[_Function], _Function]:
        """Return a decorator that binds a function or class and leaves it as it is; see :meth:`bind`."""

        def decorate(handler: _Function) -> _Function:
            self.bind(message, handler, argname, response_event, **initkwargs)
            return handler

        return decorate

    def add(self, binding: Binding) -> None:
        """Add a binding, at any time.

        :raises HandlerExists: there is one in its place.
        :raises HandlerSignatureError: the dispatcher runs, and something that the handler takes is provided
            by nobody.
        """
        self._check_room(binding, self._bindings.get(binding.message, []))
        if self.core.state in (DispatcherState.RUNNING, DispatcherState.STOPPING):
            binding.complete()
        self._bindings.setdefault(binding.message, []).append(binding)
        self._found.clear()
        self.core.routes.clear()

    def remove(self, binding: Binding) -> bool:
        """Take a binding away, at any time; messages on their way to it still arrive."""
        bound = self._bindings.get(binding.message, [])
        if binding not in bound:
            return False
        bound.remove(binding)
        if not bound:
            del self._bindings[binding.message]
        self._found.clear()
        self.core.routes.clear()
        return True

    def bindings(self) -> list[Binding]:
        """Return all bindings, in the order in which their messages were first bound."""
        return [binding for bound in self._bindings.values() for binding in bound]

    def _check_room(self, binding: Binding, bound: list[Binding]) -> None:
        raise NotImplementedError

    # Finding

    def find(self, message: Any) -> tuple[Binding, ...]:
        """Return the bindings of a message: those of its own class first, then those of its bases."""
        kind = message if isinstance(message, (str, type)) else type(message)
        found = self._found.get(kind)
        if found is None:
            found = self._select(kind)
            if found:
                if len(self._found) >= REMEMBERED:
                    self._found.clear()
                self._found[kind] = found
        return found

    def _select(self, kind: _Message) -> tuple[Binding, ...]:
        raise NotImplementedError

    def _by_kind(self, kind: _Message) -> list[list[Binding]]:
        """Return lists of bindings, the most specific first."""
        kinds: list[Any] = [kind, str, object] if isinstance(kind, str) else list(inspect.getmro(kind))
        return [self._bindings[each] for each in kinds if each in self._bindings]

    def missing(self, message: Any) -> HandlerDoesNotExist:
        """Return the error that says that a message has no handler."""
        name = self.name_of(message)
        known = [message_name(each) for each in self._bindings]
        return HandlerDoesNotExist(f"{self.name}: there is no handler for {name}{nearest(name, known)}")

    @staticmethod
    def name_of(message: Any) -> str:
        """Return the name of a message in sentences."""
        return message_name(message if isinstance(message, (str, type)) else type(message))
