"""The tables of docs/benchmarks.rst."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from peers import ROOT

PAGE = ROOT / "docs" / "benchmarks.rst"


def list_table(widths: Sequence[int], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a reStructuredText table, whose first row is its head."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {' '.join(map(str, widths))}", ""]
    return lines + ["   * " + "\n     ".join(f"- {cell}".rstrip() for cell in row) for row in rows]


def machine(rounds: int) -> str:
    """Say where and how often it was measured."""
    info = Path("/proc/cpuinfo")
    cpu = (
        line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
    )
    today = datetime.now(UTC).date()
    return (
        f"Measured {today} on {next(cpu, platform.machine())}, {os.cpu_count()} cores, "
        f"{platform.python_implementation()} {platform.python_version()}: medians of {rounds} rounds, "
        "the sides taking turns."
    )


def write(mark: str, text: str) -> None:
    """Put the text between the two marker comments of this name, and leave the rest of the page alone."""
    begin, end = f".. {mark} begins\n", f".. {mark} ends\n"
    page = PAGE.read_text()
    if begin not in page or end not in page:
        page = f"{page.rstrip()}\n\n{begin}\n\n{end}"
    head, rest = page.split(begin, 1)
    PAGE.write_text(f"{head}{begin}\n{text}\n\n{end}{rest.split(end, 1)[1]}")
