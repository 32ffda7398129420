"""What is installed with evbus is what it imports, and what the pins of its requirements name."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
# pytest loads the file of its plugin, which is the only one that imports it; pydantic-core is pydantic's own.
BESIDE = {"pytest", "pydantic-core"}


@cache
def declared() -> tuple[set[str], set[str]]:
    """Return the names that setup.cfg requires, and those of its extras."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    needed, extras = config["options"]["install_requires"], config["options.extras_require"].values()
    return names(needed), set().union(*map(names, extras))


def names(requirements: str) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements.splitlines() if line.strip()}


def imported() -> Iterator[tuple[str, str]]:
    """Yield what the files of evbus import, by its name on an index, with the file."""
    found = packages_distributions()
    for path in sorted((ROOT / "evbus").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            for module in modules:
                top = module.partition(".")[0]
                if top != "evbus" and top not in sys.stdlib_module_names:
                    # One that is not here is named as it is imported, and so found to be undeclared.
                    name = next(iter(found.get(top, [top])))
                    yield canonicalize_name(name), str(path.relative_to(ROOT))


def all_of(wanted: set[str]) -> set[str]:
    """Return these packages, and all that they pull in here."""
    found: set[str] = set()
    while wanted:
        name = wanted.pop()
        found.add(name)
        for line in requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted |= {canonicalize_name(requirement.name)} - found
    return found


def test_what_evbus_imports_is_required_or_in_an_extra() -> None:
    needed, extras = declared()
    assert {name: file for name, file in imported() if name not in needed | extras | BESIDE} == {}


def test_what_is_required_is_imported() -> None:
    needed, _ = declared()
    assert needed - {name for name, _ in imported()} == set()


def test_the_pins_are_of_what_is_required_and_of_what_that_pulls_in() -> None:
    needed, _ = declared()
    lines = (ROOT / "requirements/base.txt").read_text().splitlines()
    pinned = [canonicalize_name(match[0]) for line in lines if (match := re.match(r"[\w.-]+", line))]
    assert sorted(pinned) == sorted(all_of(set(needed)))


@pytest.mark.parametrize("file", ["base", "test", "bench", "docs", "lint"])
def test_a_package_has_the_same_version_wherever_it_is_pinned(file: str) -> None:
    base = dict(pins("base"))
    found = list(pins(file))
    assert len(dict(found)) == len(found)  # none is there twice
    assert {name: version for name, version in found if base.get(name, version) != version} == {}


def pins(file: str) -> Iterator[tuple[str, str]]:
    for line in (ROOT / f"requirements/{file}.txt").read_text().splitlines():
        if match := re.match(r"([\w.-]+)(?:\[.*\])?==([\w.]+)", line):
            yield canonicalize_name(match[1]), match[2]
