"""Run evbus and its peers by turns, and write the table into docs/benchmarks.rst: `make bench`.

Only ratios from one run count: the same code varies by half between two runs on a shared machine. So the
sides alternate within every round, and the table shows medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import venv
from collections import defaultdict
from datetime import datetime, timezone
from pathlib import Path

import bus

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.rst"
BEGIN, END = ".. the table begins", ".. the table ends"
CASE_LIMIT = 120  # seconds that one measurement may take before the run is given up

Results = dict[tuple[str, str, str], list[float]]  # (side, case, key) -> one value a round


def pin_of(name: str) -> str:
    """Return the line of requirements/bench.txt that pins this peer."""
    lines = (ROOT / "requirements/bench.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


def peer_python(name: str) -> str:
    """Return the interpreter of the environment that holds this peer; create it when it is missing.

    The peer gets the versions of requirements/base.txt for whatever it shares with evbus.
    """
    pin = pin_of(name)
    folder = ROOT / ".bench" / f"{pin.replace('==', '-')}-py{sys.version_info[0]}.{sys.version_info[1]}"
    python, stamp = folder / "bin/python", folder / ".installed"
    if not stamp.exists():
        say(f"installing {pin} into {folder.relative_to(ROOT)}")
        venv.create(folder, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, pin, "--constraint", ROOT / "requirements/base.txt"], check=True)
        stamp.touch()
    return str(python)


def measure(python: str, case: str, events: int) -> dict[str, float]:
    """Run one case in a process that sees nothing but its own environment."""
    # -I: neither PYTHONPATH nor the working directory may bring the other side's package in.
    command = [python, "-I", str(ROOT / "benchmarks/bus_case.py"), case, str(events)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=CASE_LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            sys.exit(f"the case {case} with {events} events did not end within {CASE_LIMIT} s")
    if done.returncode != 0:
        sys.exit(f"the case {case} failed:\n{done.stderr.strip()}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def run(rounds: int, only: list[str]) -> Results:
    sides = {bus.PEER: peer_python(bus.PEER), bus.OURS: sys.executable}
    found: Results = defaultdict(list)
    for number in range(rounds):
        for case in bus.CASES:
            if only and case.name not in only:
                continue
            # Whoever comes second finds a warmer machine: take turns in that too.
            order = list(case.events.items())[:: 1 if number % 2 else -1]
            for side, events in order:
                for key, value in measure(sides[side], case.name, events).items():
                    found[side, case.name, key].append(value)
                    say(f"round {number + 1}: {case.name:<12}{side:<12}{key:<8}{value:14,.1f}")
    return found


def table(found: Results) -> list[str]:
    """Return the medians as a reStructuredText table, with one line for the bound."""
    peer = pin_of(bus.PEER).replace("==", " ")
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: 40 12 15 15 10 10",
        "",
        f"   * - case\n     - unit\n     - {peer}\n     - evbus\n     - ratio\n     - aim",
    ]
    for row in bus.ROWS:
        values = [found.get((side, row.case, row.key)) for side in (bus.PEER, bus.OURS)]
        if not all(values):
            continue
        theirs, ours = (statistics.median(value) for value in values if value)
        ratio = theirs / ours if row.less_is_better else ours / theirs
        aim = f">= {row.aim:g} x" if row.aim else ""
        cells = [row.title, row.unit, f"{theirs:,.0f}", f"{ours:,.0f}", f"{ratio:.1f} x", aim]
        lines.append("   * " + "\n     ".join(f"- {cell}".rstrip() for cell in cells))
    bound, one = found.get((bus.OURS, "bound", "rate")), found.get((bus.OURS, "one", "rate"))
    if bound and one:
        limit, reached = statistics.median(bound), statistics.median(one)
        lines.append("")
        lines.append(
            f"The bound, msgspec's encoder and one hop through an ``asyncio.Queue``: {limit:,.0f} events/s. "
            f"evbus with one profile reaches {reached / limit:.0%} of it (aim: 25%)."
        )
    return lines


def machine(rounds: int) -> str:
    info = Path("/proc/cpuinfo")
    cpu = (
        line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
    )
    today = datetime.now(timezone.utc).date()
    return (
        f"Measured {today} on {next(cpu, platform.machine())}, {os.cpu_count()} cores, "
        f"{platform.python_implementation()} {platform.python_version()}: medians of {rounds} rounds, "
        "the sides taking turns."
    )


def write(text: str) -> None:
    """Put the text between the two marker comments of the page, and leave the rest of it alone."""
    page = PAGE.read_text()
    if BEGIN not in page or END not in page:
        page = f"{page.rstrip()}\n\n{BEGIN}\n\n{END}\n"
    head, rest = page.split(BEGIN, 1)
    PAGE.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END, 1)[1]}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare evbus with its peers.")
    parser.add_argument("--rounds", type=int, default=5, help="how often each case runs on each side (5)")
    parser.add_argument("--only", nargs="*", default=[], help="names of cases; the page is not written then")
    options = parser.parse_args()
    found = run(options.rounds, options.only)
    text = "\n".join([machine(options.rounds), "", *table(found)])
    print(text)
    if not options.only:
        write(text)
        say(f"written to {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
