"""Listeners: functions and classes, plain or asynchronous, made into one thing to call with an event."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from evbus.dispatch._providers import is_async, name_of
from evbus.errors import HandlerSignatureError

from ._declare import LISTENS, EventListener, ListenerSpec, spec_of
from ._threads import Threads

__all__ = [
    "Listener",
    "check",
    "declared",
    "line_of",
    "listens",
    "made",
    "refuse_other",
    "refuse_uncallable",
    "short_name",
]


#: Parameters that are given by their names, beside the event.
GIVEN = ("hub", "envelope")


class Listener(NamedTuple):
    """A listener that can be called.

    :ivar name: part of its queue's name.
    :ivar full_name: for sentences.
    :ivar call: awaits it for one event; or for an event and its envelope, if ``takes_envelope``.
    :ivar threads: where it is called, None when it is asynchronous.
    """

    name: str
    full_name: str
    call: Callable[..., Awaitable[Any]]
    threads: Threads | None = None
    takes_envelope: bool = False


def listens(listener: Any) -> list[ListenerSpec]:
    """Return what a function or class listens to."""
    return list(vars(listener).get(LISTENS, ())) if hasattr(listener, "__dict__") else []


def declared(module: ModuleType) -> Iterator[tuple[Any, ListenerSpec]]:
    """Yield the listeners that a file declares itself, each with what it listens to."""
    for listener in list(vars(module).values()):
        if getattr(listener, "__module__", None) == module.__name__:
            for spec in listens(listener):
                yield listener, spec


def made(listener: Any, name: str, the_hub: Any, concurrency: int) -> Listener:
    """Return a listener that can be called; of a class an object is made.

    :param name: what it was told to be called, ``""`` for nothing.
    :param the_hub: what a parameter ``hub`` gets.
    :param concurrency: threads of a plain function, so that it does not block the loop.
    :raises HandlerSignatureError: it cannot be called with an event.
    """
    refuse_uncallable(listener)
    full_name = name_of(listener)
    function = listener
    if inspect.isclass(listener):
        function = _object(listener, full_name, the_hub).on
    elif isinstance(listener, EventListener):
        function = listener.on
    call = _bound(function, full_name, the_hub)
    name = name or short_name(listener)
    takes_envelope = "envelope" in inspect.signature(function).parameters
    if is_async(function):
        return Listener(name, full_name, call, None, takes_envelope)
    threads = Threads(concurrency, name)
    return Listener(name, full_name, _threaded(call, threads), threads, takes_envelope)


def refuse_uncallable(listener: Any) -> None:
    """Refuse what is neither a function nor a class, nor an object with ``on``.

    :raises HandlerSignatureError: says what would be right.
    """
    if callable(listener) or isinstance(listener, EventListener):
        return
    said = f"a {type(listener).__name__}"
    if inspect.iscoroutine(listener):
        said = f"a coroutine: write {listener.__name__} without calling it"
        listener.close()
    raise HandlerSignatureError(f"a listener is a function, or a class with on(self, event), and not {said}")


def check(listener: Any) -> None:
    """Refuse what cannot be called with an event, before an object is made of it.

    :raises HandlerSignatureError: says what would be right.
    """
    name = name_of(listener)
    if inspect.isclass(listener):
        _check_class(listener, name)
        # A method of the class takes the object first, which an object's does not.
        _bound(functools.partial(getattr(listener, "on"), None), name, None)  # noqa: B009 - mypy
    else:
        _bound(listener, name, None)


def refuse_other(listener: Any, event: Any) -> None:
    """Refuse a listener whose parameter is another event than the one that it listens to.

    :raises HandlerSignatureError: names both.
    """
    meant = _meant(listener)
    if isinstance(event, type) and spec_of(meant) is not None and not issubclass(event, meant):
        raise HandlerSignatureError(
            f"it listens to {event.__qualname__}, and takes a {meant.__qualname__}", handler=name_of(listener)
        )


def _meant(listener: Any) -> Any:
    """Return what the annotations of a listener say that it takes, None if they say nothing."""
    for base in vars(listener).get("__orig_bases__", ()) if inspect.isclass(listener) else ():
        if get_origin(base) is EventListener:
            return get_args(base)[0]
    function: Any = getattr(listener, "on", None) if inspect.isclass(listener) else listener
    try:
        hints = get_type_hints(function)
    except Exception:  # annotations may name what is not there at run time, and fail in any way
        return None
    return next((kind for name, kind in hints.items() if name not in (*GIVEN, "return")), None)


def line_of(listener: Any) -> int:
    """Return the line that a listener begins on, 0 when it is not known."""
    try:
        return inspect.getsourcelines(inspect.unwrap(listener))[1]
    except (OSError, TypeError):
        return 0


def _object(cls: Any, full_name: str, the_hub: Any) -> Any:
    _check_class(cls, full_name)
    return cls(hub=the_hub) if "hub" in inspect.signature(cls).parameters else cls()


def _check_class(cls: Any, full_name: str) -> None:
    on = getattr(cls, "on", None)
    if not callable(on) or on is EventListener.on:
        raise HandlerSignatureError("it has no on(self, event)", handler=full_name)
    parameters = [
        one
        for one in inspect.signature(cls).parameters.values()
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    strange = [one.name for one in parameters if one.name != "hub"]
    if strange:
        raise HandlerSignatureError(
            f"the hub makes its object, and has nothing for {', '.join(strange)}; take the hub alone: "
            "__init__(self, hub)",
            handler=full_name,
        )


def _bound(function: Any, full_name: str, the_hub: Any) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise HandlerSignatureError(
            "it has a yield, and nothing of it would run; a listener is a plain function, or async def with "
            "await",
            handler=full_name,
        )
    parameters = list(inspect.signature(function).parameters.values())
    own = [one for one in parameters if one.name not in GIVEN]
    required = [
        one
        for one in own
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    takes_one = own and own[0].kind in (
        own[0].POSITIONAL_ONLY,
        own[0].POSITIONAL_OR_KEYWORD,
        own[0].VAR_POSITIONAL,
    )
    if not takes_one or len(required) > 1:
        shown = ", ".join(one.name for one in parameters)
        raise HandlerSignatureError(
            f"it takes ({shown}), and is called with the event alone, or with (hub, event)", handler=full_name
        )
    names = [one.name for one in parameters]
    if names[0] == "hub":
        function = functools.partial(function, the_hub)
    elif "hub" in names:
        function = functools.partial(function, hub=the_hub)
    given = [name for name in names if name != "hub"]
    if "envelope" in given[: given.index(own[0].name)]:
        raise HandlerSignatureError(
            f"it takes ({', '.join(names)}), and is called with the event first: ({own[0].name}, envelope)",
            handler=full_name,
        )
    if "envelope" in names:
        return lambda event, envelope, call=function: call(event, envelope=envelope)
    return function  # type: ignore[no-any-return]


def _threaded(call: Callable[..., Any], threads: Threads) -> Callable[..., Awaitable[Any]]:
    async def on(*event: Any) -> Any:
        result = await threads.run(call, *event)
        # A plain function may return something to await.
        return await result if inspect.isawaitable(result) else result

    return on


def short_name(listener: Any) -> str:
    """Return what a listener is called that was told no name."""
    if isinstance(listener, EventListener):
        return type(listener).__name__
    function = inspect.unwrap(listener.func if isinstance(listener, functools.partial) else listener)
    name = str(getattr(function, "__name__", type(function).__name__))
    # A file holds one function called on, as a rule: the file's name says more.
    return str(function.__module__).rpartition(".")[2] if name == "on" else name.strip("<>")
