"""The output of a subcommand: its file or stream, its format, tables and the status line."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import select
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from evbus.engine.kit.counted import counted
from evbus.engine.kit.paths import expanded
from evbus.engine.kit.redact import one_line
from evbus.errors import ConfigError, nearest

# What YAML 1.2 takes for a number where PyYAML, which writes YAML 1.1, would leave a text without quotes
# (YAML 1.2.2 section 10.3.2), and js-yaml beyond that: signs before octal numbers, and "_" between digits.
_NUMBER = re.compile(
    r"[-+]?(\.[0-9_]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?0o[0-7_]+|0x[0-9a-fA-F]+"
)

__all__ = [
    "StatusLine",
    "as_json",
    "as_yaml",
    "chosen",
    "closing",
    "hang_up",
    "number",
    "reader_left",
    "render",
    "say",
    "tell",
    "write",
]

_CLEAR = "\r\x1b[2K"

COLUMNS = ("accepted", "delivered", "retried", "dead", "dropped", "queued")


def chosen(wanted: str | None, path: str | None, formats: Mapping[str, str], default: str) -> str:
    """Return the format that was asked for, or else the one that the name of the file says.

    :param formats: by the endings of files, such as ``{".json": "json"}``.
    :param default: for files without one of these endings, and standard output.
    :raises ConfigError: there is no such format.
    """
    known = sorted(set(formats.values()))
    if wanted is not None and wanted not in known:
        raise ConfigError(f"--format {wanted!r}: there is no such format{nearest(wanted, known)}")
    ending = Path(path).suffix.lower() if path else ""
    return wanted or formats.get(ending, default)


def say(text: str) -> None:
    """Write a text to standard output, if it is not closed."""
    if sys.stdout is not None:
        sys.stdout.write(text)


def write(path: str | None, text: str) -> None:
    """Write a text in UTF-8 to a file, or to standard output if there is none or it is ``-``.

    :raises ConfigError: the file cannot be written, or there is no standard output.
    """
    if path is None or path == "-":
        # Whatever a terminal takes: somebody may be writing a file, or another program be reading.
        if sys.stdout is None:
            raise ConfigError("standard output is closed; name a file with --output")
        sys.stdout.buffer.write(text.encode())
        return
    try:
        expanded(path, "--output").write_text(text, "utf-8")
    except OSError as exc:
        raise ConfigError(f"--output {path}: it cannot be written: {exc.strerror}") from None


def as_json(document: Any) -> str:
    """Return plain values as JSON for people."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def as_yaml(document: Any) -> str:
    """Return plain values as YAML, without anchors for what stands there twice."""
    return yaml.dump(
        document, Dumper=_Plain, sort_keys=False, allow_unicode=True, default_flow_style=False, width=100
    )


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        style = "'" if _NUMBER.fullmatch(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Plain.add_representer(str, _Plain.text)


def reader_left() -> bool:
    """Return whether standard output is a pipe that nobody reads any more."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return False  # there is no standard output, or it is no file


def hang_up() -> None:
    """Let everything that is still printed go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


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
    bus, store = snapshot["bus"], snapshot["dead_store"]
    kept = counted(store["stored"], "dead event is", "dead events are")
    lost = counted(store["lost"], "dead event is", "dead events are")
    notes = [
        (bus["unmatched"], f"{counted(bus['unmatched'], 'event', 'events')} matched no profile"),
        *(
            (count, f"nobody listened to {one_line(name)}: {counted(count, 'event', 'events')}")
            for name, count in snapshot["unheard"].items()
        ),
        (
            bus["dropped"],
            f"{counted(bus['dropped'], 'event was', 'events were')} dropped because the bus was full",
        ),
        (store["stored"], f"{kept} kept in {store['path']}"),
        (store["lost"], f"{lost} lost: {store['last_error']}"),
    ]
    failing = [
        f"{name}: {lane['last_error']}" for name, lane in snapshot["lanes"].items() if lane["last_error"]
    ]
    return "\n".join(
        [
            text,
            *(note for count, note in notes if count),
            *(f"last error of {problem}" for problem in failing),
        ]
    )


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
