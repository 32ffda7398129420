"""Measurements in processes of their own, the sides taking turns."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from peers import say

LIMIT = 120  # seconds that one measurement may take before the run is given up

Results = dict[tuple[str, str, str], list[float]]  # (side, case, key) -> one value a round
Measure = Callable[[str, str, int], dict[str, float]]  # side, case, events


class Case(NamedTuple):
    """How many events each side handles in a case, so that all of them are busy for about the same time."""

    name: str
    events: dict[str, int]


def run(rounds: int, cases: Sequence[Case], measure: Measure) -> Results:
    """Return what every case gave on every side, round after round."""
    found: Results = defaultdict(list)
    for number in range(rounds):
        for case in cases:
            # Whoever comes second finds a warmer machine: take turns in that too.
            first = number % len(case.events)
            sides = list(case.events.items())
            for side, events in sides[first:] + sides[:first]:
                for key, value in measure(side, case.name, events).items():
                    found[side, case.name, key].append(value)
                    say(f"round {number + 1}: {case.name:<20}{side:<28}{key:<8}{value:14,.1f}")
    return found


def output_of(command: Sequence[str]) -> dict[str, float]:
    """Run one measurement, in an empty folder, and return the line of JSON that it prints last."""
    said = " ".join(command[2:])
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            sys.exit(f"not done within {LIMIT} s: {said}")
    if done.returncode != 0:
        sys.exit(f"failed: {said}\n{done.stderr.strip()}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result
