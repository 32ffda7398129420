"""Subscriptions: listeners, and where their events come from."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from evbus.errors import EvbusError
from evbus.evbus._sources import Supply
from evbus.types import Subscription

from ._declare import EventSpec, ListenerSpec
from ._feed import Feed
from ._listening import Listening

__all__ = ["Entry", "Subscriptions"]

log = logging.getLogger("evbus.event")

#: Seconds between two looks at whether everything that is in this process is handled.
GLANCE = 0.005

#: Returns what the profiles that match a name have to give.
Supplies = Callable[[str], Sequence[Supply]]


class Entry:
    """A listener that is subscribed.

    :ivar events: those that it listens to.
    :ivar feeds: one for each of them and each profile, while it listens.
    """

    def __init__(
        self, number: int, spec: ListenerSpec, listening: Listening, events: list[EventSpec], metadata: Any
    ) -> None:
        self.id = f"{listening.listener.name}-{number}"
        self.spec = spec
        self.listening = listening
        self.events = events
        self.metadata = metadata
        self.feeds: list[Feed] = []

    def __repr__(self) -> str:
        return f"<Entry {self.id} of {', '.join(event.name for event in self.events)}>"

    def describe(self) -> dict[str, Any]:
        """Return what is known of it."""
        return {
            "id": self.id,
            "events": [event.name for event in self.events],
            "name": self.listening.listener.name,
            "group": self.spec.group or self.listening.listener.name,
            "per_process": self.spec.per_process,
            "profile": self.spec.profile,
            "metadata": self.metadata,
            "listening": bool(self.feeds) and all(feed.ready for feed in self.feeds),
            **self.listening.snapshot(),
        }

    def listen(self, supplies: Sequence[Supply], patience: float) -> None:
        """Take what the profiles give."""
        for event in self.events:
            wanted = Subscription(
                name=event.name,
                group=self.spec.group or self.listening.listener.name,
                per_process=self.spec.per_process or event.broadcast,
                durable=event.durable,
                prefetch=self.spec.prefetch,
            )
            for supply in supplies:
                feed = Feed(supply, event, self.listening, f"listener {self.id}", patience)
                self.feeds.append(feed)
                feed.start(wanted)

    async def end(self, patience: float, grace: float = 1.0) -> None:
        """Take nothing more, handle what was taken, and leave the rest to where it comes from."""
        feeds, self.feeds = self.feeds, []
        for feed in feeds:
            feed.pause()
        await asyncio.gather(*(feed.close() for feed in feeds if not feed.local))
        await self.listening.quiet(patience)
        await self.listening.close(grace)
        for feed in feeds:
            if feed.local:
                await feed.close()


class Subscriptions:
    """All listeners of a hub, and whether they listen.

    :param patience: returns the seconds that what is being handled may take when a listener ends.
    """

    def __init__(self, patience: Callable[[], float]) -> None:
        self._patience = patience
        self._entries: dict[str, Entry] = {}
        self._numbers = itertools.count(1)
        self._supplies: Supplies | None = None
        self._around: Any = None

    def __repr__(self) -> str:
        return f"<Subscriptions {', '.join(self._entries)}>"

    def __iter__(self) -> Any:
        return iter(list(self._entries.values()))

    @property
    def running(self) -> bool:
        """Whether they listen."""
        return self._supplies is not None

    def add(self, spec: ListenerSpec, listening: Listening, events: list[EventSpec], metadata: Any) -> Entry:
        """Add a listener; it listens at once when the others do.

        :raises ProfileError: there is no profile that it can listen to.
        """
        entry = Entry(next(self._numbers), spec, listening, events, metadata)
        if self._supplies is not None:
            self._listen(entry, self._supplies)
        self._entries[entry.id] = entry
        return entry

    async def remove(self, number: str) -> bool:
        """End a listener; what it is handling is handled first. False when there is none."""
        entry = self._entries.pop(number, None)
        if entry is None:
            return False
        await entry.end(self._patience())
        return True

    def start(self, supplies: Supplies, around: Any) -> None:
        """Let all of them listen.

        :param around: the interceptors around each handling, or None.
        :raises ProfileError: there is no profile that one of them can listen to.
        """
        self._supplies, self._around = supplies, around
        for entry in self:
            self._listen(entry, supplies)

    def _listen(self, entry: Entry, supplies: Supplies) -> None:
        entry.listening.around = self._around
        try:
            entry.listen(supplies(entry.spec.profile), self._patience())
        except EvbusError as exc:
            exc.args = (f"listener {entry.id}: {exc}",)
            raise

    async def ready(self) -> None:
        """Return once every listener gets what is sent from then on; raise what one failed with at first."""
        for entry in self:
            for feed in list(entry.feeds):
                await feed.wait_ready()

    async def settle(self, seconds: float, passing: Callable[[], bool]) -> bool:
        """Return when all that is in this process is handled, or after ``seconds``: whether it is so.

        :param passing: whether more is on its way.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while passing() or not all(entry.listening.idle for entry in self._entries.values()):
            if loop.time() >= end:
                return False
            await asyncio.sleep(GLANCE)
        return True

    async def pause(self) -> None:
        """Take nothing more from outside this process, and wait for what was taken."""
        feeds = [feed for entry in self for feed in entry.feeds if not feed.local]
        await asyncio.gather(*(feed.close() for feed in feeds))

    async def stop(self) -> None:
        """Take nothing more, and give what is being handled a moment; the rest stays with its source."""
        self._supplies = None
        await asyncio.gather(*(entry.end(0) for entry in self))
