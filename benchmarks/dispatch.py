"""What the benchmark of the dispatcher measures: evbus against iambus."""

from __future__ import annotations

import statistics
from typing import NamedTuple

import build
import page
import rounds
from peers import ROOT, title_of
from rounds import Case, Results

MARK = "the table of the dispatcher"
PEER = "iambus"
OURS = "evbus"
#: iambus 0.2.1 cannot be imported by Python 3.11: it puts a ParamSpec into a Union, which has to be hashable.
NEEDS = (3, 12)


class Row(NamedTuple):
    """A line of the table: one result of a case, and the ratio that is aimed at."""

    title: str
    case: str
    key: str
    unit: str
    aim: float


CASES = [
    Case("events", {PEER: 10_000, OURS: 100_000}),
    Case("events-awaited", {PEER: 10_000, OURS: 100_000}),
    Case("hundred", {PEER: 300, OURS: 4_000}),
    Case("commands", {PEER: 10_000, OURS: 100_000}),
    Case("commands-100", {PEER: 20_000, OURS: 100_000}),
    Case("queries", {PEER: 10_000, OURS: 100_000}),
    Case("queries-100", {PEER: 20_000, OURS: 100_000}),
    Case("keys", {PEER: 20_000, OURS: 1_000_000}),
]

ROWS = [
    Row("an event, handed over until it is handled", "events", "rate", "events/s", 5),
    Row("an event, awaited, one at a time", "events-awaited", "rate", "events/s", 5),
    Row("an event with 100 handlers", "hundred", "rate", "events/s", 10),
    Row("a command, awaited, one at a time", "commands", "rate", "commands/s", 4),
    Row("a command, awaited, 100 in flight", "commands-100", "rate", "commands/s", 4),
    Row("a query, awaited, one at a time", "queries", "rate", "queries/s", 4),
    Row("a query, awaited, 100 in flight", "queries-100", "rate", "queries/s", 4),
]


def measure(side: str, case: str, events: int) -> dict[str, float]:
    """Run one case in a process that sees nothing but its own environment."""
    python = build.interpreter(side, PEER if side == PEER else "")
    script = str(ROOT / "benchmarks/dispatch_case.py")
    return rounds.output_of([python, "-Es", script, build.script_of(side), case, str(events)])


def table(found: Results) -> list[str]:
    """Return the medians as a reStructuredText table, with a line on memory."""
    cells = [["case", "unit", title_of(PEER), OURS, "ratio", "rounds", "aim"]]
    for row in ROWS:
        theirs, ours = (found.get((side, row.case, row.key), []) for side in (PEER, OURS))
        if not theirs or not ours:
            continue
        ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
        middle = statistics.median(ours) / statistics.median(theirs)
        cells.append(
            [
                row.title,
                row.unit,
                f"{statistics.median(theirs):,.0f}",
                f"{statistics.median(ours):,.0f}",
                f"{middle:.1f} x",
                f"{ratios[0]:.1f} to {ratios[-1]:.1f}",
                f">= {row.aim:g} x",
            ]
        )
    lines = page.list_table([36, 12, 14, 12, 10, 14, 9], cells)
    said = [_left_behind(found, side) for side in (OURS, PEER)]
    if all(said):
        lines += ["", f"A different key for each event: {said[0]}; {said[1]}."]
    return lines


def _left_behind(found: Results, side: str) -> str:
    sizes, tasks = found.get((side, "keys", "bytes")), found.get((side, "keys", "tasks"))
    if not sizes or not tasks:
        return ""
    keys = next(case.events[side] for case in CASES if case.name == "keys")
    size = statistics.median(sizes)
    return (
        f"after {keys:,} keys {side} is {size * keys / 2**20:,.1f} MiB larger ({size:,.1f} bytes a key) "
        f"and has {statistics.median(tasks):,.0f} more tasks"
    )
