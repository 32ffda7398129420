"""The methods of an interface: what they take and return, and how both travel."""

from __future__ import annotations

import collections.abc
import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any, NamedTuple

from evbus.engine.codec.typed import reader, wants_digits
from evbus.errors import InvalidPayload, ServiceSignatureError

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
    """

    timeout: float | None = None
    idempotent: bool = False
    hedge_after: float | None = None


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
    :ivar parameters: without ``self``.
    :ivar result: the type of what it returns, ``typing.Any`` if that is not said.
    :ivar item: the type of what it yields, None unless it returns a stream.
    :ivar asynchronous: it is awaited, or iterated with ``async for``.
    :ivar exact: numbers are to know how they were written, as one of its types has a Decimal.
    :ivar read_result: makes a result, or an item of the stream, of plain values.
    """

    name: str
    title: str
    function: Any
    signature: inspect.Signature
    parameters: tuple[ParameterSpec, ...]
    result: Any
    item: Any
    asynchronous: bool
    exact: bool
    options: CallOptions
    read_result: Callable[[Any], Any]

    @property
    def streams(self) -> bool:
        """Whether the result or an argument is a stream."""
        return self.item is not None or any(one.item is not None for one in self.parameters)

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of a call as they travel: those that have a position, then the rest by name.

        Defaults that stand in front of an argument that is given are filled in.

        :raises TypeError: it cannot be called like this; the sentence is Python's, with the method's name.
        """
        parameters = self.parameters
        if not kwargs and len(args) == len(parameters) and not self._by_name:
            return list(args), {}
        try:
            bound = self.signature.bind(*args, **kwargs).arguments
        except TypeError as exc:
            raise TypeError(f"{self.title}(): {exc}") from None
        by_name = {one.name: bound[one.name] for one in self._by_name if one.name in bound}
        positional = [one for one in parameters if one.kind is not Parameter.KEYWORD_ONLY]
        while positional and positional[-1].name not in bound:
            positional.pop()
        return [bound.get(one.name, one.default) for one in positional], by_name

    @property
    def _by_name(self) -> list[ParameterSpec]:
        return [one for one in self.parameters if one.kind is Parameter.KEYWORD_ONLY]

    def read_arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return arguments that have travelled, each of its type.

        :raises InvalidPayload: one is missing, is unknown or does not fit: names it.
        """
        positional = [one for one in self.parameters if one.kind is not Parameter.KEYWORD_ONLY]
        if len(args) > len(positional):
            raise InvalidPayload(
                f"{self.title} takes {len(positional)} arguments by position, and {len(args)} came"
            )
        found = dict(zip((one.name for one in positional), args, strict=False))
        for name, value in kwargs.items():
            if name in found or not any(one.name == name for one in self.parameters):
                why = "came twice" if name in found else "is none that it takes"
                raise InvalidPayload(f"{self.title}: the argument {name[:100]!r} {why}")
            found[name] = value
        values: dict[str, Any] = {}
        for one in self.parameters:
            if one.name in found:
                values[one.name] = self._read(one, found[one.name])
            elif one.required:
                raise InvalidPayload(f"{self.title}: the argument {one.name!r} is missing")
        first = [one for one in positional if one.kind is Parameter.POSITIONAL_ONLY]
        before = [values.pop(one.name) for one in first if one.name in values]
        return before, values

    def _read(self, parameter: ParameterSpec, value: Any) -> Any:
        try:
            return parameter.read(value)
        except InvalidPayload as exc:
            raise InvalidPayload(f"{self.title}: the argument {parameter.name!r}: {exc}") from None


def options_of(function: Any, *, base: CallOptions) -> CallOptions:
    """Return the options of a method; what it leaves open is as ``base`` says."""
    own: CallOptions | None = getattr(function, OPTIONS, None)
    if own is None:
        return base
    return own._replace(
        timeout=base.timeout if own.timeout is None else own.timeout,
        idempotent=own.idempotent or base.idempotent,
        hedge_after=base.hedge_after if own.hedge_after is None else own.hedge_after,
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
    owner: str, name: str, function: Any, names: Mapping[str, Any], base: CallOptions
) -> MethodSpec:
    """Return the description of a method.

    :param owner: the name of the interface's class.
    :param names: what annotations may name besides the globals of the function's module.
    :param base: the options of the interface.
    :raises ServiceSignatureError: it cannot travel: says which parameter, or that it is the result.
    :raises NameError: a name in an annotation means nothing yet.
    """
    title = f"{owner}.{name}"
    signature = inspect.signature(function)
    hints = typing.get_type_hints(inspect.unwrap(function), None, dict(names), include_extras=True)
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
            f"{title} returns a stream: write `def {name}(...) -> AsyncIterator[...]`, without async, or with "
            "a yield in it"
        )
    kind = result if item is None else item
    return MethodSpec(
        name=name,
        title=title,
        function=function,
        signature=signature.replace(parameters=list(signature.parameters.values())[1:]),
        parameters=tuple(parameters),
        result=result,
        item=item,
        asynchronous=item is not None or inspect.iscoroutinefunction(function),
        exact=any(map(_exact, [kind, *(one.type if one.item is None else one.item for one in parameters)])),
        options=options_of(function, base=base),
        read_result=_reader(kind, f"{title}: its result"),
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
        return reader(kind, digits=_exact(kind))
    except NameError:
        raise
    except Exception as exc:  # a type may be anything, and fail in any way
        what = getattr(kind, "__qualname__", None) or str(kind)
        raise ServiceSignatureError(
            f"{where}, a {what}, cannot travel: {exc}; use plain values, dataclasses, Structs or pydantic "
            "models"
        ) from None


def _as_it_is(value: Any) -> Any:
    return value
