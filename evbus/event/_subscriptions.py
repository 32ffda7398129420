"""Subscriptions: listeners, and where their events come from."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

from evbus.evbus._bridge import Bridge
from evbus.types import Delivery, Subscription

from ._declare import EventSpec, ListenerSpec
from ._listening import Listening

__all__ = ["Consume", "Entry", "Subscriptions"]

log = logging.getLogger("evbus.event")

#: Consumes what a subscription wants: yields nothing but deliveries, from every profile that matches.
Consume = Callable[[str, Subscription], list[AsyncGenerator[Delivery, None]]]


class Entry:
    """A listener that is subscribed.

    :ivar events: those that it listens to.
    :ivar tasks: one for each of them and each profile, while it listens.
    """

    def __init__(
        self, number: int, spec: ListenerSpec, listening: Listening, events: list[EventSpec], metadata: Any
    ) -> None:
        self.id = f"{listening.listener.name}-{number}"
        self.spec = spec
        self.listening = listening
        self.events = events
        self.metadata = metadata
        self.tasks: list[asyncio.Task[None]] = []

    def describe(self) -> dict[str, Any]:
        """Return what is known of it."""
        return {
            "id": self.id,
            "events": [event.name for event in self.events],
            "name": self.listening.listener.name,
            "group": self.spec.group,
            "per_process": self.spec.per_process,
            "profile": self.spec.profile,
            "metadata": self.metadata,
            "listening": bool(self.tasks),
            **self.listening.snapshot(),
        }


class Subscriptions:
    """All listeners of a hub, and whether they listen.

    :param patience: returns the seconds that what is being handled may take when a listener ends.
    """

    def __init__(self, patience: Callable[[], float]) -> None:
        self._patience = patience
        self._entries: dict[str, Entry] = {}
        self._numbers = itertools.count(1)
        self._consume: Consume | None = None

    def __iter__(self) -> Any:
        return iter(list(self._entries.values()))

    @property
    def running(self) -> bool:
        """Whether they listen."""
        return self._consume is not None

    def add(self, spec: ListenerSpec, listening: Listening, events: list[EventSpec], metadata: Any) -> Entry:
        """Add a listener; it listens at once when the others do."""
        entry = Entry(next(self._numbers), spec, listening, events, metadata)
        self._entries[entry.id] = entry
        if self._consume is not None:
            self._listen(entry, self._consume)
        return entry

    async def remove(self, number: str) -> bool:
        """End a listener; what it is handling is handled first. False when there is none."""
        entry = self._entries.pop(number, None)
        if entry is None:
            return False
        await self._end([entry])
        return True

    def start(self, consume: Consume) -> None:
        """Let all of them listen.

        :raises ProfileError: there is no profile that one of them can listen to.
        """
        for entry in self._entries.values():
            self._listen(entry, consume)
        self._consume = consume

    async def stop(self) -> None:
        """Take nothing more, and wait for what is being handled; the rest stays with its source."""
        self._consume = None
        await self._end(list(self._entries.values()))

    def _listen(self, entry: Entry, consume: Consume) -> None:
        spec = entry.spec
        for event in entry.events:
            wanted = Subscription(
                name=event.name,
                group=spec.group or entry.listening.listener.name,
                per_process=spec.per_process or event.broadcast,
                durable=event.durable,
                prefetch=spec.prefetch,
            )
            for deliveries in consume(spec.profile, wanted):
                bridge = Bridge(deliveries, partial(self._take, entry, event), asyncio.sleep)
                task = asyncio.get_running_loop().create_task(
                    bridge.run(0, self._patience()), name=f"evbus listener {entry.id}"
                )
                task.add_done_callback(partial(self._ended, entry))
                entry.tasks.append(task)

    @staticmethod
    def _take(entry: Entry, event: EventSpec, delivery: Delivery) -> None:
        entry.listening.take(delivery, event)

    @staticmethod
    def _ended(entry: Entry, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("listener %s listens no more: %s", entry.id, task.exception())

    async def _end(self, entries: list[Entry]) -> None:
        tasks = [task for entry in entries for task in entry.tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for entry in entries:
            entry.tasks.clear()
            await entry.listening.close(1.0)
