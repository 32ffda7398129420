"""Handlers that are classes and collect events."""

from __future__ import annotations

import abc
from typing import Any, Protocol, runtime_checkable

from evbus.engine.handling.frame import CURRENT
from evbus.errors import DispatchError

__all__ = ["AbstractHandler", "HandlerProtocol", "add_event"]


@runtime_checkable
class HandlerProtocol(Protocol):
    """A handler that collects events while it handles a message.

    They are sent when it has succeeded. One that keeps them in itself gets one message at a time;
    :class:`AbstractHandler` keeps them apart for each message.
    """

    async def handle(self, message: Any, **kwargs: Any) -> Any:
        """Handle a message."""

    async def add_event(self, event: Any) -> None:
        """Keep an event, to be sent when the message is handled."""

    async def dump_events(self) -> list[Any]:
        """Return the events that were kept, and forget them."""
        ...


class AbstractHandler(abc.ABC):
    """A base for handlers that collect events: write ``handle``, and call ``add_event`` in it."""

    @abc.abstractmethod
    async def handle(self, message: Any) -> Any:
        """Handle a message."""

    async def add_event(self, event: Any) -> None:
        """Keep an event: it is sent when this message is handled, and dropped when that fails."""
        add_event(event)

    async def dump_events(self) -> list[Any]:
        """Return the events that were kept for this message, and forget them."""
        frame = CURRENT.get()
        if frame is None or frame.events is None:
            return []
        events, frame.events = frame.events, None
        return events


def add_event(event: Any) -> None:
    """Keep an event for the message that is being handled.

    :raises DispatchError: none is, or no longer.
    """
    frame = CURRENT.get()
    if frame is None or frame.ended:
        raise DispatchError(
            "events are added while a message is handled; elsewhere send them by hub.dispatch.events.handle"
        )
    if frame.events is None:
        frame.events = []
    frame.events.append(event)
