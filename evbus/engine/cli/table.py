"""Tables and the status line, as text."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evbus.engine.kit.counted import counted
from evbus.engine.kit.redact import one_line

__all__ = ["StatusLine", "closing", "number", "render", "tell"]

_CLEAR = "\r\x1b[2K"

COLUMNS = ("accepted", "delivered", "retried", "dead", "dropped", "queued")


def number(value: float) -> str:
    """Return a number with thousands set off, without decimals from 100 on."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"


def render(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return a table of text; the columns in ``right`` are set flush right."""
    clean = [[one_line(cell, 300) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(head), *clean]) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths))  # noqa: B905 - equal by construction
        ]
        return "  ".join(parts).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, clean)])


def closing(snapshot: Mapping[str, Any], seconds: float) -> str:
    """Return a table of the events' outcomes, a row for each destination."""
    rows = []
    for name, lane in snapshot["lanes"].items():
        waiting = lane["queued"] + lane["in_flight"]
        counts = [number(waiting if column == "queued" else lane[column]) for column in COLUMNS]
        rows.append([name, *counts, number(lane["delivered"] / seconds if seconds else 0)])
    text = (
        render(["destination", *COLUMNS, "events/s"], rows, right=range(1, 8)) if rows else "no destinations"
    )
    if snapshot["listeners"]:
        text = f"{text}\n\n{_listeners(snapshot['listeners'])}"
    notes = []
    if snapshot["bus"]["unmatched"]:
        notes.append(f"{counted(snapshot['bus']['unmatched'], 'event', 'events')} matched no profile")
    notes += [
        f"nobody listened to {one_line(name)}: {counted(count, 'event', 'events')}"
        for name, count in snapshot["unheard"].items()
    ]
    if snapshot["bus"]["dropped"]:
        dropped = counted(snapshot["bus"]["dropped"], "event was", "events were")
        notes.append(f"{dropped} dropped because the bus was full")
    store = snapshot["dead_store"]
    if store["stored"]:
        notes.append(
            f"{counted(store['stored'], 'dead event is', 'dead events are')} kept in {store['path']}"
        )
    if store["lost"]:
        notes.append(
            f"{counted(store['lost'], 'dead event is', 'dead events are')} lost: {store['last_error']}"
        )
    failing = [
        f"{name}: {lane['last_error']}" for name, lane in snapshot["lanes"].items() if lane["last_error"]
    ]
    return "\n".join([text, *notes, *(f"last error of {problem}" for problem in failing)])


def _listeners(found: Mapping[str, Any]) -> str:
    """Return a table of the outcomes of events that came in, a row for each listener."""
    columns = ("handled", "retried", "dead", "queued")
    rows = [
        [one["name"], ", ".join(one["events"]), *(number(one[column]) for column in columns)]
        for one in found.values()
    ]
    return render(["listener", "events", *columns], rows, right=range(2, 6))


class StatusLine:
    """One line that is written over and over, on a terminal; nothing anywhere else."""

    def __init__(self, *, enabled: bool = True) -> None:
        self._live = enabled and sys.stderr is not None and sys.stderr.isatty()

    @contextlib.contextmanager
    def below_logs(self) -> Iterator[None]:
        """Let log records that are printed meanwhile take the place of the line."""
        handlers = [handler for handler in logging.getLogger().handlers if self._live]
        for handler in handlers:
            handler.addFilter(self._before_record)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(self._before_record)

    def _before_record(self, _record: logging.LogRecord) -> bool:
        self.clear()
        return True

    def show(self, snapshot: Mapping[str, Any], rate: float) -> None:
        """Write the state of ``snapshot``; ``rate`` is in events a second."""
        if not self._live:
            return
        lanes = snapshot["lanes"].values()
        sums = {name: sum(lane[name] for lane in lanes) for name in ("delivered", "dead", "dropped")}
        waiting = snapshot["bus"]["queued"] + sum(lane["queued"] + lane["in_flight"] for lane in lanes)
        accepted = snapshot["bus"]["accepted"] + snapshot["bus"]["relayed"]
        text = f"{number(accepted)} accepted  {number(sums['delivered'])} delivered"
        text += f"  {number(waiting)} queued  {number(sums['dead'])} dead"
        text += f"  {number(sums['dropped'])} dropped" if sums["dropped"] else ""
        text += f"  {number(rate)}/s"
        for state in ("retrying", "waiting"):
            names = [name for name, lane in snapshot["lanes"].items() if lane["state"] == state]
            text += f"  {state}: {', '.join(names)}" if names else ""
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(_CLEAR + one_line(text, width))
        sys.stderr.flush()

    def clear(self) -> None:
        """Remove the line."""
        if self._live:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()


def tell(message: str) -> None:
    """Write a message of its own line on standard error, in the place of a status line."""
    if sys.stderr is not None:
        sys.stderr.write(f"{_CLEAR}{message}\n" if sys.stderr.isatty() else f"{message}\n")
