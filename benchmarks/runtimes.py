"""What other event loops and newer Pythons bring: evbus's own cases on each of them, in one run."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import build
import events
import page
from peers import ROOT, say
from rounds import Case, Measure, Results
from sides.common import LOOP

MARK = "the table of runtimes"
#: The newer Python that .ci/python puts into a folder of its own.
NEWER = "3.14"


class Runtime(NamedTuple):
    """A Python and an event loop.

    :ivar newer: it is the newer Python, not the one that runs the benchmark.
    """

    newer: bool
    loop: str

    @property
    def title(self) -> str:
        """What the table calls it."""
        python = NEWER if self.newer else f"{sys.version_info[0]}.{sys.version_info[1]}"
        return f"{python}, {self.loop}"


RUNTIMES = {
    runtime.title: runtime
    for runtime in (
        Runtime(newer=False, loop="asyncio"),
        Runtime(newer=False, loop="uvloop"),
        Runtime(newer=True, loop="asyncio"),
        Runtime(newer=True, loop="uvloop"),
    )
}
FIRST = next(iter(RUNTIMES))


class Row(NamedTuple):
    """A line of the table: a case of the bus or of typed events, and its events."""

    title: str
    case: str
    count: int


OF_BUS = [
    Row("a put, 1 profile, end to end", "one", 100_000),
    Row("a put to delivered, one at a time", "latency", 10_000),
]
OF_EVENTS = [
    Row("typed, an asynchronous listener", "one", 100_000),
    Row("typed, a plain function, in a thread", "plain", 50_000),
    Row("typed, 10 asynchronous listeners", "ten", 10_000),
]
OF_RABBITMQ = [Row("typed, through RabbitMQ, two processes", events.RABBITMQ, 30_000)]


def cases(rows: Sequence[Row]) -> list[Case]:
    """Return the cases of some lines, with all runtimes as sides."""
    return [Case(row.case, dict.fromkeys(RUNTIMES, row.count)) for row in rows]


def on(measure: Measure) -> Measure:
    """Return what measures a case of evbus on the runtime that is named in place of a side."""

    def run(side: str, case: str, count: int) -> dict[str, float]:
        runtime = RUNTIMES[side]
        build.use(_python(runtime.newer))
        with _loop(runtime.loop):
            return measure(build.GIVEN, case, count)

    return run


def table(of_bus: Results, of_events: Results) -> list[str]:
    """Return processor time per event as a table: a line for each case, a column for each runtime."""
    cells = [["CPU us an event", *RUNTIMES]]
    for found, rows in ((of_bus, OF_BUS), (of_events, [*OF_EVENTS, *OF_RABBITMQ])):
        for row in rows:
            times = {side: found.get((side, row.case, "cpu"), []) for side in RUNTIMES}
            if all(times.values()):
                medians = {side: statistics.median(values) for side, values in times.items()}
                told = [
                    f"{median:,.1f}" + (f" ({median / medians[FIRST]:.2f} x)" if side != FIRST else "")
                    for side, median in medians.items()
                ]
                cells.append([row.title, *told])
    return page.list_table([30, *[16] * len(RUNTIMES)], cells)


@contextlib.contextmanager
def _loop(name: str) -> Iterator[None]:
    """Let the scripts run on this event loop."""
    os.environ[LOOP] = name
    try:
        yield
    finally:
        del os.environ[LOOP]


@cache
def _python(newer: bool) -> str:
    """Return the interpreter of a runtime's environment, in which this tree and uvloop are installed."""
    version, command = f"{sys.version_info[0]}.{sys.version_info[1]}", sys.executable
    if newer:
        fetch = [str(ROOT / ".ci/python"), NEWER]
        version = NEWER
        command = subprocess.run(fetch, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]
    folder = ROOT / ".bench" / f"runtime-py{version}"
    python, stamp = folder / "bin/python", folder / ".installed"
    pins = (ROOT / "requirements/base.txt").read_text()
    if not stamp.exists() or stamp.read_text() != pins:
        say(f"installing evbus and uvloop into {folder.relative_to(ROOT)}")
        subprocess.run([command, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        limit = ["--constraint", str(ROOT / "requirements/test.txt")]
        base = ["--requirement", str(ROOT / "requirements/base.txt"), "--editable", str(ROOT)]
        subprocess.run([*pip, *base, "uvloop", *limit], check=True)
        stamp.write_text(pins)
    return str(python)
