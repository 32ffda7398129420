"""The graph of a catalogue: events, the profiles that they go through, and listeners.

As text, in the language of Graphviz, and as SVG made by its program ``dot``.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import NamedTuple

from evbus.engine.describe.catalogue import Catalogue, KnownListener
from evbus.engine.handling.events.channel import servers
from evbus.engine.handling.events.declare import EventSpec
from evbus.engine.kit.redact import one_line
from evbus.errors import ConfigError
from evbus.types import Channel, Host

__all__ = ["Event", "Graph", "ListenerNode", "ProfileNode", "dot", "graph", "svg", "text"]

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
_PLAIN = str.maketrans({"├": "|", "└": "`", "│": "|", "─": "-", "▶": ">"})
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


def text(graph: Graph, encoding: str = "utf-8") -> str:
    """Return the graph as text; lines are as long as names make them.

    :param encoding: of what it is written to; without the characters for lines, plain ones are taken.
    """
    blocks = [list(_tree(graph, event)) for event in graph.events]
    blocks += [list(_dead_letters(graph)), list(_unused(graph)), list(_deaf(graph))]
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


def dot(graph: Graph) -> str:
    """Return the graph in the language of Graphviz."""
    lines = [
        *map(_event_node, graph.events),
        *map(_profile_node, graph.profiles),
        *map(_listener_node, graph.listeners),
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


def _html_label(name: str, *notes: str) -> str:
    return f"<B>{_html(name)}</B>" + "".join(f"<BR/>{_SMALL.format(_html(note))}" for note in notes if note)


def _html(text: str) -> str:
    return escape(one_line(text))


def _id(kind: str, name: str) -> str:
    text = one_line(f"{kind} {name}").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
