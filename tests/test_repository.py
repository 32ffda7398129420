"""The files of the project: no host names, findings that stand for themselves, requirements in use."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
# The hosts of package registries and of their usual mirrors: names, and the domains below which each may be.
# They are put together here, so that this file does not name one either.
HOSTS = {
    "pypi": ("org", "python.org", "tuna.tsinghua.edu.cn", "doubanio.com"),
    "pythonhosted": ("org",),
    "debian": ("org", "net"),
    "ubuntu": ("com",),
    "npmjs": ("org", "com"),
    "npmmirror": ("com",),
    "yarnpkg": ("com",),
    "mirrors": (
        "aliyun.com",
        "tuna.tsinghua.edu.cn",
        "ustc.edu.cn",
        "kernel.org",
        "edge.kernel.org",
        "cloud.tencent.com",
        "huaweicloud.com",
    ),
    "mirror": ("kernel.org",),
    "anaconda": ("org", "com"),
    "golang": ("org",),
    "crates": ("io",),
}
NAMED = re.compile(
    r"(?<![\w-])(?:"
    + "|".join(re.escape(f"{name}.{domain}") for name, domains in HOSTS.items() for domain in domains)
    + r")(?![\w-])",
    re.IGNORECASE,
)


def hosts_in(text: str) -> list[str]:
    return NAMED.findall(text)


@pytest.mark.parametrize(("name", "domain"), [(name, domain) for name in HOSTS for domain in HOSTS[name]])
def test_each_host_is_found(name: str, domain: str) -> None:
    host = f"{name}.{domain}"
    for text in (f"deb http://{host}/x y", f"https://deb.{host.upper()}/", f"see {host}."):
        assert [found.lower() for found in hosts_in(text)] == [host]


@pytest.mark.parametrize("text", ["debian.orgs", "my-debian" + ".org", "an apt source of Debian"])
def test_other_words_are_not_found(text: str) -> None:
    assert hosts_in(text) == []


def test_no_tracked_file_names_the_host_of_a_package_registry() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no clone of the repository, or git is not installed")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [name for name in listed.stdout.split("\0") if name]
    assert "setup.cfg" in files
    found = {
        name: hosts
        for name in files
        if (ROOT / name).is_file() and (hosts := hosts_in((ROOT / name).read_text(errors="replace")))
    }
    assert found == {}


# The scripts in findings: each stands for itself, and says what was seen with which version.


SCRIPTS = sorted((Path(__file__).parent.parent / "findings").iterdir())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_can_be_read_and_needs_nothing_of_evbus(script: Path) -> None:
    assert script.suffix == ".sh"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)
    head, _, code = script.read_text().partition("set -euo pipefail\n")
    assert head.startswith("#!/usr/bin/env bash\n# ")
    assert all(line.startswith("#") for line in head.splitlines())
    assert re.search(r"^# Seen with .*\d+\.\d+\.\d+", head, re.MULTILINE)
    assert "evbus" not in code
    # What is installed is pinned, and what was seen is asserted.
    packages = re.search(r"pip\" .* install (.*)", code)
    assert packages is not None
    assert all("==" in package for package in packages[1].split())
    assert re.search(r"^assert ", code, re.MULTILINE) or "    assert found" in code


# What is installed with evbus is what it imports, and what the pins of its requirements name.


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
