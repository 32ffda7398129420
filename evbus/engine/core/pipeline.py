"""Choose the pipeline plugins and put them in order, once."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from evbus.engine.core.endpoint import Plugin
from evbus.engine.stages.receiver import RECEIVER
from evbus.errors import SettingsError, absent
from evbus.types import Envelope

__all__ = [
    "OPTIONS",
    "Around",
    "DescribedStep",
    "around",
    "arrange",
    "before",
    "takes_descriptor",
]

#: Options without which events are others than somebody thinks, and the plugins that take them.
OPTIONS = {"sign_keys": "sign", "event_mode": "stamp", "event_source": "stamp"}

_Handle = Callable[[Envelope], Awaitable[Any]]


def _none(_envelope: Envelope) -> None:
    return None


#: All ``handle`` of the pipeline in one: ``around(envelope, call_next, receiver, descriptor)`` awaits them
#: around ``call_next(envelope)``. ``receiver`` is the listener or handler that this stands for, where there
#: are several and each has the event handled once; ``descriptor``, the listener's, is for who takes one.
Around = Callable[..., Awaitable[Any]]


def arrange(plugins: Mapping[str, Plugin], chosen: Sequence[str] | None) -> list[str]:
    """Return the names of the active plugins, first to last.

    :param chosen: the option ``pipeline``: exactly these, in this order. None: every plugin that is
        not optional, by ``__order__`` and then by name.
    :raises SettingsError: the option names a plugin that there is none of, or one twice.
    """
    if chosen is None:
        active = [plugin for plugin in plugins.values() if not plugin.optional]
        return [plugin.name for plugin in sorted(active, key=lambda plugin: (plugin.order, plugin.name))]
    for index, name in enumerate(chosen):
        if name not in plugins:
            raise SettingsError(
                f"evbus.pipeline[{index}]: there is no pipeline plugin {name!r}{absent(name, plugins)}"
            )
        if name in chosen[:index]:
            raise SettingsError(f"evbus.pipeline[{index}]: {name!r} is named twice")
    return list(chosen)


class DescribedStep(NamedTuple):
    """A ``send`` or ``handle`` that takes a descriptor as its last argument."""

    call: Callable[..., Any]


def takes_descriptor(function: Callable[..., Any], given: int) -> bool:
    """Return whether a function wants one argument more than the ``given`` ones, the hub among them.

    It is one without a default, or one whose name ends in ``descriptor``.
    """
    parameters = [
        one
        for one in inspect.signature(function).parameters.values()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    more = parameters[given : given + 1]
    return bool(more) and (more[0].default is more[0].empty or more[0].name.endswith("descriptor"))


def before(
    steps: Sequence[Callable[[Envelope], Any] | DescribedStep], describe: Callable[[Envelope], Any] = _none
) -> Callable[[Envelope], None] | None:
    """Return one function that calls all ``steps``, None when there are none.

    :param describe: returns the descriptor of the event in an envelope.
    """
    if not steps:
        return None
    calls = [_describing(step, describe) if isinstance(step, DescribedStep) else step for step in steps]

    def send(envelope: Envelope) -> None:
        for call in calls:
            call(envelope)

    return send


def _describing(step: DescribedStep, describe: Callable[[Envelope], Any]) -> Callable[[Envelope], Any]:
    return lambda envelope: step.call(envelope, describe(envelope))


def around(steps: Sequence[Callable[[Envelope, _Handle], Awaitable[Any]] | DescribedStep]) -> Around | None:
    """Return one function that calls ``steps`` around what it is given, None when there are none.

    The last is the outermost: what was done last to an event when it was sent is undone first.
    """
    if not steps:
        return None

    def handle(
        envelope: Envelope, call_next: _Handle, receiver: str = "", descriptor: Any = None
    ) -> Awaitable[Any]:
        for step in steps:
            call_next = (
                _described(step, descriptor, call_next)
                if isinstance(step, DescribedStep)
                else _around(step, call_next)
            )
        return _received(receiver, envelope, call_next) if receiver else call_next(envelope)

    return handle


def _around(step: Callable[[Envelope, _Handle], Awaitable[Any]], inner: _Handle) -> _Handle:
    return lambda envelope: step(envelope, inner)


def _described(step: DescribedStep, descriptor: Any, inner: _Handle) -> _Handle:
    return lambda envelope: step.call(envelope, inner, descriptor)


async def _received(receiver: str, envelope: Envelope, handle: _Handle) -> Any:
    token = RECEIVER.set(receiver)
    try:
        return await handle(envelope)
    finally:
        RECEIVER.reset(token)
