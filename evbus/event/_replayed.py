"""Events that a listener gave up, handed to it once more."""

from __future__ import annotations

from collections.abc import Callable

from evbus.evbus._settings import Delivery as Settings
from evbus.evbus._stats import Counters
from evbus.types import Delivery, Envelope

from ._declare import EventSpec
from ._listening import Listening
from ._reader import NAME

__all__ = ["Replayed", "lane_of"]


def lane_of(listener: str) -> str:
    """Return what stands for the lane in the record of an event that a listener gave up."""
    return f"listener {listener}"


class Replayed:
    """A listener, as ``evbus replay`` sees the lane of a destination.

    :param events: those that it listens to.
    :param keep: records what it had no time for.
    """

    def __init__(
        self, listening: Listening, events: list[EventSpec], keep: Callable[[list[Envelope]], None]
    ) -> None:
        self.counters = Counters()
        self.delivery = Settings()
        self._listening = listening
        self._events = {event.name: event for event in events}
        self._keep = keep

    def __repr__(self) -> str:
        return f"<Replayed {self._listening!r}>"

    def offer(self, events: list[Envelope], size: int) -> None:
        """Let the listener handle events."""
        for event in events:
            self.counters.accepted += 1
            name = event.headers.get(NAME, event.routing_key)
            spec = self._events.get(name) or next(iter(self._events.values()))
            self._listening.take(Delivery(event, self._settle, event), spec)

    def _settle(self, event: Envelope, accepted: bool, requeue: bool) -> None:
        if accepted:
            self.counters.delivered += 1
        else:
            self.counters.dead += 1
            if requeue:
                self._keep([event])
