"""Events that a listener gave up, handed to it once more."""

from __future__ import annotations

from evbus.engine.handling.events.declare import EventSpec
from evbus.engine.handling.events.listening import Listening
from evbus.engine.handling.events.reader import NAME
from evbus.types import Delivery

__all__ = ["Replayed", "lane_of"]


def lane_of(listener: str) -> str:
    """Return the lane's name in the record of an event that a listener gave up."""
    return f"listener {listener}"


class Replayed:
    """A listener, as ``evbus replay`` sees it.

    :param events: those that it listens to.
    """

    def __init__(self, listening: Listening, events: list[EventSpec]) -> None:
        self._listening = listening
        self._events = {event.name: event for event in events}

    def __repr__(self) -> str:
        return f"<Replayed {self._listening!r}>"

    def take(self, delivery: Delivery) -> None:
        """Let the listener handle a delivery."""
        event = delivery.envelope
        name = event.headers.get(NAME, event.routing_key)
        spec = self._events.get(name) or next(iter(self._events.values()))
        self._listening.take(delivery, spec)
