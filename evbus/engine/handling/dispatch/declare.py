"""Handlers in files: what they say of themselves, and how a file is checked when it is loaded."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from evbus.engine.handling.annotations import message_name
from evbus.errors import HandlerError, HandlerExists, PluginError

__all__ = ["check", "command", "declarations", "line_of", "on", "query"]

_ATTRIBUTE = "__evbus_handles__"
_DECORATORS = {"commands": "@command", "queries": "@query", "events": "@on"}
_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Declaration(NamedTuple):
    """That a function or class handles a message: the router, what its ``bind`` gets, and who says so."""

    router: str
    message: Any
    options: dict[str, Any]
    module: str


class _DeclaredHandler(NamedTuple):
    """A handler of a file: its name there, itself, and what it says."""

    name: str
    handler: Any
    says: _Declaration


class _Decorator:
    """A decorator, ``@command(Type)``: an object, so that it is seen where it was left without its Type."""

    def __init__(self, declaration: _Declaration) -> None:
        self.declaration = declaration

    def __call__(self, handler: _Function) -> _Function:
        known: list[_Declaration] = list(vars(handler).get(_ATTRIBUTE, ()))
        # Decorators are read from the top, and run from the bottom.
        setattr(handler, _ATTRIBUTE, [self.declaration, *known])
        return handler


def _declare(
    router: str, message: Any, argname: str | None, response_event: Any, more: dict[str, Any]
) -> Callable[[_Function], _Function]:
    options = {"argname": argname, "response_event": response_event, **more}
    # A wrapper from elsewhere may stand around the handler, so the file is told by who decorates.
    module = sys._getframe(2).f_globals.get("__name__", "")
    return _Decorator(_Declaration(router, message, options, module))


def command(
    message: Any, argname: str | None = None, response_event: Any = None, **initkwargs: Any
) -> Callable[[_Function], _Function]:
    """Say in a file of a folder ``handler/`` that a function or class handles a command.

    Parameters are those of ``hub.dispatch.commands.bind``.
    """
    return _declare("commands", message, argname, response_event, initkwargs)


def query(
    message: Any, argname: str | None = None, response_event: Any = None, **initkwargs: Any
) -> Callable[[_Function], _Function]:
    """Say in a file of a folder ``handler/`` that something handles a query; see :func:`command`."""
    return _declare("queries", message, argname, response_event, initkwargs)


def on(
    message: Any, argname: str | None = None, response_event: Any = None, **initkwargs: Any
) -> Callable[[_Function], _Function]:
    """Say in a file of a folder ``handler/`` that something handles an event; see :func:`command`.

    ``publish_to`` is that of ``hub.dispatch.events.bind``.
    """
    return _declare("events", message, argname, response_event, initkwargs)


def declarations(module: ModuleType) -> Iterator[_DeclaredHandler]:
    """Yield the handlers that a file declares itself, in its order."""
    seen: set[int] = set()
    for name, handler in list(vars(module).items()):
        if id(handler) not in seen:
            seen.add(id(handler))
            for says in _said(handler, module):
                yield _DeclaredHandler(name, handler, says)


def _said(handler: Any, module: ModuleType) -> list[_Declaration]:
    own = getattr(handler, "__module__", None) == module.__name__
    said: list[_Declaration] = getattr(handler, "__dict__", {}).get(_ATTRIBUTE, [])
    return [says for says in said if own or says.module == module.__name__]


def check(
    read: Callable[[Any, _Declaration], Any], is_loaded: Callable[[str], bool]
) -> Callable[[ModuleType], None]:
    """Return a function that checks the files of the folders ``handler/`` of a hub, one after another.

    :param read: raises :class:`~evbus.errors.HandlerError` for a handler that cannot be bound.
    :param is_loaded: tells whether a file that was checked before is in use.
    """
    # Of commands and queries: (router, message) -> file, handler.
    owners: dict[tuple[str, Any], tuple[str, str]] = {}

    def check_file(module: ModuleType) -> None:
        _check_forms(module)
        found = list(declarations(module))
        if not found:
            raise PluginError("it has no handler: a function with @command(Type), @query(Type) or @on(Type)")
        file = str(module.__file__)
        others = {kind: owner for kind, owner in owners.items() if owner[0] != file and is_loaded(owner[0])}
        own: dict[tuple[str, Any], tuple[str, str]] = {}
        for name, handler, says in found:
            try:
                read(handler, says)
                if says.router != "events":
                    _check_alone(name, says, {**others, **own})
                    own[says.router, says.message] = (file, name)
            except HandlerError as exc:
                raise PluginError(str(exc), line=line_of(handler)) from exc
        owners.clear()
        owners.update({**others, **own})

    return check_file


def _check_forms(module: ModuleType) -> None:
    """Refuse decorators that were put on something in a way that would come to nothing."""
    for name, value in vars(module).items():
        if isinstance(value, _Decorator) and getattr(value.declaration.message, "__name__", None) == name:
            # What was to be decorated is taken for the message, and the decorator stands in its place.
            form = f"{_DECORATORS[value.declaration.router]}(Type)"
            raise PluginError(
                f"{name} is decorated without a message; write {form}, with the class or string to handle",
                line=line_of(value.declaration.message),
            )
        if inspect.isclass(value) and value.__module__ == module.__name__:
            _check_methods(value)


def _check_methods(kind: type) -> None:
    for name, method in vars(kind).items():
        if getattr(method, "__dict__", {}).get(_ATTRIBUTE):
            raise PluginError(
                f"{kind.__qualname__}.{name} is a method, and methods are not bound by themselves; decorate "
                "the class, which has __call__ or handle, or write a function",
                line=line_of(method),
            )


def _check_alone(name: str, says: _Declaration, owners: dict[tuple[str, Any], tuple[str, str]]) -> None:
    owner = owners.get((says.router, says.message))
    if owner is not None:
        raise HandlerExists(
            f"there is one already, {owner[1]} in {owner[0]}, and a message of {says.router} has exactly one",
            message=message_name(says.message),
            handler=name,
        )


def line_of(handler: Any) -> int:
    """Return the line in which a handler begins, with its decorators; 0 when it is not known."""
    try:
        return inspect.getsourcelines(inspect.unwrap(handler))[1]
    except (OSError, TypeError):
        return 0
