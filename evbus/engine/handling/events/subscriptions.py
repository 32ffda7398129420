"""Subscriptions: listeners, and where their events come from."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any
from urllib.parse import unquote

from evbus.engine.core.intake.sources import EventSource
from evbus.engine.core.observe import Observers
from evbus.engine.handling.events.consumer import EventConsumer
from evbus.engine.handling.events.declare import EventSpec, ListenerSpec, subscription_of
from evbus.engine.handling.events.listening import Listening
from evbus.engine.handling.events.reader import NAME
from evbus.engine.kit.weight import UNBOUNDED
from evbus.errors import EvbusError, HandlerExists, ProfileError
from evbus.types import Delivery

__all__ = ["Subscriptions", "lane_of"]

log = logging.getLogger("evbus.event")

#: Seconds between two looks at whether everything that is in this process is handled.
GLANCE = 0.005

#: Returns what the profiles that match a name have to give.
Sources = Callable[[str], Sequence[EventSource]]


def lane_of(listener: str) -> str:
    """Return the lane's name in the record of an event that a listener gave up."""
    return f"listener {listener}"


class _SubscriptionId(str):
    """The id of a subscription; awaited, it is itself, as there is nothing to wait for."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, str]:
        yield from ()
        return self


class _SubscribedListener:
    """A listener that is subscribed.

    :ivar events: those that it listens to.
    :ivar consumers: one for each of them and each profile, while it listens.
    """

    def __init__(
        self, number: int, spec: ListenerSpec, listening: Listening, events: list[EventSpec], metadata: Any
    ) -> None:
        self.id = _SubscriptionId(f"{listening.listener.name}-{number}")
        self.spec = spec
        self.listening = listening
        self.events = events
        self.metadata = metadata
        self.consumers: list[EventConsumer] = []

    def __repr__(self) -> str:
        return f"<SubscribedListener {self.id} of {', '.join(event.name for event in self.events)}>"

    def describe(self) -> dict[str, Any]:
        """Return its options and counters."""
        return {
            "id": self.id,
            "events": [event.name for event in self.events],
            "name": self.listening.listener.name,
            "group": self.listening.receiver,
            "per_process": self.spec.per_process,
            "profile": self.spec.profile,
            "metadata": self.metadata,
            "listening": bool(self.consumers) and all(consumer.ready for consumer in self.consumers),
            **self.listening.snapshot(sum(consumer.waiting for consumer in self.consumers)),
        }

    def listen(self, sources: Sequence[EventSource], patience: float) -> None:
        """Begin to consume its events from the profiles."""
        for event in self.events:
            wanted = subscription_of(self.spec, self.listening.listener.name, event)
            for source in sources:
                if event.pattern and not source.patterns:
                    raise ProfileError(
                        f"{source.name} finds events by their names alone, and {event.name!r} is a pattern: "
                        "listen to each event by its name"
                    )
                if event.cls is None and not event.pattern and not _leads_to(source.fixed, event.name):
                    place = source.fixed.rpartition("/")[2]
                    raise ProfileError(
                        f"{source.name} leads events of every name to {source.fixed!r}, where one listens to "
                        f"{place!r} and never to {event.name!r} alone; write {{routing_key}} into it"
                    )
                source.check(wanted)
                consumer = EventConsumer(source, event, self.listening, f"listener {self.id}", patience)
                self.consumers.append(consumer)
                consumer.start(wanted)

    def take(self, delivery: Delivery) -> None:
        """Let the listener handle an event once more that it gave up."""
        event = delivery.envelope
        name = event.headers.get(NAME, event.routing_key)
        named = {each.name: each for each in self.events}
        self.listening.take(delivery, named.get(name, self.events[0]))

    def abandon(self) -> None:
        """Take nothing at all; what was not begun, or is cancelled, goes back to where it came from."""
        consumers, self.consumers = self.consumers, []
        self.listening.abandon()
        for consumer in consumers:
            consumer.abandon()

    async def end(self, patience: float, grace: float = 1.0) -> None:
        """Take nothing more, end what was begun, and leave the rest to where it comes from."""
        consumers, self.consumers = self.consumers, []
        for consumer in consumers:
            consumer.pause()
        self.listening.give_back()
        await asyncio.gather(*(consumer.close() for consumer in consumers if not consumer.local))
        await self.listening.wait_idle(patience)
        await self.listening.close(grace)
        for consumer in consumers:
            if consumer.local:
                await consumer.close()


class Subscriptions:
    """All listeners of a hub, and whether they listen.

    :param patience: returns the seconds that what is being handled may take when a listener ends.
    :param observers: told of each, and of what it gets and does.
    :ivar changes: how often one was added or removed.
    """

    def __init__(self, patience: Callable[[], float], observers: Observers | None = None) -> None:
        self._patience = patience
        self._observers = observers or Observers()
        self._observers.on_change(self._observed)
        self._entries: dict[str, _SubscribedListener] = {}
        # Those of each event and name, and how many have each name.
        self._alike: dict[tuple[Any, str], list[_SubscribedListener]] = {}
        self._names: Counter[str] = Counter()
        # Names that were taken already when they were asked for, and the lowest number that may be free.
        self._free: dict[str, int] = {}
        self.changes = 0
        self._numbers = itertools.count(1)
        self._sources: Sources | None = None
        self._around: Any = None
        self._max_body = UNBOUNDED
        # Those that were removed and have not ended yet.
        self._ending: dict[asyncio.Future[None], _SubscribedListener] = {}

    def __repr__(self) -> str:
        return f"<Subscriptions {', '.join(self._entries)}>"

    def __iter__(self) -> Any:
        return iter(list(self._entries.values()))

    def __contains__(self, number: str) -> bool:
        """Return whether there is a subscription of this id."""
        return number in self._entries

    @property
    def running(self) -> bool:
        """Whether they listen."""
        return self._sources is not None

    @property
    def empty(self) -> bool:
        """Whether there is no listener to wait for, not even one that was removed."""
        return not self._entries and not self._ending

    def add(
        self, spec: ListenerSpec, listening: Listening, events: list[EventSpec], metadata: Any
    ) -> _SubscribedListener:
        """Add a listener; it listens at once when the others do.

        :raises ProfileError: there is no profile that it can listen to.
        :raises HandlerSignatureError: something that it takes is provided by nobody.
        """
        entry = _SubscribedListener(next(self._numbers), spec, listening, events, metadata)
        listening.observe(self._observers)
        if self._observers.subscribed is not None:
            self._observers.subscribed(listening)
        if self._sources is not None:
            self._listen(entry, self._sources)
        self._entries[entry.id] = entry
        name = entry.listening.listener.name
        self._alike.setdefault((spec.event, name), []).append(entry)
        self._names[name] += 1
        self.changes += 1
        return entry

    def _observed(self) -> None:
        for entry in (*self, *self._ending.values()):
            entry.listening.observe(self._observers)

    def discard(self, entry: _SubscribedListener) -> None:
        """Take a listener off that was added just now, before anything came to it."""
        del self._entries[entry.id]
        self._forget(entry)
        entry.abandon()

    async def remove(self, number: str) -> bool:
        """End a listener; what it is handling is handled first. False when there is none."""
        entry = self._entries.pop(number, None)
        if entry is None:
            return False
        self._forget(entry)
        ending = asyncio.ensure_future(entry.end(self._patience()))
        # A stop meanwhile has to wait for it.
        self._ending[ending] = entry
        ending.add_done_callback(self._ending.pop)
        if entry.listening.within() or entry.listening.waits():
            # It listens once: its end has to wait for it.
            await asyncio.sleep(0)
        else:
            await asyncio.shield(ending)
        return True

    def refuse_within(self) -> None:
        """Refuse a listener that would wait for its own end.

        :raises EvbusError: says what to write instead.
        """
        for entry in (*self, *self._ending.values()):
            if entry.listening.within():
                raise EvbusError(
                    f"listener {entry.id} stops the bus, which waits for its listeners; let others do it, or "
                    "asyncio.create_task(hub.evbus.init.stop())"
                )

    def _forget(self, entry: _SubscribedListener) -> None:
        name = entry.listening.listener.name
        alike = self._alike[entry.spec.event, name]
        alike.remove(entry)
        if not alike:
            del self._alike[entry.spec.event, name]
        self._names[name] -= 1
        if not self._names[name]:
            del self._names[name]
            first, _, number = name.rpartition("-")
            if first in self._free and number.isdecimal():
                self._free[first] = min(self._free[first], max(2, int(number)))
        if not self._names:
            self._free.clear()
        self.changes += 1

    def free_name(self, name: str) -> str:
        """Return a name that no listener has: ``name``, or that with a number."""
        if name not in self._names:
            return name
        number = self._free.get(name, 2)
        while f"{name}-{number}" in self._names:
            number += 1
        self._free[name] = number
        return f"{name}-{number}"

    def refuse_second(self, spec: ListenerSpec, default: str) -> None:
        """Refuse a listener that would share its events with another without having been told so.

        :raises HandlerExists: another listens to the same event under its name.
        """
        name = spec.name or default
        alike = self._alike.get((spec.event, name))
        if alike and not spec.group:
            raise HandlerExists(
                f"two listeners of one event are called {name!r}, this and "
                f"{alike[0].listening.listener.full_name}, and would share its events; give one another "
                "name=, or both the same group="
            )

    def start(self, sources: Sources, around: Any, max_body: int = UNBOUNDED) -> None:
        """Let all of them listen.

        :param around: the interceptors around each handling, or None.
        :param max_body: bytes that a body from outside this process may have.
        :raises ProfileError: there is no profile that one of them can listen to.
        """
        self._sources, self._around, self._max_body = sources, around, max_body
        try:
            for entry in self:
                entry.abandon()  # a bus that was cancelled has left them
                self._listen(entry, sources)
        except BaseException:
            self.abandon()
            raise

    def _listen(self, entry: _SubscribedListener, sources: Sources) -> None:
        try:
            entry.listening.listener.complete()
            entry.listening.begin(self._around, self._max_body)
            entry.listen(_chosen(sources(entry.spec.profile), entry.spec.profile), self._patience())
        except BaseException as exc:
            entry.abandon()
            if isinstance(exc, ProfileError):
                reason = f"listener {entry.listening.listener.name}: {exc.reason}"
                raise ProfileError(reason, source=exc.source, path=exc.path) from None
            raise

    async def ready(self) -> None:
        """Return once every listener gets what is sent from then on; raise what one failed with at first."""
        waiting = [consumer.wait_ready() for entry in self for consumer in entry.consumers]
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def settle(
        self, seconds: float, passing: Callable[[], object], cut_short: Callable[[], bool]
    ) -> bool:
        """Return when all that is in this process is handled, or after ``seconds``: whether it is so.

        :param passing: whether more is on its way.
        :param cut_short: whether not to wait any longer.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while passing() or not all(
            entry.listening.idle for entry in (*self._entries.values(), *self._ending.values())
        ):
            if cut_short() or loop.time() >= end:
                return False
            await asyncio.sleep(GLANCE)
        return True

    async def pause(self, cut_short: Callable[[], bool]) -> None:
        """Take nothing more from outside this process, and wait for what was begun; the rest goes back.

        :param cut_short: whether not to wait any longer.
        """
        consumers = [consumer for entry in self for consumer in entry.consumers if not consumer.local]
        for consumer in consumers:
            consumer.pause()
        for entry in self:
            entry.listening.give_back(outside=True)
        closing = asyncio.gather(*(consumer.close() for consumer in consumers))
        try:
            while not closing.done() and not cut_short():
                await asyncio.wait({closing}, timeout=GLANCE)
            for consumer in consumers:
                consumer.cut_short()
            await closing
        finally:
            closing.cancel()

    def abandon(self) -> None:
        """Take nothing at all from now on, without waiting for anything."""
        self._sources = None
        for entry in self:
            entry.abandon()

    async def stop(self, grace: float = 1.0) -> None:
        """Take nothing more, and give what is being handled ``grace`` seconds; the rest goes back."""
        self._sources = None
        entries = (*self, *self._ending.values())
        await asyncio.gather(*(entry.end(0, grace) for entry in entries), *self._ending)


def _leads_to(place: str, name: str) -> bool:
    """Return whether one listens to a name at the place of all events: a key, or the end of an address."""
    return not place or any(f"/{one}".endswith(f"/{name}") for one in (place, unquote(place)))


def _chosen(sources: Sequence[EventSource], profile: str) -> list[EventSource]:
    """Return the profiles to listen to: of those in this process, which all get each event, only one."""
    local = [source for source in sources if source.attach is not None]
    named = [source for source in local if source.name.endswith(f".{profile}")]
    return [*(named or local)[:1], *(source for source in sources if source.attach is None)]
