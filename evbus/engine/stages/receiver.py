"""For whom an event is being handled: events are handled once by each receiver, and not once in all."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["RECEIVER"]

#: The listener or handler that the interceptors run around, ``""`` when the process has only one.
RECEIVER: ContextVar[str] = ContextVar("evbus_receiver", default="")
