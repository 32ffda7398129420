"""Texts by which a person finds a failure: its type, the file and line, the event, and the traceback."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator

from evbus.engine.kit.owner import owner
from evbus.engine.kit.redact import one_line, redact
from evbus.errors import EvbusError
from evbus.types import Envelope

__all__ = ["about", "place", "trace", "which"]

#: Exceptions that are looked into, when one stands for others.
_DEEPEST = 10


def place(problem: BaseException) -> str:
    """Return ``file:line`` of a failure, ``""`` where that says nothing.

    It is the last line of what users have written, not of Python, a library or evbus, as far as there is such
    a line. An error that evbus itself raises has none: its text says what it is about.
    """
    library = ours = ""
    for file, line in _frames(problem, _DEEPEST):
        where = f"{file}:{line}"
        whose = owner(file)
        if whose == "program":
            return where
        if whose == "evbus":
            ours = ours or where
        elif whose == "library":
            library = library or where
    return library or ("" if isinstance(problem, EvbusError) else ours)


def _frames(problem: BaseException, depth: int) -> Iterator[tuple[str, int]]:
    """Yield the places that an exception has come by, the innermost first, and those of what is behind it."""
    parts = getattr(problem, "exceptions", None)
    if isinstance(parts, tuple) and parts and isinstance(parts[0], BaseException) and depth:
        yield from _frames(parts[0], depth - 1)
    for frame, line in reversed(list(traceback.walk_tb(problem.__traceback__))):
        yield frame.f_code.co_filename, line
    if problem.__cause__ is not None and depth:
        yield from _frames(problem.__cause__, depth - 1)


def about(problem: BaseException, said: str, event: Envelope | None = None) -> str:
    """Return the details that stand in brackets behind a reason in a log line, with a space before them.

    :param said: the reason; the type of the exception is named unless that begins with it.
    :param event: whose name (its routing key) and id are told.
    """
    kind = type(problem).__name__
    where = place(problem)
    parts = ["" if said.startswith(kind) else kind, f"at {one_line(where)}" if where else ""]
    words = [" ".join(part for part in parts if part), "" if event is None else which(event)]
    text = ", ".join(word for word in words if word)
    return f" ({text})" if text else ""


def which(event: Envelope) -> str:
    """Return the name of an event (its routing key), or else its profile, and its id if it has one."""
    what, name = ("event", event.routing_key) if event.routing_key else ("profile", event.profile)
    found = event.headers.get("ce-id") or event.headers.get("message-id")
    return f"{what} {one_line(repr(name), 100)}" + (f", id {one_line(found, 100)}" if found else "")


def trace(problem: BaseException, secrets: Iterable[str] = ()) -> str:
    """Return the traceback of a failure as text without secrets, for the level DEBUG."""
    lines = traceback.format_exception(type(problem), problem, problem.__traceback__)
    return redact("".join(lines).rstrip(), secrets)
