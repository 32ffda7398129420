"""The methods of an interface: what they take and return, and how both travel."""

from __future__ import annotations

import collections.abc
import inspect
import math
import typing
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any, NamedTuple

import msgspec.inspect
from msgspec.inspect import CustomType

from evbus.engine.codec.fit import parts
from evbus.engine.codec.models import is_model
from evbus.engine.codec.typed import reader, wants_digits
from evbus.engine.kit.redact import one_line
from evbus.engine.service.access import ACCESS, OPEN, Access
from evbus.engine.service.results import Results
from evbus.errors import InvalidPayload, ServiceSignatureError, nearest

__all__ = ["EMPTY", "CallOptions", "MethodSpec", "ParameterSpec", "options_of", "read_method"]

EMPTY: Any = Parameter.empty
#: The attribute of a function that keeps its :class:`CallOptions`.
OPTIONS = "__evbus_call__"
_STREAMS = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)
_VARIABLE = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


class CallOptions(NamedTuple):
    """How calls of a method, or of all methods of an interface, are made.

    :ivar timeout: seconds that a call may take; None for what stands above: the interface, the option.
    :ivar idempotent: called twice, it does what it does once: a call may be tried again.
    :ivar hedge_after: seconds after which a second request is sent as well; None for never.
    :ivar raises: exceptions that travel as what they are.
    """

    timeout: float | None = None
    idempotent: bool = False
    hedge_after: float | None = None
    raises: tuple[type[Exception], ...] = ()


class ParameterSpec(NamedTuple):
    """A parameter of a method.

    :ivar kind: of ``inspect.Parameter``; positional, keyword or both.
    :ivar type: its annotation without the metadata of ``Annotated``; ``typing.Any`` without one.
    :ivar metadata: that metadata.
    :ivar default: ``inspect.Parameter.empty`` if there has to be a value.
    :ivar item: the type of the items if it is a stream, else None.
    :ivar read: makes a value of a plain one.
    """

    name: str
    kind: Any
    type: Any
    metadata: tuple[Any, ...]
    default: Any
    item: Any
    read: Callable[[Any], Any]

    @property
    def required(self) -> bool:
        """Whether there has to be a value."""
        return self.default is EMPTY


class MethodSpec(NamedTuple):
    """A method of an interface.

    :ivar function: as the interface has it.
    :ivar title: ``Greeter.hello``, for sentences.
    :ivar parameters: without ``self``; ``positional`` are those that have a position, ``by_name`` the others.
    :ivar result: the type of what it returns, ``typing.Any`` if that is not said.
    :ivar item: the type of what it yields, None unless it returns a stream.
    :ivar asynchronous: it is awaited, or iterated with ``async for``.
    :ivar exact: numbers are to know how they were written, as one of its types has a Decimal.
    :ivar read_result: makes a result, or an item of the stream, of plain values.
    :ivar results: makes bytes of what it returns or yields.
    :ivar access: who may call it from outside.
    :ivar route: how it is called by REST, an :class:`evbus.engine.service.route.Route`; None for not at all.
    """

    name: str
    title: str
    function: Any
    signature: inspect.Signature
    parameters: tuple[ParameterSpec, ...]
    positional: tuple[ParameterSpec, ...]
    by_name: tuple[ParameterSpec, ...]
    result: Any
    item: Any
    asynchronous: bool
    exact: bool
    options: CallOptions
    read_result: Callable[[Any], Any]
    results: Results
    access: Access = OPEN
    route: Any = None

    @property
    def streams(self) -> bool:
        """Whether the result or an argument is a stream."""
        return self.item is not None or any(one.item is not None for one in self.parameters)

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of a call as they travel: by position and by name as they were given.

        So a server whose method has got further parameters meanwhile takes each for what it is, and uses its
        own defaults.

        :raises TypeError: it cannot be called like this; the sentence is Python's, with the method's name.
        """
        if len(args) == len(self.positional) and not kwargs and not self.by_name:
            return list(args), {}
        self._bound(args, kwargs)
        return list(args), dict(kwargs)

    def by_position(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return arguments for a server that knows only those with a position, and the others by name.

        Defaults that stand in front of an argument that is given are filled in.
        """
        bound, positional = self._bound(args, kwargs), self.positional
        given = len(positional)
        while given and positional[given - 1].name not in bound:
            given -= 1
        by_name = {one.name: bound[one.name] for one in self.by_name if one.name in bound}
        return [bound.get(one.name, one.default) for one in positional[:given]], by_name

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self.signature.bind(*args, **kwargs).arguments
        except TypeError as exc:
            known = [one.name for one in self.parameters]
            for name in kwargs:
                if name not in known:  # what is missing besides may be this
                    said = f"got an unexpected keyword argument {name!r}{nearest(name, known)}"
                    raise TypeError(f"{self.title}(): {said}") from None
            raise TypeError(f"{self.title}(): {exc}") from None

    def read_arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return arguments that have travelled, each of its type, to call the method with.

        What travels for an argument that is a stream is an asynchronous iterator of plain values.

        :raises InvalidPayload: one is missing, is unknown or does not fit: names it.
        """
        positional = self.positional
        if len(args) == len(positional) and not kwargs and not self.by_name:
            return [self._read(one, value) for one, value in zip(positional, args, strict=True)], {}
        if len(args) > len(positional):
            raise InvalidPayload(
                f"{self.title} takes {len(positional)} arguments by position, and {len(args)} came"
            )
        found = dict(zip((one.name for one in positional), args, strict=False))
        known = {one.name for one in self.parameters}
        for name, value in kwargs.items():
            if name in found or name not in known:
                why = "came twice" if name in found else "is none that it takes"
                raise InvalidPayload(f"{self.title}: the argument {one_line(repr(name), 100)} {why}")
            found[name] = value
        for one in self.parameters:
            if one.required and one.name not in found:
                raise InvalidPayload(f"{self.title}: the argument {one.name!r} is missing")
        values = {one.name: self._read(one, found[one.name]) for one in self.parameters if one.name in found}
        first = [one.name for one in positional if one.kind is Parameter.POSITIONAL_ONLY]
        return [values.pop(name) for name in first if name in values], values

    def _read(self, parameter: ParameterSpec, value: Any) -> Any:
        if parameter.item is not None:
            return self._read_items(parameter, value)
        try:
            return parameter.read(value)
        except InvalidPayload as exc:
            raise InvalidPayload(f"{self.title}: the argument {parameter.name!r}: {exc}") from None

    async def _read_items(self, parameter: ParameterSpec, items: AsyncIterable[Any]) -> AsyncIterator[Any]:
        read, index = parameter.read, 0
        async for item in items:
            try:
                value = read(item)
            except InvalidPayload as exc:
                raise InvalidPayload(
                    f"{self.title}: item {index} of the argument {parameter.name!r}: {exc}"
                ) from None
            yield value
            index += 1


def options_of(function: Any, *, base: CallOptions) -> CallOptions:
    """Return the options of a method; what it leaves open is as ``base`` says."""
    own: CallOptions | None = getattr(function, OPTIONS, None)
    if own is None:
        return base
    return own._replace(
        timeout=base.timeout if own.timeout is None else own.timeout,
        idempotent=own.idempotent or base.idempotent,
        hedge_after=base.hedge_after if own.hedge_after is None else own.hedge_after,
        raises=own.raises + base.raises,
    )


def seconds(value: Any, what: str) -> float | None:
    """Return a number of seconds, or None.

    :raises ServiceSignatureError: it is no number above 0.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ServiceSignatureError(f"{what} is a number of seconds above 0, and not {value!r}")
    return float(value)


def read_method(
    owner: str,
    name: str,
    function: Any,
    names: Mapping[str, Any],
    base: CallOptions,
    access: Access = OPEN,
) -> MethodSpec:
    """Return the description of a method.

    :param owner: the name of the interface's class.
    :param names: what annotations may name besides the globals of the function's module.
    :param base: the options of the interface.
    :param access: who may call methods that say nothing themselves.
    :raises ServiceSignatureError: it cannot travel: says which parameter, or that it is the result.
    :raises NameError: a name in an annotation means nothing yet.
    """
    title = f"{owner}.{name}"
    signature = inspect.signature(function)
    hints = typing.get_type_hints(inspect.unwrap(function), None, dict(names), include_extras=True)
    if not signature.parameters:
        raise ServiceSignatureError(f"{title} has no self, which is the first parameter of a method")
    parameters = []
    for one in list(signature.parameters.values())[1:]:
        if one.kind in _VARIABLE:
            raise ServiceSignatureError(
                f"{title}: {one} takes any number of arguments, which no caller elsewhere can be told of; "
                "name each of them"
            )
        parameters.append(_parameter(title, one, hints.get(one.name, Any)))
    if sum(one.item is not None for one in parameters) > 1:
        raise ServiceSignatureError(f"{title}: one of its arguments can be a stream, and it has several")
    returns = hints.get("return", Any)
    result, _ = _bare(returns)
    item = _item(result)
    if item is not None and inspect.iscoroutinefunction(function):
        raise ServiceSignatureError(
            f"{title} returns a stream: write `def {name}(...) -> AsyncIterator[...]`, without async, or "
            "with a yield in it"
        )
    kind = result if item is None else item
    read = _reader(kind, f"{title}: its result")
    exact = any(map(_exact, [kind, *(one.type if one.item is None else one.item for one in parameters)]))
    return MethodSpec(
        name=name,
        title=title,
        function=function,
        signature=signature.replace(parameters=list(signature.parameters.values())[1:]),
        parameters=tuple(parameters),
        positional=tuple(one for one in parameters if one.kind is not Parameter.KEYWORD_ONLY),
        by_name=tuple(one for one in parameters if one.kind is Parameter.KEYWORD_ONLY),
        result=result,
        item=item,
        asynchronous=item is not None or inspect.iscoroutinefunction(function),
        exact=exact,
        options=options_of(function, base=base),
        read_result=read,
        results=Results(title, kind, read, exact=exact),
        access=getattr(function, ACCESS, access),
    )


def _parameter(title: str, one: Parameter, annotation: Any) -> ParameterSpec:
    kind, metadata = _bare(annotation)
    item = _item(kind)
    read = _reader(kind if item is None else item, f"{title}: its argument {one.name!r}")
    return ParameterSpec(one.name, one.kind, kind, metadata, one.default, item, read)


def _bare(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without the metadata of ``Annotated``, and the metadata."""
    if typing.get_origin(annotation) is typing.Annotated:
        return annotation.__origin__, annotation.__metadata__
    return annotation, ()


def _item(kind: Any) -> Any:
    """Return the type of what a stream holds, None if it is no stream."""
    if typing.get_origin(kind) in _STREAMS:
        return typing.get_args(kind)[0]
    return Any if kind in _STREAMS else None


def _exact(kind: Any) -> bool:
    return kind is not Any and kind is not type(None) and wants_digits(kind)


def _reader(kind: Any, where: str) -> Callable[[Any], Any]:
    """Return what makes a value of a plain one.

    :raises ServiceSignatureError: it cannot travel.
    """
    if kind is Any:
        return _as_it_is
    try:
        made = reader(kind, digits=_exact(kind))
        strange = None if is_model(kind) else _unreadable(kind)
    except NameError:
        raise
    except Exception as exc:  # a type may be anything, and fail in any way
        raise _cannot_travel(where, kind, str(exc)) from None
    if strange is not None:
        raise _cannot_travel(where, kind, f"nothing says how {_called(strange)} is written and read")
    return made


def _unreadable(kind: Any) -> Any:
    """Return a class within a type that nobody can read, None if there is none."""
    found = (part.cls for part in parts(msgspec.inspect.type_info(kind)) if isinstance(part, CustomType))
    return next((cls for cls in found if not is_model(cls)), None)


def _cannot_travel(where: str, kind: Any, reason: str) -> ServiceSignatureError:
    return ServiceSignatureError(
        f"{where}, {_called(kind)}, cannot travel: {reason}; use plain values, dataclasses, Structs or "
        "pydantic models"
    )


def _called(kind: Any) -> str:
    return kind.__qualname__ if isinstance(kind, type) else str(kind)


def _as_it_is(value: Any) -> Any:
    return value
