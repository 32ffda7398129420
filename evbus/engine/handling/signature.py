"""Read a handler's signature when it is bound, so that a message costs one call."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from inspect import Parameter
from typing import Any, NamedTuple

from evbus.engine.handling.annotations import (
    in_class,
    listed,
    may_be,
    message_name,
    namespaces,
    providable,
    resolved,
    signature_of,
    written,
)
from evbus.engine.handling.providers import (
    MISSING,
    Provider,
    is_async,
    is_class,
    is_contracted,
    layers,
    members,
    name_of,
)
from evbus.errors import HandlerDoesNotExist, HandlerError, HandlerIsSync, HandlerSignatureError, nearest

__all__ = [
    "Dependency",
    "check_response",
    "dependencies_of",
    "make",
    "pending_error",
    "read",
    "sources",
    "values_of",
]

EMPTY: Any = Parameter.empty
_NAMED = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_VARIABLE = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_ASYNC = (
    "handlers are asynchronous; write `async def`, and run blocking code with `await asyncio.to_thread(...)`"
)

Call = Callable[[Any], Coroutine[Any, Any, Any]]


class Dependency(NamedTuple):
    """A parameter that is injected by its annotation; ``known`` when a value was there at binding."""

    parameter: str
    annotation: Any
    required: bool
    known: bool


class _Values(NamedTuple):
    """The values for a handler besides the message, by parameter: when it is built, and in every call."""

    init: dict[str, Any]
    call: dict[str, Any]

    def __repr__(self) -> str:
        """Show names and no values, which may be secret."""
        return f"<Values init={list(self.init)} call={list(self.call)}>"


class _Inputs(NamedTuple):
    """The sources of the values of a signature's parameters."""

    given: dict[str, Any]
    takes_hub: bool
    dependencies: tuple[Dependency, ...]

    def __repr__(self) -> str:
        """Show names and no values, which may be secret."""
        names = [
            *self.given,
            *(["hub"] if self.takes_hub else []),
            *(one.parameter for one in self.dependencies),
        ]
        return f"<Inputs {names}>"


class _CallPlan(NamedTuple):
    """The plan of the calls of a handler.

    :ivar name: the handler's name, :ivar message: the message's, both as sentences name them.
    :ivar target: what is called, or the class that is built first when there is ``init``.
    :ivar method: of the object or class, ``"handle"`` or ``"__call__"``; ``""`` of a function.
    :ivar collects: it has ``add_event`` and ``dump_events`` beside ``handle``.
    :ivar argument: the message's parameter, ``""`` without one or for ``*args``.
    :ivar way: how the message goes in: ``"position"``, ``"keyword"`` or ``"nothing"``.
    :ivar before: parameters, and their defaults, that go in by position ahead of the message.
    :ivar after: the same for those behind it, as far as there are values for them.
    :ivar returns: the annotation of the result, ``typing.Any`` when unknown.
    """

    name: str
    message: str
    target: Any
    method: str
    collects: bool
    init: _Inputs | None
    call: _Inputs
    argument: str
    way: str
    before: tuple[tuple[str, Any], ...]
    after: tuple[tuple[str, Any], ...]
    returns: Any

    def __repr__(self) -> str:
        """Show no values that were given, which may be secret."""
        return f"<Plan {self.message} -> {self.name} {self.argument or '-'} by {self.way}>"

    @property
    def pending(self) -> tuple[Dependency, ...]:
        """The parameters whose type was not provided yet, and has to be by the start."""
        inputs = (self.init, self.call) if self.init is not None else (self.call,)
        return tuple(
            dependency
            for one in inputs
            for dependency in one.dependencies
            if dependency.required and not dependency.known
        )


def _find(look: Callable[[Any], Any], annotation: Any, message: str, handler: str) -> Any:
    """Look for what is provided for an annotation; an error names the handler."""
    if annotation is Any:
        return MISSING
    try:
        return look(annotation)
    except HandlerSignatureError as exc:
        raise HandlerSignatureError(exc.reason, message=message, handler=handler) from None


def dependencies_of(
    parameters: Iterable[Parameter],
    look: Callable[[Any], Any],
    handler: str,
    message: str = "",
    *,
    builtin: bool = False,
) -> tuple[tuple[Dependency, ...], list[Parameter]]:
    """Return the parameters that are, or may be, provided by their types, and the others that are needed.

    It may be provided later; what has a default keeps it then if it is not.

    :param builtin: what is needed may be of a builtin type.
    :raises HandlerSignatureError: several types are provided for one of them.
    """
    dependencies, missing = [], []
    for one in parameters:
        known = _find(look, one.annotation, message, handler) is not MISSING
        required = one.default is EMPTY
        if known or providable(one.annotation, builtin=builtin and not required):
            dependencies.append(Dependency(one.name, one.annotation, required, known))
        elif required:
            missing.append(one)
    return tuple(dependencies), missing


def values_of(
    dependencies: Iterable[Dependency],
    look: Callable[[Any], Any],
    lack: Callable[[Dependency], Exception],
    handler: str,
    message: str = "",
) -> dict[str, Any]:
    """Return the value or provider of each parameter, but of those that keep their defaults.

    :param lack: returns the error for one that is provided by nobody.
    """
    found = {}
    for dependency in dependencies:
        value = _find(look, dependency.annotation, message, handler)
        if value is not MISSING:
            found[dependency.parameter] = value
        elif dependency.required:
            raise lack(dependency)
    return found


def sources(plan: _CallPlan, look: Callable[[Any], Any], the_hub: Any = None) -> _Values:
    """Return the value or provider of every parameter that is injected; ``Injector.fill`` makes what to make.

    :raises HandlerSignatureError: nothing, or more than one type, is provided for one of them.
    """

    def of(inputs: _Inputs) -> dict[str, Any]:
        found = dict(inputs.given)
        if inputs.takes_hub:
            found["hub"] = the_hub
        lack = functools.partial(pending_error, plan)
        return found | values_of(inputs.dependencies, look, lack, plan.name, plan.message)

    return _Values(of(plan.init) if plan.init is not None else {}, of(plan.call))


def pending_error(plan: _CallPlan, dependency: Dependency) -> HandlerSignatureError:
    """Return the error that says that a type was never provided."""
    return HandlerSignatureError(
        f"nothing is provided for {dependency.parameter!r}, a {written(dependency.annotation)}; provide that "
        f"type before the start, or give it when binding ({dependency.parameter}=...), or name the message's "
        "parameter with argname=...",
        message=plan.message,
        handler=plan.name,
    )


def make(plan: _CallPlan, values: Sequence[dict[str, Any]]) -> tuple[Call, Any]:
    """Build a handler's object if it is a class, and return what is called with a message, and the object.

    That is None of a function.
    """
    init, call = values
    target, owner = plan.target, getattr(plan.target, "__self__", None) if plan.method else None
    if plan.init is not None:
        owner = target(**init)
        target = getattr(owner, plan.method)
    rest = dict(call)
    before = [rest.pop(name, default) for name, default in plan.before]
    last = max((index for index, (name, _) in enumerate(plan.after, 1) if name in rest), default=0)
    after = tuple(rest.pop(name, default) for name, default in plan.after[:last])
    if before or rest:
        target = functools.partial(target, *before, **rest)
    return _caller(target, plan, after), owner


def _caller(target: Callable[..., Any], plan: _CallPlan, after: tuple[Any, ...]) -> Call:
    """Return ``target`` itself where possible.

    Python passes what follows the message by position in half the time that ``partial`` takes to merge
    keywords.
    """
    if plan.way == "nothing":
        return lambda _message: target()
    if plan.way == "keyword":
        argument = plan.argument
        return lambda message: target(**{argument: message})
    if len(after) == 1:
        (only,) = after
        return lambda message: target(message, only)
    if after:
        return lambda message: target(message, *after)
    return target


def check_response(plan: _CallPlan, response_event: Any) -> None:
    """Check that ``response_event`` is a class, or several, and that the handler may return one of them.

    :raises HandlerSignatureError: otherwise.
    """
    kinds = response_event if isinstance(response_event, tuple) else (response_event,)
    where = {"message": plan.message, "handler": plan.name}
    if not kinds or not all(map(is_class, kinds)):
        raise HandlerSignatureError(
            f"response_event must be a class or a tuple of classes, not {response_event!r}", **where
        )
    if not any(may_be(kind, plan.returns) for kind in kinds):
        expected = " or ".join(kind.__qualname__ for kind in kinds)
        raise HandlerSignatureError(
            f"it returns {written(plan.returns)}, which is never the response_event {expected}; "
            "return that, or bind it without response_event",
            **where,
        )


def read(
    handler: Any,
    *,
    message: Any,
    name: str = "",
    argname: str | None = None,
    given: Mapping[str, Any] | None = None,
    provided: Callable[[Any], Any] = lambda _annotation: MISSING,
    hub_known: bool = True,
) -> _CallPlan:
    """Return the plan by which ``handler`` is called for a message.

    :param message: a class or a string.
    :param name: the handler's name in sentences, when it is not that of the function.
    :param argname: the parameter that takes the message.
    :param given: values and providers by parameter; those of a class go to its constructor.
    :param provided: returns the value or provider of an annotation, or ``MISSING``: ``Injector.find``.
    :param hub_known: there is a hub for parameters called ``hub``.
    :raises HandlerDoesNotExist: there is none.
    :raises HandlerIsSync: it is a plain function.
    :raises HandlerSignatureError: it cannot be called with the message and what is given and provided.
    """
    reader = _Reader(message, name or name_of(handler), provided, hub_known=hub_known)
    given = dict(given or {})
    reader.check(handler, given)
    found = reader.target(handler)
    parameters, returns = reader.parameters(found, given)
    init = reader.constructor(found.call, given) if found.built else None
    for_call = {} if found.built else given
    argument = reader.argument(parameters, argname, for_call)
    call = reader.inputs(parameters, for_call, argument)
    way, before, after = _arrange(parameters, argument)
    return _CallPlan(
        name=reader.name,
        message=reader.message_name,
        target=found.call,
        method=found.method,
        collects=found.method == "handle" and _collects(handler),
        init=init,
        call=call,
        argument=argument.name if argument is not None and argument.kind not in _VARIABLE else "",
        way=way,
        before=before,
        after=after,
        returns=returns,
    )


class _Target(NamedTuple):
    """The object to call, and the callable ``source`` whose signature counts, without ``skip`` parameters."""

    call: Any
    method: str
    source: Any
    skip: int
    built: bool = False


class _Reader:
    """Reads the signature of one handler, and names it and its message in what it raises."""

    def __init__(self, message: Any, name: str, provided: Callable[[Any], Any], *, hub_known: bool) -> None:
        self.message = message
        self.message_name = message_name(message)
        self.name = name
        self.provided = provided
        self.hub_known = hub_known
        self.kind = str if isinstance(message, str) else message
        self.certain = False  # whether the message's parameter was told by name or annotation

    def error(self, reason: str, kind: type[HandlerError] = HandlerSignatureError) -> HandlerError:
        return kind(reason, message=self.message_name, handler=self.name)

    def check(self, handler: Any, given: Mapping[str, Any]) -> None:
        """Refuse what is no handler, no message or no value at first sight."""
        if not is_class(self.message) and (not isinstance(self.message, str) or not self.message):
            raise HandlerSignatureError(
                f"a message is a class or a string that is not empty, not {self.message!r}; bind one of those"
            )
        if handler is None:
            raise HandlerDoesNotExist(
                f"None was bound to {self.message_name}; bind an `async def` function",
                message=self.message_name,
            )
        if inspect.iscoroutine(handler):
            handler.close()
            raise self.error("it was called already; bind the function itself, without parentheses")
        for name, value in given.items():
            if is_class(value) and issubclass(value, Provider):
                form = f'{name}={value.__name__}["name": function]'
                raise self.error(f"{value.__name__} alone makes nothing; write {form}")

    def target(self, handler: Any) -> _Target:
        if is_class(handler):
            method = self._method(handler, handler)
            fixed = isinstance(inspect.getattr_static(handler, method), (staticmethod, classmethod))
            return _Target(handler, method, getattr(handler, method), 0 if fixed else 1, built=True)
        if is_contracted(handler):
            if not is_async(handler.func):
                raise self._sync(handler.func, "it")
            return _Target(handler, "", handler.func, int(handler.implicit_hub))
        wraps = inspect.isroutine(handler) or isinstance(handler, (functools.partial, staticmethod))
        if wraps and callable(handler):
            if not is_async(handler):
                raise self._sync(handler, "it")
            return _Target(handler, "", handler, 0)
        method = self._method(handler, type(handler))
        if method == "handle":
            return _Target(handler.handle, method, handler.handle, 0)
        # A bound method is called faster than the object, whose wrappers inspect sees through.
        plain = inspect.iscoroutinefunction(type(handler).__call__)
        return _Target(handler.__call__ if plain else handler, method, handler, 0)

    def _method(self, handler: Any, kind: type) -> str:
        """Return the name of the method that handles: the first of two that is asynchronous."""
        called = kind.__call__ if handler is kind else handler
        found = {"__call__": called} if any("__call__" in vars(one) for one in kind.__mro__) else {}
        if _has(handler, "handle"):
            own = {"handle": handler.handle}
            found = {**own, **found} if _collects(handler) else {**found, **own}
        if not found:
            raise self.error(
                "it is no `async def` function and has neither `async def __call__` nor `async def handle`; "
                "write one of them"
            )
        for method, function in found.items():
            if is_async(function):
                return method
        method, function = next(iter(found.items()))
        raise self._sync(function, f"its {method}")

    def _sync(self, function: Any, what: str) -> HandlerError:
        if any(inspect.isasyncgenfunction(layer) for layer in layers(function)):
            return self.error(
                f"{what} is an async generator, and a handler ends with one result; "
                "write `return` in place of `yield`, and send events for the rest"
            )
        return self.error(f"{what} is a plain function, and {_ASYNC}", HandlerIsSync)

    def parameters(self, found: _Target, given: Mapping[str, Any]) -> tuple[list[Parameter], Any]:
        """Return the parameters that can be passed, with resolved annotations, and that of the result."""
        signature = signature_of(found.source)
        parameters = list(signature.parameters.values())
        first = parameters[0].name if parameters else ""
        if found.skip and (not first or parameters[0].kind not in (*_NAMED, Parameter.VAR_POSITIONAL)):
            method = found.method
            raise self.error(f"its {method} has no parameter for its object; write {method}(self, message)")
        if first == "self" and not found.skip and in_class(found.source):
            raise self.error("it is a method without its object; bind the method of an object, or the class")
        # The object goes into *parameters as well, before the message.
        skip = found.skip if not first or parameters[0].kind in _NAMED else 0
        # What a partial was given by keyword is settled, though inspect shows it as a default.
        settled = found.source.keywords if isinstance(found.source, functools.partial) else {}
        names = namespaces(found.source, self.message)
        parameters = [
            one.replace(annotation=resolved(one.annotation, names))
            for one in parameters[skip:]
            if one.name not in settled or one.name in given
        ]
        return parameters, resolved(signature.return_annotation, names)

    def constructor(self, handler: type, given: dict[str, Any]) -> _Inputs:
        """Return the inputs of the constructor of a class."""
        missing: list[Any] = sorted(getattr(handler, "__abstractmethods__", ()))
        if missing or getattr(handler, "_is_protocol", False):
            lack = f"it leaves out {listed(missing)}" if missing else "it is a protocol"
            raise self.error(f"{lack} and cannot be built; bind a class that has every method")
        parameters = list(signature_of(handler).parameters.values())
        init = handler.__init__  # type: ignore[misc]
        names = namespaces(init if inspect.isfunction(init) else handler, self.message)
        parameters = [one.replace(annotation=resolved(one.annotation, names)) for one in parameters]
        for one in parameters:
            if one.kind is Parameter.POSITIONAL_ONLY and (one.default is EMPTY or one.name in given):
                raise self.error(
                    f"its constructor's parameter {one.name!r} is positional-only, and classes are built "
                    "with keywords; remove the `/` from the signature"
                )
        usable = [one for one in parameters if one.kind is not Parameter.POSITIONAL_ONLY]
        return self.inputs(usable, given, None, "its constructor")

    def argument(
        self, parameters: list[Parameter], argname: str | None, given: Mapping[str, Any]
    ) -> Parameter | None:
        """Return the parameter that takes the message, None when the handler takes none."""
        named = [one for one in parameters if one.kind not in _VARIABLE]
        if argname is not None:
            taken = [one for one in named if one.name == argname]
            if not taken:
                hint = nearest(argname, [one.name for one in named]) or "; bind it without argname"
                raise self.error(f"it has no parameter {argname!r} to take the message{hint}")
        else:
            taken = [one for one in named if one.name != "hub" and self._takes_message(one)]
            taken = [one for one in taken if one.name not in given] or taken
        if len(taken) > 1:
            raise self.error(
                f"ambiguous argument: {listed(taken)} are all annotated as the message; name the one with "
                f"argname={taken[0].name!r}, and give the rest when binding ({taken[1].name}=...)"
            )
        if not taken:
            return self._first(parameters, given)
        if taken[0].name in given:
            raise self.error(
                f"{taken[0].name!r} takes the message and cannot be given when binding; leave it out, or "
                "name another parameter with argname=..."
            )
        self.certain = True
        return taken[0]

    def _first(self, parameters: list[Parameter], given: Mapping[str, Any]) -> Parameter | None:
        """Return the first free parameter that a message may be."""
        free = [one for one in parameters if one.name != "hub" and one.name not in given]
        named = [one for one in free if one.kind not in _VARIABLE and self._find(one) is MISSING]
        for one in named:
            if isinstance(self.message, str) or may_be(self.kind, one.annotation):
                return one
        for one in free:
            if one.kind is Parameter.VAR_POSITIONAL:
                return one
        for one in named:
            if one.default is EMPTY:
                raise self.error(
                    f"ambiguous argument: {one.name!r} is annotated {written(one.annotation)}, which no "
                    f"{self.message_name} is; if it takes the message, say argname={one.name!r}, else give "
                    f"it when binding ({one.name}=...)"
                )
        if not given and any(one.kind is Parameter.VAR_KEYWORD for one in parameters):
            raise self.error(
                "it takes keywords alone, and would be called without the message; write a parameter for it, "
                "or none at all"
            )
        return None

    def _takes_message(self, one: Parameter) -> bool:
        kinds = (typing.get_origin(kind) or kind for kind in members(one.annotation))
        return any(kind in self.kind.__mro__ and kind is not object for kind in kinds)

    def _find(self, one: Parameter) -> Any:
        return _find(self.provided, one.annotation, self.message_name, self.name)

    def inputs(
        self, parameters: list[Parameter], given: dict[str, Any], argument: Parameter | None, what: str = "it"
    ) -> _Inputs:
        """Return the inputs of all parameters but the message's."""
        others = [one for one in parameters if one is not argument and one.kind not in _VARIABLE]
        names = [one.name for one in others]
        if not any(one.kind is Parameter.VAR_KEYWORD for one in parameters):
            for name in given:
                if name not in names:
                    hint = nearest(name, [one for one in names if one != "hub"]) or "; bind it without"
                    raise self.error(f"{what} has no parameter {name!r}{hint}")
        takes_hub = "hub" in names and "hub" not in given and self.hub_known
        open_ones = [one for one in others if one.name not in given and not (one.name == "hub" and takes_hub)]
        dependencies, missing = dependencies_of(
            open_ones, self.provided, self.name, self.message_name, builtin=True
        )
        if missing:
            raise self._lacking(missing, argument, what)
        return _Inputs(given, takes_hub, dependencies)

    def _lacking(self, missing: list[Parameter], argument: Parameter | None, what: str) -> HandlerError:
        if any(one.name == "hub" for one in missing):
            return self.error(f"{what} takes a hub, and there is none here; give one when binding (hub=...)")
        ways = ", ".join(f"{one.name}=..." for one in missing)
        if what != "it":
            return self.error(f"{what} needs {listed(missing)}; give that when binding ({ways})")
        if argument is None or self.certain:
            return self.error(
                f"ambiguous argument: nothing is given for {listed(missing)}; give that when binding "
                f"({ways}), or name the message's parameter with argname={missing[0].name!r}"
            )
        return self.error(
            f"ambiguous argument: {listed([argument, *missing], 'or')} could take the message; name the one "
            f"that does with argname={argument.name!r}, and give the rest when binding ({ways})"
        )


def _arrange(
    parameters: list[Parameter], argument: Parameter | None
) -> tuple[str, tuple[tuple[str, Any], ...], tuple[tuple[str, Any], ...]]:
    """Return the way of the message into the call, and the positional parameters before and after it."""
    if argument is None or argument.kind is Parameter.KEYWORD_ONLY:
        only = tuple((one.name, one.default) for one in parameters if one.kind is Parameter.POSITIONAL_ONLY)
        return ("nothing" if argument is None else "keyword"), only, ()
    at = parameters.index(argument)
    before = tuple((one.name, one.default) for one in parameters[:at])
    after = tuple((one.name, one.default) for one in parameters[at + 1 :] if one.kind in _NAMED)
    return "position", before, after


def _collects(handler: Any) -> bool:
    return _has(handler, "add_event") and _has(handler, "dump_events")


def _has(handler: Any, method: str) -> bool:
    # Not what __getattr__ makes up: a mock, or a proxy, would have everything.
    return inspect.getattr_static(handler, method, None) is not None and callable(getattr(handler, method))
