"""Provides values for handlers and listeners: made once or for each, found by type, closed last."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import inspect
import logging
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeGuard

from evbus.errors import DispatchError, HandlerSignatureError

__all__ = ["MISSING", "Factory", "Injector", "Provider", "Singleton", "is_async", "name_of"]

_log = logging.getLogger("evbus.dispatch")
_GRACE = 1.0  # seconds that something which was cancelled may take to end


class _Unprovided(enum.Enum):
    """The type of :data:`MISSING`."""

    MISSING = "MISSING"


#: What :meth:`Injector.find` returns when there is nothing.
MISSING: Final = _Unprovided.MISSING


def is_contracted(value: object) -> bool:
    """Return whether ``value`` is POP's wrapper of a function, told by its attributes."""
    return isinstance(getattr(value, "implicit_hub", None), bool) and callable(getattr(value, "func", None))


def layers(function: Any) -> Iterator[Any]:
    """Yield a callable and, inwards, what it wraps: partials, methods, POP's and functools' wrappers."""
    seen: list[Any] = []
    while function is not None and not any(function is other for other in seen):
        seen.append(function)
        yield function
        if callable(function) and inspect.isfunction(type(function).__call__):
            yield from layers(type(function).__call__)
        if isinstance(function, functools.partial) or is_contracted(function):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        else:
            function = getattr(function, "__wrapped__", None)


def is_async(function: Any) -> bool:
    """Return whether calling ``function`` gives something to await, as far as its declaration tells."""
    return any(inspect.iscoroutinefunction(layer) for layer in layers(function))


def name_of(function: Any) -> str:
    """Return the name for sentences, ``module.qualname``; of an object without a name, that of its class."""
    while isinstance(function, functools.partial) or is_contracted(function):
        function = function.func
    named = function if isinstance(getattr(function, "__qualname__", None), str) else type(function)
    module = getattr(named, "__module__", None)
    return f"{module}.{named.__qualname__}" if module else named.__qualname__


def is_class(value: object) -> TypeGuard[type]:
    """Return whether ``value`` is a class; ``list[int]`` and ``typing.Any`` are none."""
    return value is not Any and isinstance(value, type)


def members(annotation: Any) -> tuple[Any, ...]:
    """Return the types of an annotation: the members of a Union without None, else the annotation itself."""
    if hasattr(annotation, "__metadata__"):  # Annotated[X, ...]
        return members(annotation.__origin__)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = (members(one) for one in typing.get_args(annotation) if one is not type(None))
        return tuple(one for several in inner for one in several)
    return (annotation,)


def derives(kind: type, base: type) -> bool:
    """Return whether ``kind`` is ``base`` or below it, also where ``issubclass`` refuses to say."""
    try:
        return issubclass(kind, base)
    except TypeError:
        return base in kind.__mro__


class _Named(type):
    """Gives a class its brackets: type checkers take those of ``__class_getitem__`` for a generic class."""

    def __getitem__(cls, item: Any) -> Provider:
        """Return the provider of ``["name": function]``; raises HandlerSignatureError for anything else."""
        form = f'{cls.__name__}["name": function]'
        if not isinstance(item, slice) or item.step is not None:
            raise HandlerSignatureError(f"{cls.__name__}[...] needs a name and a function; write {form}")
        name, make = item.start, item.stop
        if not isinstance(name, str) or not name:
            raise HandlerSignatureError(f"{cls.__name__}[...] needs a string as its name; write {form}")
        if not callable(make):
            raise HandlerSignatureError(
                f"{cls.__name__}[{name!r}: ...] needs a function, not a {type(make).__name__}; write {form}"
            )
        _check_maker(f"{cls.__name__}[{name!r}: {name_of(make)}]", make)
        return cls(name, make)  # type: ignore[no-any-return]


class Provider(metaclass=_Named):
    """A named function that makes a value: :class:`Singleton` or :class:`Factory`. Immutable."""

    __slots__ = ("make", "name")

    name: str
    make: Callable[[], Any]

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "make", make)

    @property
    def kind(self) -> str:
        """``"Singleton"`` or ``"Factory"``."""
        return type(self).__name__

    @property
    def is_async(self) -> bool:
        """Whether it has to be awaited, as far as the function's declaration tells."""
        return is_async(self.make)

    def _refuse(self, *_args: object) -> NoReturn:
        raise AttributeError(f"{self!r} cannot be changed; make another one")

    __setattr__ = __delattr__ = _refuse

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return (self.name, self.make) == (other.name, other.make)

    def __hash__(self) -> int:
        return hash((type(self), self.name))

    def __repr__(self) -> str:
        return f"{self.kind}[{self.name!r}: {name_of(self.make)}]"


class Singleton(Provider):
    """``Singleton["name": function]``: made once and shared by all handlers that ask for the name."""

    __slots__ = ()


class Factory(Provider):
    """``Factory["name": function]``: made anew for each handler that it is bound to."""

    __slots__ = ()


def _check_maker(form: str, make: Callable[[], Any]) -> None:
    if any(inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in layers(make)):
        raise HandlerSignatureError(
            f"the function of {form} yields; return the object, and give it aclose() or close() for the end"
        )
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):
        return  # what is written in C does not always tell
    try:
        signature.bind()
    except TypeError as exc:
        raise HandlerSignatureError(
            f"the function of {form} is called without arguments, but {exc}; "
            "give them beforehand with functools.partial"
        ) from None


class Injector:
    """Makes what providers describe, keeps what it made, and closes it in the end. For one event loop."""

    def __init__(self) -> None:
        self._declared: dict[str, Provider] = {}
        self._provided: dict[Any, Any] = {}
        self._singletons: dict[str, Any] = {}
        self._making: dict[str, asyncio.Task[Any]] = {}
        # By identity, in the order of making: what two providers return is closed once.
        self._made: dict[int, tuple[Provider, Any]] = {}
        self._holders: set[str] = set()
        self._also: Callable[[Any], Any] | None = None

    def __repr__(self) -> str:
        return f"<Injector {len(self._provided)} types, {len(self._made)} made>"

    def provide(self, kind: Any, value: Any) -> None:
        """Have parameters annotated with ``kind``, a class, injected with ``value`` or what a provider makes.

        :raises HandlerSignatureError: ``kind`` is no class, or is provided already.
        """
        if members(kind) != (kind,) or not is_class(typing.get_origin(kind) or kind):
            raise HandlerSignatureError(f"only a class can be provided, and {kind!r} is none; give its class")
        if kind in self._provided:
            raise HandlerSignatureError(
                f"{_kind_name(kind)} is provided already, by {_what(self._provided[kind])}, "
                f"and cannot be provided by {_what(value)} as well; provide it once"
            )
        if isinstance(value, Provider):
            self.declare(value)
        elif is_class(value) and issubclass(value, Provider):
            raise HandlerSignatureError(
                f'{value.__name__} alone makes nothing; write {value.__name__}["name": function]'
            )
        self._provided[kind] = value

    def also(self, find: Callable[[Any], Any]) -> None:
        """Have what nobody provides looked for by a function, which returns None when it finds nothing."""
        self._also = find

    def find(self, annotation: Any) -> Any:
        """Return the value or :class:`Provider` for an annotation, :data:`MISSING` when there is none.

        The very type comes first, then the only provided subclass of it, though of no builtin type. Of a
        Union, any member may be provided.

        :raises HandlerSignatureError: several provided types would do.
        """
        kinds = dict.fromkeys(kind for member in members(annotation) for kind in self._kinds(member))
        if len(kinds) > 1:
            several = ", ".join(sorted(_kind_name(kind) for kind in kinds))
            raise HandlerSignatureError(
                f"several types are provided for {_kind_name(annotation)}: {several}; "
                "annotate with one of them, or give the parameter by keyword when binding"
            )
        if not kinds and self._also is not None and (found := self._also(annotation)) is not None:
            return found
        return next((self._provided[kind] for kind in kinds), MISSING)

    def _kinds(self, kind: Any) -> list[Any]:
        try:
            if kind in self._provided:
                return [kind]
        except TypeError:
            return []  # not hashable, so nobody can have provided it
        if not is_class(kind) or kind.__module__ == "builtins":
            return []
        return [other for other in self._provided if is_class(other) and derives(other, kind)]

    def declare(self, provider: Provider) -> None:
        """Learn a provider's name, without making anything.

        :raises HandlerSignatureError: the name stands for another kind of provider, or for the Singleton
            of another function.
        """
        known = self._declared.setdefault(provider.name, provider)
        same = known.kind == provider.kind
        if not same or (isinstance(provider, Singleton) and known != provider):
            raise HandlerSignatureError(
                f"the name {provider.name!r} is taken by {known!r}, and cannot be {provider!r} as well; "
                "give one of them another name"
            )

    async def resolve(self, provider: Provider) -> Any:
        """Return the value of a provider: the Singleton of its name, a new object of a Factory.

        A maker's error reaches everybody who waits for it, and the next one who asks tries again. Cancelled,
        an asker leaves the maker of a Singleton running for the others.

        :raises HandlerSignatureError: see :meth:`declare`.
        :raises DispatchError: :meth:`aclose` ended the maker, or it was cancelled from within.
        """
        self.declare(provider)
        if isinstance(provider, Factory):
            value = provider.make()
            return self._keep(provider, await value if inspect.isawaitable(value) else value)
        name = provider.name
        if name in self._singletons:
            return self._singletons[name]
        task = self._making.get(name)
        if task is None or task.done():
            value = provider.make()
            if not inspect.isawaitable(value):
                return self._share(provider, value)
            task = self._making[name] = asyncio.ensure_future(self._finish(provider, value))
            task.add_done_callback(functools.partial(_look_at, value))
        # Unlike await, this leaves the task alone when the asker is cancelled, and tells who was.
        await asyncio.wait({task})
        if task.cancelled():
            raise DispatchError(f"{provider!r} was cancelled before it was made; ask for it again")
        return task.result()

    async def _finish(self, provider: Provider, value: Any) -> Any:
        name, task = provider.name, asyncio.current_task()
        try:
            value = await value
        finally:
            current = self._making.get(name) is task
            if current:
                del self._making[name]
        # Given up by aclose and made all the same: nobody gets it, and the next aclose closes it.
        return self._share(provider, value) if current else self._keep(provider, value)

    def resolve_now(self, provider: Provider) -> Any:
        """Return the value of a provider with a sync function, without waiting.

        :raises HandlerSignatureError: what it makes has to be awaited; or see :meth:`declare`.
        """
        self.declare(provider)
        if isinstance(provider, Singleton) and provider.name in self._singletons:
            return self._singletons[provider.name]
        value = None if provider.is_async else provider.make()
        if provider.is_async or inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise HandlerSignatureError(
                f"{provider!r} has to be awaited, which is not possible here; await resolve(), and write "
                "what returns something to await as `async def`"
            )
        if isinstance(provider, Singleton):
            return self._share(provider, value)
        return self._keep(provider, value)

    async def fill(self, sources: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of ``sources``, with what the providers among them make, one after the other."""
        return {
            name: await self.resolve(source) if isinstance(source, Provider) else source
            for name, source in sources.items()
        }

    def fill_now(self, parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
        """Return what :meth:`fill` returns of several, without waiting; None where one has to be awaited."""
        if any(isinstance(one, Provider) and one.is_async for part in parts for one in part.values()):
            return None
        # A plain function may turn out to return something to await.
        with contextlib.suppress(HandlerSignatureError):
            return [
                {
                    name: self.resolve_now(source) if isinstance(source, Provider) else source
                    for name, source in part.items()
                }
                for part in parts
            ]
        return None

    def _share(self, provider: Provider, value: Any) -> Any:
        self._singletons[provider.name] = value
        return self._keep(provider, value)

    def _keep(self, provider: Provider, value: Any) -> Any:
        self._made.setdefault(id(value), (provider, value))
        return value

    def hold(self, holder: str) -> None:
        """Note that somebody uses what is made, until it calls :meth:`release`."""
        self._holders.add(holder)

    def let_go(self, holder: str) -> None:
        """Take back :meth:`hold`, without closing anything."""
        self._holders.discard(holder)

    async def release(self, holder: str) -> None:
        """Close what was made, as :meth:`aclose` does, unless somebody else uses it still."""
        self.let_go(holder)
        if not self._holders:
            await self.aclose()

    async def aclose(self, limit: float = 10.0) -> None:
        """Close what was made, the latest first, by ``aclose()`` or else ``close()``; then be as new.

        Each may take ``limit`` seconds. What fails or takes longer is logged and does not keep the others
        from being closed. Names and provided types stay known, and given values stay open. Cancelled, it
        leaves what it has not come to for the next call.
        """
        await self._stop_making(limit)
        made, self._made, self._singletons = self._made, {}, {}
        try:
            while made:
                _, (provider, value) = made.popitem()
                await _close(provider, value, limit)
        finally:
            self._made = {**made, **self._made}

    async def _stop_making(self, limit: float) -> None:
        making, self._making = self._making, {}
        for task in making.values():
            task.cancel()
        if not making:
            return
        _, pending = await asyncio.wait(making.values(), timeout=limit)
        for name, task in making.items():
            if task in pending:
                _log.error("%s is still being made %g s after it was cancelled", self._declared[name], limit)


async def _close(provider: Provider, value: Any, limit: float) -> None:
    if is_class(value):
        return  # its close is for its instances
    try:
        close = getattr(value, "aclose", None) or getattr(value, "close", None)
        result = close() if callable(close) else None
    except Exception:
        _log.exception("closing %r failed", provider)
        return
    if not inspect.isawaitable(result):
        return
    task = asyncio.ensure_future(result)
    task.add_done_callback(functools.partial(_look_at, result))
    try:
        await asyncio.wait({task}, timeout=limit)
    finally:
        late = not task.done()
        if late:
            task.cancel()
            await asyncio.wait({task}, timeout=_GRACE)
    if late:
        _log.error("closing %r took longer than %g s and was given up", provider, limit)
    elif task.cancelled():
        _log.error("closing %r was cancelled from within", provider)
    elif task.exception() is not None:
        _log.error("closing %r failed", provider, exc_info=task.exception())


def _look_at(awaited: Any, task: asyncio.Future[Any]) -> None:
    """Keep asyncio from complaining about an error that nobody waits for, or a coroutine never begun."""
    if not task.cancelled():
        task.exception()
    if inspect.iscoroutine(awaited):
        awaited.close()


def _kind_name(kind: Any) -> str:
    return kind.__qualname__ if is_class(kind) else str(kind)


def _what(value: Any) -> str:
    """Name a provided value without showing what is in it."""
    return repr(value) if isinstance(value, Provider) else f"a {type(value).__qualname__}"
