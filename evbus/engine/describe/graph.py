"""The graph of a catalogue: events, the profiles that they go through, listeners, and services.

As text, in the language of Graphviz, and as SVG made by its program ``dot``.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

from evbus.engine.describe.catalogue import Catalogue, KnownListener
from evbus.engine.describe.services import KnownCaller
from evbus.engine.handling.events.channel import servers
from evbus.engine.handling.events.declare import EventSpec
from evbus.engine.kit.redact import one_line
from evbus.errors import ConfigError
from evbus.types import Channel, Host

__all__ = [
    "CallerNode",
    "ComponentNode",
    "Event",
    "Graph",
    "ListenerNode",
    "ProfileNode",
    "ServiceNode",
    "dot",
    "graph",
    "svg",
    "text",
]

#: Seconds that drawing may take.
_PATIENCE = 120.0
_HEAD = """digraph evbus {
  graph [rankdir=LR, bgcolor="white", pad=0.3, nodesep=0.25, ranksep=1.1]
  node [fontname="Helvetica,Arial,sans-serif", fontsize=12, fontcolor="#1f2933", shape=box,
    style="rounded,filled", margin="0.16,0.08", penwidth=1.2]
  edge [fontname="Helvetica,Arial,sans-serif", fontsize=9, color="#7b8794", penwidth=1.2, arrowsize=0.7]
"""
_EVENT = 'fillcolor="#e3f0ff", color="#2f6fb3"'
_LISTENER = 'fillcolor="#e6f6ea", color="#2f8f4e"'
_LOST = 'fillcolor="#fdecea", color="#c0392b", style="rounded,filled,dashed"'
_SMALL = '<FONT POINT-SIZE="9" COLOR="#616e7c">{}</FONT>'
_TABLE = (
    '<TABLE BORDER="1" COLOR="#b7791f" BGCOLOR="#fffaf0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="5" '
    'STYLE="ROUNDED">'
)
_DEAD = 'color="#c0392b", fontcolor="#c0392b", style=dashed, label=" dead letters ", constraint=false'
_CALLS = 'color="#6b46c1", fontcolor="#6b46c1", label=" calls "'
_SERVICES = (
    '<TABLE BORDER="1" COLOR="#6b46c1" BGCOLOR="#f6f1ff" CELLBORDER="0" CELLSPACING="0" CELLPADDING="5" '
    'STYLE="ROUNDED">'
)
_PLAIN = str.maketrans({"├": "|", "└": "`", "│": "|", "─": "-", "▶": ">", "◀": "<"})
#: Notes stand in one column unless that is further to the right than this.
_FAR = 44


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


class CallerNode(NamedTuple):
    """What takes a proxy of a service.

    :ivar key: that of a listener; of a handler it differs from that of every other; of a component its name.
    :ivar kind: ``listener``, ``handler`` or ``component``.
    """

    key: str
    kind: str
    name: str
    notes: str


class ServiceNode(NamedTuple):
    """A service of a component."""

    name: str
    notes: str
    callers: tuple[CallerNode, ...]


class ComponentNode(NamedTuple):
    """A component. ``notes`` say that it is elsewhere."""

    name: str
    notes: str
    services: tuple[ServiceNode, ...]


class Graph(NamedTuple):
    """All of them, in the order in which they are shown."""

    events: list[Event]
    profiles: list[ProfileNode]
    listeners: list[ListenerNode]
    components: Sequence[ComponentNode] = ()


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
        list(_components(found)),
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


def _components(found: Catalogue) -> Iterator[ComponentNode]:
    listeners = {(one.name, one.place): f"{one.name} {number}" for number, one in enumerate(found.listeners)}
    for name in dict.fromkeys(one.component for one in found.services):
        own = [one for one in found.services if one.component == name]
        made = []
        for one in own:
            callers = tuple(_caller(each, listeners) for each in found.callers if one.spec in each.calls)
            cls = one.implementation
            made.append(ServiceNode(one.spec.name, "" if cls is None else cls.__qualname__, callers))
        here = any(one.implementation is not None for one in own)
        yield ComponentNode(name, "" if here else "elsewhere", tuple(made))


def _caller(one: KnownCaller, listeners: Mapping[tuple[str, str], str]) -> CallerNode:
    if one.kind == "component":
        return CallerNode(one.place, one.kind, one.name, f"component {one.place}")
    key = listeners.get((one.name, one.place)) if one.kind == "listener" else None
    return CallerNode(key or f"{one.name} {one.place}", one.kind, one.name, one.kind)


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


def text(graph: Graph, encoding: str = "utf-8") -> str:
    """Return the graph as text; lines are as long as names make them.

    :param encoding: of what it is written to; without the characters for lines, plain ones are taken.
    """
    blocks = [list(_tree(graph, event)) for event in graph.events]
    blocks += [list(_dead_letters(graph)), list(_unused(graph)), list(_deaf(graph)), list(_called(graph))]
    lines = [line for block in blocks for line in block]
    column = max([len(left) for left, right in lines if right and len(left) <= _FAR], default=0) + 2
    shown = "\n\n".join("\n".join(_set(block, column)) for block in blocks if block) + "\n"
    try:
        shown.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return shown.translate(_PLAIN)
    return shown


def _set(lines: Iterable[tuple[str, str]], column: int) -> Iterator[str]:
    for left, right in lines:
        yield f"{one_line(left).ljust(column - 2)}  {one_line(right)}".rstrip()


def _tree(graph: Graph, event: Event) -> Iterator[tuple[str, str]]:
    nowhere = "" if event.through or event.pattern else "goes nowhere"
    yield event.name, event.notes or nowhere
    profiles = {profile.name: profile for profile in graph.profiles}
    # What a listener gets may come from a profile that nothing here sends to.
    coming = [name for one in graph.listeners for what, name in one.gets if what == event.name]
    names = list(dict.fromkeys([*event.through, *coming]))
    for name in names:
        branch, trunk = ("└─ ", "   ") if name == names[-1] else ("├─ ", "│  ")
        yield branch + name, profiles[name].ways.get(event.name, "")
        heard = [one for one in graph.listeners if (event.name, name) in one.gets]
        for one in heard:
            twig = "└─▶ " if one is heard[-1] else "├─▶ "
            yield trunk + twig + one.name, one.notes


def _dead_letters(graph: Graph) -> Iterator[tuple[str, str]]:
    pairs = [(profile.name, target) for profile in graph.profiles for target in profile.dead]
    if pairs:
        yield "Dead letters", ""
    for name, target in pairs:
        yield f"   {name} ─▶ {target}", ""


def _unused(graph: Graph) -> Iterator[tuple[str, str]]:
    targets = {target for profile in graph.profiles for target in profile.dead}
    unused = [one for one in graph.profiles if not one.ways and one.name not in targets]
    if unused:
        yield "Profiles that no event goes to", ""
    for profile in unused:
        yield f"   {profile.name}", profile.where


def _deaf(graph: Graph) -> Iterator[tuple[str, str]]:
    deaf = [one for one in graph.listeners if not one.gets]
    if deaf:
        yield "Listeners that get nothing", ""
    for one in deaf:
        yield f"   {one.name}", one.notes


def _called(graph: Graph) -> Iterator[tuple[str, str]]:
    """Yield components with their services, and who calls them."""
    if graph.components:
        yield "Components", ""
    for component in graph.components:
        yield f"   {component.name}", component.notes
        for one in component.services:
            branch, trunk = ("└─ ", "   ") if one is component.services[-1] else ("├─ ", "│  ")
            yield f"   {branch}{one.name}", one.notes
            for caller in one.callers:
                twig = "└─◀ " if caller is one.callers[-1] else "├─◀ "
                yield f"   {trunk}{twig}{caller.name}", caller.notes


def dot(graph: Graph) -> str:
    """Return the graph in the language of Graphviz."""
    handlers = {caller.key: _handler_node(caller) for _, caller in _pairs(graph) if caller.kind == "handler"}
    lines = [
        *map(_event_node, graph.events),
        *map(_profile_node, graph.profiles),
        *map(_listener_node, graph.listeners),
        *handlers.values(),
        *map(_component_node, graph.components),
    ]
    middle = " ".join(_id("profile", profile.name) for profile in graph.profiles)
    lines += [f"{{ rank=same; {middle} }}", *_edges(graph)]
    return _HEAD + "".join(f"  {line}\n" for line in lines) + "}\n"


def svg(source: str) -> str:
    """Return a graph drawn.

    :raises ConfigError: there is no ``dot``, or it fails.
    """
    program = shutil.which("dot")
    if program is None:
        raise ConfigError(
            "SVG is drawn by the program dot of Graphviz, which is not on the PATH; on Debian and Ubuntu "
            "'apt-get install graphviz' installs it, and --format text and --format dot do without"
        )
    try:
        done = subprocess.run(  # noqa: S603 - what is drawn goes to its standard input
            [program, "-Tsvg"], input=source.encode(), capture_output=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{program} has not drawn the graph within {_PATIENCE:g} seconds") from None
    except OSError as exc:
        raise ConfigError(f"{program} cannot be run: {exc.strerror}") from None
    if done.returncode:
        said = one_line(done.stderr.decode(errors="replace"))
        raise ConfigError(f"{program} cannot draw the graph: {said}")
    return done.stdout.decode()


def _event_node(event: Event) -> str:
    look = _EVENT if event.through else _LOST
    return f"{_id('event', event.name)} [{look}, label=<{_html_label(event.name, event.notes)}>]"


def _listener_node(listener: ListenerNode) -> str:
    look = _LISTENER if listener.gets else _LOST
    return f"{_id('listener', listener.key)} [{look}, label=<{_html_label(listener.name, listener.notes)}>]"


def _profile_node(profile: ProfileNode) -> str:
    """Return a table: what it is, and a row for each event, by which its edges come and go."""
    shared = "".join(set(profile.ways.values())) if len(set(profile.ways.values())) == 1 else ""
    head = _html_label(profile.name, profile.where, shared)
    rows = [f'<TR><TD PORT="top" BGCOLOR="#fbe8c8">{head}</TD></TR>']
    for number, (event, way) in enumerate(profile.ways.items()):
        said = "<BR/>" + _SMALL.format(_html(way)) if way and not shared else ""
        rows.append(f'<TR><TD PORT="way{number}" ALIGN="CENTER">{_html(event)}{said}</TD></TR>')
    table = f"{_TABLE}{''.join(rows)}</TABLE>"
    return f"{_id('profile', profile.name)} [shape=plain, style=solid, label=<{table}>]"


def _handler_node(caller: CallerNode) -> str:
    return f"{_id('handler', caller.key)} [{_LISTENER}, label=<{_html_label(caller.name, caller.notes)}>]"


def _component_node(component: ComponentNode) -> str:
    """Return a table: what it is, and a row for each service, to which the edges of callers lead."""
    head = _html_label(component.name, component.notes or "component")
    rows = [f'<TR><TD PORT="top" BGCOLOR="#e4d7fb">{head}</TD></TR>']
    for number, one in enumerate(component.services):
        said = "<BR/>" + _SMALL.format(_html(one.notes)) if one.notes else ""
        rows.append(f'<TR><TD PORT="service{number}">{_html(one.name)}{said}</TD></TR>')
    table = f"{_SERVICES}{''.join(rows)}</TABLE>"
    return f"{_id('component', component.name)} [shape=plain, style=solid, label=<{table}>]"


def _pairs(graph: Graph) -> Iterator[tuple[str, CallerNode]]:
    """Yield the port of each service with each of its callers."""
    for component in graph.components:
        for number, one in enumerate(component.services):
            for caller in one.callers:
                yield f"{_id('component', component.name)}:service{number}", caller


def _edges(graph: Graph) -> Iterator[str]:
    ports = {
        (event, profile.name): f"{_id('profile', profile.name)}:way{number}"
        for profile in graph.profiles
        for number, event in enumerate(profile.ways)
    }
    for event in graph.events:
        for name in event.through:
            yield f"{_id('event', event.name)}:e -> {ports[event.name, name]}:w"
    for listener in graph.listeners:
        for pair in listener.gets:
            yield f"{ports[pair]}:e -> {_id('listener', listener.key)}:w"
    for profile in graph.profiles:
        for target in profile.dead:
            yield f"{_id('profile', profile.name)}:top -> {_id('profile', target)}:top [{_DEAD}]"

    for port, caller in _pairs(graph):
        start = f"{_id(caller.kind, caller.key)}{':top' if caller.kind == 'component' else ''}"
        yield f"{start} -> {port}:w [{_CALLS}]"


def _html_label(name: str, *notes: str) -> str:
    return f"<B>{_html(name)}</B>" + "".join(f"<BR/>{_SMALL.format(_html(note))}" for note in notes if note)


def _html(text: str) -> str:
    return escape(one_line(text))


def _id(kind: str, name: str) -> str:
    text = one_line(f"{kind} {name}").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
