"""What the benchmark of the bus measures: evbus against pop-evbus 7, and against the bound."""

from __future__ import annotations

import statistics
from typing import NamedTuple

import build
import page
import rounds
from peers import ROOT, title_of
from rounds import Case, Results

MARK = "the table"
PEER = "pop-evbus"
OURS = "evbus"


class Row(NamedTuple):
    """A line of the table: one result of a case, and the ratio that is aimed at."""

    title: str
    case: str
    key: str
    unit: str
    aim: float
    less_is_better: bool = False


CASES = [
    Case("one", {PEER: 5_000, OURS: 100_000}),
    Case("ten", {PEER: 1_000, OURS: 30_000}),
    Case("hundred", {PEER: 150, OURS: 4_000}),
    Case("one-of-100", {PEER: 600, OURS: 100_000}),
    Case("latency", {PEER: 2_000, OURS: 10_000}),
    Case("memory", {PEER: 100_000, OURS: 100_000}),
    Case("bound", {OURS: 300_000}),
]

ROWS = [
    Row("1 profile, end to end", "one", "rate", "events/s", 20),
    Row("10 matching profiles", "ten", "rate", "events/s", 30),
    Row("100 matching profiles", "hundred", "rate", "events/s", 30),
    Row("1 matching of 100", "one-of-100", "rate", "events/s", 200),
    Row("one at a time, put to delivered, median", "latency", "median", "us", 3, less_is_better=True),
    Row("one at a time, put to delivered, 99th percentile", "latency", "p99", "us", 0, less_is_better=True),
    Row("100,000 queued, resident bytes an event", "memory", "bytes", "bytes", 2, less_is_better=True),
]
#: The cases whose processor time per event the table shows, under the same titles.
COSTS = [
    row._replace(title=f"{row.title}, processor time", key="cpu", unit="CPU us", aim=0, less_is_better=True)
    for row in ROWS
    if row.key in ("rate", "median")
]


def measure(side: str, case: str, events: int) -> dict[str, float]:
    """Run one case in a process that sees nothing but its own environment."""
    python = build.interpreter(side, PEER if side == PEER else "")
    # Not -I: the folder of the script has to stay on the path.
    return rounds.output_of([python, "-Es", str(ROOT / "benchmarks/bus_case.py"), case, str(events)])


def table(found: Results) -> list[str]:
    """Return the medians as a reStructuredText table, with one line for the bound."""
    cells = [["case", "unit", title_of(PEER), OURS, "ratio", "aim"]]
    for row in [*ROWS, *COSTS]:
        values = [found.get((side, row.case, row.key)) for side in (PEER, OURS)]
        if not all(values):
            continue
        theirs, ours = (statistics.median(value) for value in values if value)
        ratio = theirs / ours if row.less_is_better else ours / theirs
        aim = f">= {row.aim:g} x" if row.aim else ""
        digits = 1 if row.key == "cpu" else 0
        figures = [f"{value:,.{digits}f}" for value in (theirs, ours)]
        cells.append([row.title, row.unit, *figures, f"{ratio:.1f} x", aim])
    lines = page.list_table([40, 12, 15, 15, 10, 10], cells)
    bound, one = found.get((OURS, "bound", "rate")), found.get((OURS, "one", "rate"))
    if bound and one:
        limit, reached = statistics.median(bound), statistics.median(one)
        lines.append("")
        lines.append(
            f"The bound, msgspec's encoder and one hop through an ``asyncio.Queue``: {limit:,.0f} events/s. "
            f"evbus with one profile reaches {reached / limit:.0%} of it (aim: 25%)."
        )
    return lines
