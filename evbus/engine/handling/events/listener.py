"""Listeners: functions and classes, plain or asynchronous, made into one thing to call with an event."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from evbus.engine.core.dead_path import program
from evbus.engine.handling.annotations import namespaces, resolved, written
from evbus.engine.handling.events.declare import LISTENS, EventListener, ListenerSpec, spec_of
from evbus.engine.handling.events.threads import Threads
from evbus.engine.handling.providers import Injector, is_async, name_of
from evbus.engine.handling.signature import Dependency, dependencies_of, values_of
from evbus.errors import HandlerSignatureError

__all__ = [
    "HOLDER",
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


def _nothing() -> None:
    return None


#: Who uses what was made for listeners.
HOLDER = "listeners"

_Dependencies = tuple[Dependency, ...]


def _read_dependencies(
    parameters: Sequence[inspect.Parameter], function: Any, injector: Injector, listener: str
) -> tuple[_Dependencies, list[str]]:
    """Return the injected parameters of a function, and the names of others that are needed."""
    names = namespaces(function, None)
    given = [
        one.replace(annotation=resolved(one.annotation, names))
        for one in parameters
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]
    dependencies, missing = dependencies_of(given, injector.find, listener)
    needed = [one for one in parameters if one.kind is one.POSITIONAL_ONLY and one.default is one.empty]
    lacking = {one.name for one in (*needed, *missing)}
    return dependencies, [one.name for one in parameters if one.name in lacking]


class _Injected:
    """A listener that takes what is provided: it is made of that when it begins to listen.

    :ivar init: what its constructor takes, and ``call`` what it is called with.
    :ivar bound: makes what is called of both, by parameter.
    :ivar made: what is called; None while something has to be awaited first.
    """

    def __init__(self, injector: Injector, listener: str) -> None:
        self.init: _Dependencies = ()
        self.call: _Dependencies = ()
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
        filled = self._injector.fill_now(parts)
        self.made = None if filled is None else self.bound(*filled)

    async def make(self) -> Callable[..., Any]:
        """Make it, unless that was done."""
        async with self._making:
            if self.made is None:
                self.made = self.bound(*[await self._injector.fill(part) for part in self._sources()])
            return self.made

    def _sources(self) -> list[dict[str, Any]]:
        look, listener = self._injector.find, self._listener
        return [values_of(part, look, self._lack, listener) for part in (self.init, self.call)]

    def _lack(self, dependency: Dependency) -> HandlerSignatureError:
        kind = written(dependency.annotation)
        return HandlerSignatureError(
            f"nothing is provided for {dependency.parameter!r}, a {kind}; call "
            f"hub.dispatch.init.provide({kind}, ...) before the bus starts",
            handler=self._listener,
        )


class Listener(NamedTuple):
    """A listener that can be called.

    :ivar name: part of its queue's name.
    :ivar full_name: for sentences.
    :ivar call: awaits it for one event; or for an event and its envelope, if ``takes_envelope``.
    :ivar threads: where it is called, None when it is asynchronous.
    :ivar plain: returns what is called there; None while something has to be awaited first, or when it is
        asynchronous.
    :ivar complete: called whenever it begins to listen: it makes what the listener takes, or raises what is
        provided by nobody.
    """

    name: str
    full_name: str
    call: Callable[..., Awaitable[Any]]
    threads: Threads | None = None
    takes_envelope: bool = False
    complete: Callable[[], None] = _nothing
    plain: Callable[[], Callable[..., Any] | None] = _nothing


def listens(listener: Any) -> list[ListenerSpec]:
    """Return the declarations of a function or class, one for each event."""
    return list(vars(listener).get(LISTENS, ())) if hasattr(listener, "__dict__") else []


def declared(module: ModuleType) -> Iterator[tuple[Any, ListenerSpec]]:
    """Yield the listeners that a file declares itself, with each of their declarations."""
    for listener in list(vars(module).values()):
        if getattr(listener, "__module__", None) == module.__name__:
            for spec in listens(listener):
                yield listener, spec


def made(
    listener: Any, name: str, the_hub: Any, concurrency: int, injector: Injector | None = None
) -> Listener:
    """Return a listener that can be called; of a class an object is made.

    :param name: what it was told to be called, ``""`` for nothing.
    :param the_hub: what a parameter ``hub`` gets.
    :param concurrency: threads of a plain function, so that it does not block the loop.
    :param injector: has what else it takes, by its type.
    :raises HandlerSignatureError: it cannot be called with an event.
    """
    refuse_uncallable(listener)
    full_name, injector = name_of(listener), injector or Injector()
    injected = _Injected(injector, full_name)
    function = listener
    if inspect.isclass(listener):
        injected.init = _check_class(listener, full_name, injector)
        build = functools.partial(_object, listener, the_hub)
        function = build({}).on if not injected.init else _unmade(listener)
    elif isinstance(listener, EventListener):
        function = listener.on
    injected.call = _check_call(function, full_name, injector)
    takes_envelope = "envelope" in inspect.signature(function).parameters

    def bound(init: dict[str, Any], call: dict[str, Any]) -> Callable[..., Any]:
        return _bound(build(init).on if injected.init else function, the_hub, call)

    name = name or short_name(listener)
    threads = None if is_async(function) else Threads(concurrency, f"listener {name}")
    if not injected.init and not injected.call:
        call = bound({}, {})
        if threads is None:
            return Listener(name, full_name, call, threads, takes_envelope)
        awaited = _threaded(call, threads)
        return Listener(name, full_name, awaited, threads, takes_envelope, plain=lambda: call)
    injected.bound = bound
    return Listener(
        name,
        full_name,
        _injecting(injected, threads),
        threads,
        takes_envelope,
        injected.complete,
        plain=lambda: None if threads is None else injected.made,
    )


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


def check(listener: Any, injector: Injector | None = None) -> None:
    """Refuse what cannot be called with an event, before an object is made of it.

    :raises HandlerSignatureError: says what would be right.
    """
    name, injector = name_of(listener), injector or Injector()
    if inspect.isclass(listener):
        _check_class(listener, name, injector)
        listener = _unmade(listener)
    _check_call(listener, name, injector)


def refuse_other(listener: Any, event: Any, batch: int = 0) -> None:
    """Refuse a listener whose parameter is another event than the one that it listens to.

    :param batch: it takes lists of so many events.
    :raises HandlerSignatureError: names both.
    """
    meant = _meant(listener)
    function = getattr(listener, "on", None) if inspect.isclass(listener) else listener
    if batch and callable(function) and "envelope" in inspect.signature(function).parameters:
        raise HandlerSignatureError(
            "it takes batches, and there is no one envelope of several events", handler=name_of(listener)
        )
    listed: Any = get_args(meant)[0] if get_origin(meant) is list and get_args(meant) else None
    if batch and spec_of(meant) is not None:
        name = meant.__qualname__
        raise HandlerSignatureError(
            f"it takes batches, and not one {name}: write list[{name}]", handler=name_of(listener)
        )
    if not batch and spec_of(listed) is not None:
        raise HandlerSignatureError(
            "it takes a list of events, and gets each by itself: say batch=100 as well",
            handler=name_of(listener),
        )
    meant = listed if batch else meant
    if isinstance(event, type) and spec_of(meant) is not None and not issubclass(event, meant):
        raise HandlerSignatureError(
            f"it listens to {event.__qualname__}, and takes a {meant.__qualname__}", handler=name_of(listener)
        )


def _meant(listener: Any) -> Any:
    """Return the event that the annotations of a listener name, None if they name none."""
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


def _object(cls: Any, the_hub: Any, values: dict[str, Any]) -> Any:
    hub = {"hub": the_hub} if "hub" in inspect.signature(cls).parameters else {}
    return cls(**hub, **values)


def _unmade(cls: Any) -> Any:
    """Return the method ``on`` of a class as its objects have it, for its signature."""
    # A method of the class takes the object first, which an object's does not.
    return functools.partial(cls.on, None)


def _check_class(cls: Any, full_name: str, injector: Injector) -> _Dependencies:
    """Return the injected parameters of the constructor of a class."""
    on = getattr(cls, "on", None)
    if not callable(on) or on is EventListener.on:
        raise HandlerSignatureError("it has no on(self, event)", handler=full_name)
    try:
        inspect.signature(_unmade(cls))
    except ValueError:
        raise HandlerSignatureError(
            "its on has no parameter for its object; write on(self, event)", handler=full_name
        ) from None
    parameters = [one for one in inspect.signature(cls).parameters.values() if one.name != "hub"]
    init = cls.__init__
    dependencies, strange = _read_dependencies(
        parameters, init if inspect.isfunction(init) else cls, injector, full_name
    )
    if strange:
        raise HandlerSignatureError(
            f"the hub makes its object, and has nothing for {', '.join(strange)}; take the hub alone: "
            "__init__(self, hub), or what is provided for a class: __init__(self, repo: Repo)",
            handler=full_name,
        )
    return dependencies


def _check_call(function: Any, full_name: str, injector: Injector) -> _Dependencies:
    """Return the injected parameters of a listener, beside the event, the hub and the envelope."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise HandlerSignatureError(
            "it has a yield, and nothing of it would run; a listener is a plain function, or async def with "
            "await",
            handler=full_name,
        )
    parameters = list(inspect.signature(function).parameters.values())
    own = [one for one in parameters if one.name not in GIVEN]
    takes_one = own and own[0].kind in (
        own[0].POSITIONAL_ONLY,
        own[0].POSITIONAL_OR_KEYWORD,
        own[0].VAR_POSITIONAL,
    )
    dependencies, strange = _read_dependencies(own[1:], function, injector, full_name)
    given, _ = _read_dependencies(own[:1], function, injector, full_name)
    shown = ", ".join(one.name for one in parameters)
    if not takes_one or strange:
        raise HandlerSignatureError(
            f"it takes ({shown}), and is called with the event alone, or with (hub, event)", handler=full_name
        )
    before = [one.name for one in parameters[: parameters.index(own[0])] if one.name == "envelope"]
    before += [one.parameter for one in given if one.known]
    if before:
        event = "event" if before[-1] == own[0].name else own[0].name
        raise HandlerSignatureError(
            f"it takes ({shown}), and is called with the event first: ({', '.join([event, *before])})",
            handler=full_name,
        )
    return dependencies


def _bound(function: Any, the_hub: Any, values: dict[str, Any]) -> Callable[..., Any]:
    """Return a callable that takes the event alone, or the event and the envelope."""
    names = list(inspect.signature(function).parameters)
    if names[0] == "hub":
        function = functools.partial(function, the_hub)
    elif "hub" in names:
        function = functools.partial(function, hub=the_hub)
    if values:
        function = functools.partial(function, **values)
    if "envelope" in names:
        return lambda event, envelope, call=function: call(event, envelope=envelope)
    return function  # type: ignore[no-any-return]


def _injecting(injected: _Injected, threads: Threads | None) -> Callable[..., Awaitable[Any]]:
    """Return a callable that takes an event, and first makes the parameters that have to be awaited."""

    async def on(*event: Any) -> Any:
        call = injected.made or await injected.make()
        if threads is None:
            return await call(*event)
        return await _threaded(call, threads)(*event)

    return on


def _threaded(call: Callable[..., Any], threads: Threads) -> Callable[..., Awaitable[Any]]:
    async def on(*event: Any) -> Any:
        result = await threads.run(call, *event)
        # A plain function may return something to await.
        return await result if inspect.isawaitable(result) else result

    return on


def short_name(listener: Any) -> str:
    """Return the name of a listener that was told none."""
    if isinstance(listener, EventListener):
        return type(listener).__name__
    function = inspect.unwrap(listener.func if isinstance(listener, functools.partial) else listener)
    name = str(getattr(function, "__name__", type(function).__name__))
    # A file holds one function called on, as a rule: the file's name says more.
    if name != "on":
        return name.strip("<>")
    module = str(function.__module__)
    # Every script is called __main__.
    return program()[0] if module in ("__main__", "__mp_main__") else module.rpartition(".")[2]
