"""A graph in the language of Graphviz, and as SVG made by its program ``dot``."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from html import escape

from evbus.engine.describe.graph import Event, Graph, ListenerNode, ProfileNode
from evbus.engine.kit.redact import one_line
from evbus.errors import ConfigError

__all__ = ["dot", "svg"]

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


def dot(graph: Graph) -> str:
    """Return the graph in the language of Graphviz."""
    lines = [*map(_event, graph.events), *map(_profile, graph.profiles), *map(_listener, graph.listeners)]
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


def _event(event: Event) -> str:
    look = _EVENT if event.through else _LOST
    return f"{_id('event', event.name)} [{look}, label=<{_label(event.name, event.notes)}>]"


def _listener(listener: ListenerNode) -> str:
    look = _LISTENER if listener.gets else _LOST
    return f"{_id('listener', listener.key)} [{look}, label=<{_label(listener.name, listener.notes)}>]"


def _profile(profile: ProfileNode) -> str:
    """Return a table: what it is, and a row for each event, by which its edges come and go."""
    shared = "".join(set(profile.ways.values())) if len(set(profile.ways.values())) == 1 else ""
    head = _label(profile.name, profile.where, shared)
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


def _label(name: str, *notes: str) -> str:
    return f"<B>{_html(name)}</B>" + "".join(f"<BR/>{_SMALL.format(_html(note))}" for note in notes if note)


def _html(text: str) -> str:
    return escape(one_line(text))


def _id(kind: str, name: str) -> str:
    text = one_line(f"{kind} {name}").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
