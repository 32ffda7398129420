"""The catalogue of an application: its events, listeners and profiles, and who gets what from whom."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from evbus.engine.core.endpoint import Endpoint, Plugin
from evbus.engine.core.intake import sources as intake_sources
from evbus.engine.core.profiles import providers
from evbus.engine.describe.services import KnownCaller, KnownService, ServiceWay
from evbus.engine.handling.events.channel import received, sent
from evbus.engine.handling.events.declare import EventSpec, ListenerSpec, spec_of, subscription_of
from evbus.engine.handling.events.listener import short_name
from evbus.engine.handling.events.registry import EventTypes
from evbus.engine.kit.topics import matches
from evbus.errors import ConfigError, EvbusError, nearest
from evbus.types import Channel

__all__ = [
    "Catalogue",
    "Configuration",
    "KnownListener",
    "Operation",
    "catalogue",
    "events_in",
    "known",
]

Find = Callable[[str, str], bool]


class KnownListener(NamedTuple):
    """A listener of a file or a module.

    :ivar name: what it is called, in its queue and in errors.
    :ivar place: the file, as the hub names it, or the module.
    :ivar text: what its docstring says.
    :ivar pattern: what it listens to, if that is no single name; ``events`` are then those that match it.
    """

    name: str
    place: str
    spec: ListenerSpec
    events: tuple[EventSpec, ...]
    text: str
    pattern: EventSpec | None = None

    @property
    def group(self) -> str:
        """The listeners of one group share the events."""
        return self.spec.group or self.name

    def per_process(self, event: EventSpec) -> bool:
        """Whether each process gets a copy of an event."""
        return self.spec.per_process or (event.broadcast and self.pattern is None)


class Operation(NamedTuple):
    """An event goes to a profile, or a listener gets it from one.

    :ivar listener: None of an event that is sent.
    """

    event: EventSpec
    endpoint: Endpoint
    channel: Channel
    listener: KnownListener | None = None


class Configuration(NamedTuple):
    """The profiles, and what the plugins accept.

    :ivar profiles: those that events can go to.
    :ivar accepts: what the egress plugins accept.
    :ivar find: ``find(name, pattern)`` of the matcher.
    :ivar source: what the contexts are called in errors.
    """

    contexts: Mapping[str, Any]
    profiles: Sequence[Endpoint]
    accepts: Sequence[Plugin]
    find: Find
    source: str

    def every(self) -> list[Endpoint]:
        """Return every profile once, those that can only be consumed from as well."""
        known = {(one.provider, one.name): one for one in reversed(self.profiles)}
        found: dict[tuple[str, str], Endpoint] = {}
        for provider, name, _, _ in providers(self.contexts, source=self.source):
            one = known.get((provider, name))
            found[provider, name] = (
                one
                if one is not None
                else intake_sources.find(self.contexts, f"{provider}.{name}", self.accepts, self.source)
            )
        return list(found.values())


class Catalogue(NamedTuple):
    """Everything, in an order that depends on nothing but names and the file of profiles.

    :ivar profiles: those that events can go to, come from, or both.
    :ivar dead: profiles, each with one that gets what it gives up.
    :ivar problems: a sentence for each event that goes nowhere, and each listener that gets nothing.
    :ivar services: those of components here, and those of others that are known by their interfaces.
    :ivar callers: what takes proxies of them.
    :ivar ways: where they are called over brokers.
    """

    events: list[EventSpec]
    listeners: list[KnownListener]
    profiles: list[Endpoint]
    sent: list[Operation]
    received: list[Operation]
    dead: list[tuple[Endpoint, Endpoint]]
    problems: list[str]
    services: Sequence[KnownService] = ()
    callers: Sequence[KnownCaller] = ()
    ways: Sequence[ServiceWay] = ()


def events_in(module: ModuleType) -> list[type]:
    """Return the classes of a module that are events.

    :raises ConfigError: it has none.
    """
    found = [each for each in vars(module).values() if spec_of(each) is not None]
    if not found:
        raise ConfigError(
            f"the module {module.__name__!r} has no events; put @event() above its classes, and of a package "
            "name the module that holds them"
        )
    return found


def known(found: Iterable[tuple[Any, ListenerSpec]], place: str, registry: EventTypes) -> list[KnownListener]:
    """Return the listeners that a file or a module declares, and learn their events.

    :raises HandlerError: one of the events is none, or another class has its name.
    """
    return [
        KnownListener(
            spec.name or short_name(listener),
            place,
            spec,
            tuple(sorted(registry.wanted(spec), key=lambda event: event.name)),
            inspect.cleandoc(getattr(listener, "__doc__", None) or ""),
        )
        for listener, spec in found
    ]


def catalogue(
    bus: Configuration, listeners: Sequence[KnownListener], registry: Iterable[EventSpec], sent_with: str
) -> Catalogue:
    """Put together who gets what from whom.

    An event is taken to be sent with the profile that its listeners listen to.

    :param sent_with: the profile with which events are sent that nobody here listens to.
    """
    ordered = sorted(listeners, key=lambda listener: (listener.name, listener.place))
    events = {event.name: event for each in ordered for event in each.events if not event.pattern}
    events.update({event.name: event for event in registry})
    ordered = [_expanded(listener, events) for listener in ordered]
    # What no known event matches is shown itself, for lack of others.
    patterns = {event.name: event for each in ordered for event in each.events if event.pattern}
    problems: list[str] = []
    going, coming = [], []
    for name in sorted(events):
        heard = [listener for listener in ordered if any(each.name == name for each in listener.events)]
        profiles = {listener.spec.profile for listener in heard} or {sent_with}
        going += _going(bus, events[name], sorted(profiles), problems)
    events.update(patterns)
    for listener in ordered:
        for event in listener.events:
            coming += _coming(bus, listener, events[event.name], problems)
    return Catalogue(
        [events[name] for name in sorted(events)],
        ordered,
        bus.every(),
        going,
        coming,
        list(_dead(bus)),
        problems,
    )


def _expanded(listener: KnownListener, known: Mapping[str, EventSpec]) -> KnownListener:
    """Return a listener to a pattern with the events that match it."""
    pattern = next((event for event in listener.events if event.pattern), None)
    if pattern is None:
        return listener
    found = [known[name] for name in sorted(known) if matches(name, pattern.name)]
    return listener._replace(events=tuple(found or [pattern]), pattern=pattern)


def _dead(bus: Configuration) -> Iterator[tuple[Endpoint, Endpoint]]:
    for profile in bus.profiles:
        letter = profile.delivery.dead_letter
        if letter is not None:
            yield from ((profile, other) for other in bus.profiles if bus.find(letter, other.name))


def _going(
    bus: Configuration, event: EventSpec, names: Collection[str], problems: list[str]
) -> list[Operation]:
    found: list[Operation] = []
    for name in names:
        targets = [profile for profile in bus.profiles if bus.find(name, profile.name)]
        if not targets:
            hint = nearest(name, [profile.name for profile in bus.profiles])
            problems.append(f"the event {event.name} goes nowhere: no profile matches {name!r}{hint}")
        for profile in targets:
            if any(profile is known.endpoint for known in found):
                continue
            try:
                found.append(Operation(event, profile, sent(profile, event.name, name)))
            except EvbusError as exc:
                problems.append(f"the event {event.name} cannot go to {profile.full_name}: {exc}")
    return found


def _coming(
    bus: Configuration, listener: KnownListener, event: EventSpec, problems: list[str]
) -> list[Operation]:
    wanted = subscription_of(listener.spec, listener.name, listener.pattern or event)
    found = []
    try:
        sources = intake_sources.matching(
            bus.contexts, listener.spec.profile, bus.accepts, bus.find, bus.source
        )
    except EvbusError as exc:
        sources = []
        problems.append(f"the listener {listener.name} gets no {event.name}: {exc}")
    for source in sources:
        try:
            found.append(Operation(event, source, received(source, wanted), listener))
        except EvbusError as exc:
            problems.append(f"the listener {listener.name} gets no {event.name}: {exc}")
    return found
