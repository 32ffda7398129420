"""A graph as text: a tree for each event."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from evbus.engine.describe.graph import Event, Graph
from evbus.engine.kit.redact import one_line

__all__ = ["text"]

_PLAIN = str.maketrans({"├": "|", "└": "`", "│": "|", "─": "-", "▶": ">"})
#: Notes stand in one column unless that is further to the right than this.
_FAR = 44


def text(graph: Graph, encoding: str = "utf-8") -> str:
    """Return the graph as text; lines are as long as names make them.

    :param encoding: of what it is written to; without the characters for lines, plain ones are taken.
    """
    blocks = [list(_event(graph, event)) for event in graph.events]
    blocks += [list(_dead(graph)), list(_unused(graph)), list(_deaf(graph))]
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


def _event(graph: Graph, event: Event) -> Iterator[tuple[str, str]]:
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


def _dead(graph: Graph) -> Iterator[tuple[str, str]]:
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
