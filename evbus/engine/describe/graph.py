"""The graph of a catalogue: events, the profiles that they go through, and listeners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from evbus.engine.describe.catalogue import Catalogue, KnownListener
from evbus.engine.handling.events.channel import servers
from evbus.engine.handling.events.declare import EventSpec
from evbus.types import Channel, Host

__all__ = ["Event", "Graph", "ListenerNode", "ProfileNode", "graph"]


class Event(NamedTuple):
    """An event. ``notes`` say what is special about it, ``through`` names the profiles that it goes to.

    :ivar pattern: it stands for those whose names match, none of which is known.
    """

    name: str
    notes: str
    through: tuple[str, ...]
    pattern: bool = False


class ProfileNode(NamedTuple):
    """A profile, ``provider.name``.

    :ivar where: the protocol and the hosts; nothing for what is in the process or on its machine.
    :ivar ways: the address that each event has there, by its name; ``""`` where it is the name.
    :ivar dead: the profiles that get what this one gives up.
    """

    name: str
    where: str
    ways: dict[str, str]
    dead: tuple[str, ...]


class ListenerNode(NamedTuple):
    """A listener. ``gets`` are pairs of an event and a profile.

    :ivar key: differs from that of every other listener.
    """

    key: str
    name: str
    notes: str
    gets: tuple[tuple[str, str], ...]


class Graph(NamedTuple):
    """All of them, in the order in which they are shown."""

    events: list[Event]
    profiles: list[ProfileNode]
    listeners: list[ListenerNode]


def graph(found: Catalogue) -> Graph:
    """Return the graph of a catalogue."""
    profiles: dict[str, ProfileNode] = {}
    for one in found.profiles:
        hosts = servers(one)
        profiles[one.full_name] = ProfileNode(one.full_name, _where(hosts), {}, ())
    through: dict[str, list[str]] = {event.name: [] for event in found.events}
    for going in found.sent:
        name = going.endpoint.full_name
        profiles[name].ways.setdefault(going.event.name, _label(going.channel, going.event))
        if name not in through[going.event.name]:
            through[going.event.name].append(name)
    for coming in found.received:
        profiles[coming.endpoint.full_name].ways.setdefault(coming.event.name, "")
    for loser, other in found.dead:
        name, target = loser.full_name, other.full_name
        if target not in profiles[name].dead:
            profiles[name] = profiles[name]._replace(dead=(*profiles[name].dead, target))
    return Graph(
        [
            Event(event.name, _notes(event), tuple(through[event.name]), event.pattern)
            for event in found.events
        ],
        list(profiles.values()),
        _listeners(found),
    )


def _where(hosts: Sequence[Host]) -> str:
    if hosts[0].description and not hosts[0].version:
        return ""  # no network is involved
    return " ".join([hosts[0].protocol, *(host.host for host in hosts)])


def _listeners(found: Catalogue) -> list[ListenerNode]:
    made = []
    for number, listener in enumerate(found.listeners):
        gets = dict.fromkeys(
            (coming.event.name, coming.endpoint.full_name)
            for coming in found.received
            if coming.listener is listener
        )
        made.append(ListenerNode(f"{listener.name} {number}", listener.name, _wants(listener), tuple(gets)))
    return made


def _notes(event: EventSpec) -> str:
    flags = (("pattern", event.pattern), ("durable", event.durable), ("broadcast", event.broadcast))
    notes = [name for name, is_so in flags if is_so]
    return ", ".join([*notes, *([f"version {event.version}"] if event.version != 1 else [])])


def _wants(listener: KnownListener) -> str:
    notes = [f"group {listener.spec.group}"] if listener.spec.group else []
    if listener.pattern is not None and listener.events != (listener.pattern,):
        notes.append(listener.pattern.name)
    if any(listener.per_process(event) for event in listener.events):
        notes.append("every process")
    return ", ".join(notes)


def _label(channel: Channel, event: EventSpec) -> str:
    if channel.kind == "exchange" and channel.channel is not None:
        exchange = f"exchange {channel.channel['exchange']['name']}"
        return exchange if channel.address == event.name else f"{exchange}, key {channel.address}"
    if channel.kind in ("events", "address"):
        return "" if channel.address == event.name else f"address {channel.address}"
    if channel.address is None or channel.address.startswith("/"):
        return channel.address or ""
    return f"{channel.kind} {channel.address}"
