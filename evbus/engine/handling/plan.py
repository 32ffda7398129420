"""The plan of a call: read from the signature of a handler, and bound to its values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from evbus.engine.handling.annotations import may_be, written
from evbus.engine.handling.providers import MISSING, is_class
from evbus.errors import HandlerSignatureError

__all__ = [
    "Bound",
    "CallPlan",
    "Dependency",
    "Inputs",
    "Values",
    "check_response",
    "find",
    "make",
    "pending_error",
    "sources",
]

Call = Callable[[Any], Coroutine[Any, Any, Any]]


class Dependency(NamedTuple):
    """A parameter that is injected by its annotation; ``known`` when a value was there at binding."""

    parameter: str
    annotation: Any
    required: bool
    known: bool


class Values(NamedTuple):
    """The values for a handler besides the message, by parameter: when it is built, and in every call."""

    init: dict[str, Any]
    call: dict[str, Any]

    def __repr__(self) -> str:
        """Show names and no values, which may be secret."""
        return f"<Values init={list(self.init)} call={list(self.call)}>"


class Inputs(NamedTuple):
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


class CallPlan(NamedTuple):
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
    init: Inputs | None
    call: Inputs
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


class Bound(NamedTuple):
    """A handler ready to be called; ``owner`` is the object whose method it is, None of a function."""

    call: Call
    owner: Any


def find(look: Callable[[Any], Any], annotation: Any, message: str, handler: str) -> Any:
    """Look for what is provided for an annotation; an error names the handler."""
    if annotation is Any:
        return MISSING
    try:
        return look(annotation)
    except HandlerSignatureError as exc:
        raise HandlerSignatureError(exc.reason, message=message, handler=handler) from None


def sources(plan: CallPlan, look: Callable[[Any], Any], the_hub: Any = None) -> Values:
    """Return the value or provider of every parameter that is injected; ``Injector.fill`` makes what to make.

    :raises HandlerSignatureError: nothing, or more than one type, is provided for one of them.
    """

    def of(inputs: Inputs) -> dict[str, Any]:
        found = dict(inputs.given)
        if inputs.takes_hub:
            found["hub"] = the_hub
        for dependency in inputs.dependencies:
            value = find(look, dependency.annotation, plan.message, plan.name)
            if value is not MISSING:
                found[dependency.parameter] = value
            elif dependency.required:
                raise pending_error(plan, dependency)
        return found

    return Values(of(plan.init) if plan.init is not None else {}, of(plan.call))


def pending_error(plan: CallPlan, dependency: Dependency) -> HandlerSignatureError:
    """Return the error that says that a type was never provided."""
    return HandlerSignatureError(
        f"nothing is provided for {dependency.parameter!r}, a {written(dependency.annotation)}; provide that "
        f"type before the start, or give it when binding ({dependency.parameter}=...), or name the message's "
        "parameter with argname=...",
        message=plan.message,
        handler=plan.name,
    )


def make(plan: CallPlan, values: Values) -> Bound:
    """Build a handler's object if it is a class, and return what is called with a message."""
    target, owner = plan.target, getattr(plan.target, "__self__", None) if plan.method else None
    if plan.init is not None:
        owner = target(**values.init)
        target = getattr(owner, plan.method)
    rest = dict(values.call)
    before = [rest.pop(name, default) for name, default in plan.before]
    last = max((index for index, (name, _) in enumerate(plan.after, 1) if name in rest), default=0)
    after = tuple(rest.pop(name, default) for name, default in plan.after[:last])
    if before or rest:
        target = functools.partial(target, *before, **rest)
    return Bound(_caller(target, plan, after), owner)


def _caller(target: Callable[..., Any], plan: CallPlan, after: tuple[Any, ...]) -> Call:
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


def check_response(plan: CallPlan, response_event: Any) -> None:
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
