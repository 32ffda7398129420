"""Choose the pipeline plugins and put them in order, once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from evbus.errors import SettingsError, absent
from evbus.pipeline._receiver import RECEIVER
from evbus.types import Envelope

__all__ = ["Around", "Interceptor", "around", "arrange", "before"]

_Handle = Callable[[Envelope], Awaitable[Any]]


class Around(Protocol):
    """All ``handle`` of the pipeline in one."""

    def __call__(self, envelope: Envelope, call_next: _Handle, receiver: str = "") -> Awaitable[Any]:
        """Await them around ``call_next(envelope)``.

        :param receiver: the listener or handler that ``call_next`` stands for, where there are several:
            each of them has the event handled once.
        """


class Interceptor(NamedTuple):
    """A pipeline plugin: ``order`` is its ``__order__``, ``optional`` its ``__optional__``."""

    name: str
    order: int = 0
    optional: bool = False


def arrange(plugins: Mapping[str, Interceptor], chosen: Sequence[str] | None) -> list[str]:
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


def before(steps: Sequence[Callable[[Envelope], Any]]) -> Callable[[Envelope], None] | None:
    """Return one function that calls all ``steps``, None when there are none."""
    if not steps:
        return None

    def send(envelope: Envelope) -> None:
        for step in steps:
            step(envelope)

    return send


def around(steps: Sequence[Callable[[Envelope, _Handle], Awaitable[Any]]]) -> Around | None:
    """Return one function that calls ``steps`` around what it is given, None when there are none.

    The last is the outermost: what was done last to an event when it was sent is undone first.
    """
    if not steps:
        return None

    def handle(envelope: Envelope, call_next: _Handle, receiver: str = "") -> Awaitable[Any]:
        for step in steps:
            call_next = _around(step, call_next)
        return _received(receiver, envelope, call_next) if receiver else call_next(envelope)

    return handle


def _around(step: Callable[[Envelope, _Handle], Awaitable[Any]], inner: _Handle) -> _Handle:
    return lambda envelope: step(envelope, inner)


async def _received(receiver: str, envelope: Envelope, handle: _Handle) -> Any:
    token = RECEIVER.set(receiver)
    try:
        return await handle(envelope)
    finally:
        RECEIVER.reset(token)
