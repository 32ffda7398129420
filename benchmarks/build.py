"""The build before: evbus as it was at a commit, in an environment of its own, as one more side.

The scripts are those of this tree; only the package that they import is the older one.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import venv
from collections.abc import Sequence
from functools import cache

import page
from peers import ROOT, python_of, say
from rounds import Case, Results

OURS = "evbus"
#: The build before, and the same once more, against which it shows how far two equal sides differ.
BEFORE, AGAIN = "before", "before, again"
#: This build, run by an interpreter that was given.
GIVEN = "given"
BUILDS = (BEFORE, AGAIN, GIVEN)
#: The cases that tell no processor time: of memory, and of what is not evbus.
WITHOUT = {"bound", "memory", "keys"}

_chosen: list[str] = []
_given: list[str] = []


def choose(commit: str) -> str:
    """Make the environment of the build of this commit if it is missing; return its full name."""
    done = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"--before {commit}: there is no such commit")
    _chosen[:] = [done.stdout.strip()]
    _python(_chosen[0])
    return _chosen[0]


def use(python: str) -> None:
    """Let the side :data:`GIVEN` be run by this interpreter from now on."""
    _given[:] = [python]


def interpreter(side: str, peer: str = "") -> str:
    """Return the interpreter of a side: the build before has its own, as peers have; evbus has this one."""
    if side == GIVEN:
        return _given[0]
    if side in BUILDS:
        return _python(_chosen[0])
    return python_of(peer) if peer else sys.executable


def script_of(side: str) -> str:
    """Return the name by which the scripts know a side: all builds are evbus to them."""
    return OURS if side in BUILDS else side


@cache
def _python(commit: str) -> str:
    name = f"build-{commit[:12]}"
    tree = ROOT / ".bench" / name
    folder = ROOT / ".bench" / f"{name}-py{sys.version_info[0]}.{sys.version_info[1]}"
    python, stamp = folder / "bin/python", folder / ".installed"
    if not (tree / "setup.cfg").exists():
        tree.parent.mkdir(exist_ok=True)
        add = ["git", "worktree", "add", "--quiet", "--force", "--detach", str(tree), commit]
        subprocess.run(add, cwd=ROOT, check=True)
    if not stamp.exists():
        say(f"installing evbus of {commit[:12]} into {folder.relative_to(ROOT)}")
        venv.create(folder, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        pins = str(tree / "requirements/base.txt")
        ours = str(ROOT / "requirements/bench.txt")
        subprocess.run([*pip, "--requirement", pins, "--editable", str(tree)], check=True)
        subprocess.run([*pip, "--constraint", ours, "pydantic"], check=True)
        stamp.touch()
    return str(python)


def beside(cases: Sequence[Case], *, resolution: bool) -> list[Case]:
    """Return those cases that evbus has a side of, with the build before instead of the peers."""
    sides = [BEFORE, *([AGAIN] if resolution else []), OURS]
    wanted = [case for case in cases if OURS in case.events and case.name not in WITHOUT]
    return [case._replace(events=dict.fromkeys(sides, case.events[OURS])) for case in wanted]


def table(found: Results) -> list[str]:
    """Return processor time per event of both builds as a table, a line for each case that has it."""
    cells = [["case", "before, CPU us", "evbus, CPU us", "ratio", "before against itself"]]
    for case in dict.fromkeys(case for _, case, key in found if key == "cpu"):
        before, ours = (found.get((side, case, "cpu"), []) for side in (BEFORE, OURS))
        if before and ours:
            again = found.get((AGAIN, case, "cpu"), [])
            medians = [f"{statistics.median(values):,.1f}" for values in (before, ours)]
            cells.append([case, *medians, _ratio(ours, before), _ratio(again, before) if again else ""])
    return [
        *page.list_table([24, 14, 14, 26, 26], cells),
        "",
        "A ratio is that of the medians; in parentheses those between which half of the rounds lie.",
    ]


def _ratio(values: Sequence[float], others: Sequence[float]) -> str:
    ratio = statistics.median(values) / statistics.median(others)
    rounds = [one / other for one, other in zip(values, others, strict=True)]
    if len(rounds) < 2:
        return f"{ratio:.3f}"
    low, _, high = statistics.quantiles(rounds, n=4, method="inclusive")
    return f"{ratio:.3f} ({low:.3f} to {high:.3f})"
