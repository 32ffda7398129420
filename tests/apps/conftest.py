"""One virtual environment with published applications, and this package in place of pop-evbus."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent.parent
APPLICATIONS = ("idem==25.0.1", "evbus-pika==5.0.0", "evbus-kafka==5.0.0")
# What evbus itself needs and the applications do not bring.
NEEDED = ("msgspec==0.22.0", "stomp.py==9.0.0", "aiohappyeyeballs==2.7.1")
SOURCES = ("evbus", "setup.cfg", "pyproject.toml", "README.rst", "LICENSE")
PINS = ROOT / "requirements/aspyx-service.txt"
INSTALL_LIMIT = 900  # seconds


class Apps(NamedTuple):
    """The environment: ``run("idem", "state", ...)`` runs one of its commands."""

    bin: Path

    def run(self, command: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command in a folder of its own, blind to this process's Python settings."""
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "ACCT"))
        }
        return subprocess.run(
            [str(self.bin / command), *map(str, arguments)],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="session")
def apps(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Apps:
    """Return the environment; what comes from the index is kept in pytest's cache from run to run."""
    version = "{}.{}".format(*sys.version_info)
    pins = "\n".join((*APPLICATIONS, *NEEDED))
    folder = request.config.cache.mkdir("apps") / version  # type: ignore[union-attr]
    stamp = folder / ".installed"
    if not stamp.exists() or stamp.read_text() != pins:
        venv.create(folder, with_pip=True, clear=True)
        _install_or_skip(folder, *APPLICATIONS, *NEEDED)
        _pip(folder, "uninstall", "--yes", "pop-evbus").check_returncode()
        stamp.write_text(pins)
    wheel = _wheel(folder, tmp_path_factory.mktemp("wheel"))
    _pip(folder, "install", "--no-deps", "--force-reinstall", wheel).check_returncode()
    return Apps(folder / "bin")


def _install_or_skip(folder: Path, *pins: str) -> None:
    # Of the compiled packages only wheels: what is not built for this Python yet is not built here.
    compiled = "--only-binary=aiokafka,cffi,cryptography,lazy-object-proxy,msgpack,msgspec,uvloop"
    done = _pip(folder, "install", compiled, *pins)
    if done.returncode == 0:
        return
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr]
    no_wheel = any("No matching distribution found for" in line for line in errors)
    if no_wheel or "CI" not in os.environ:
        pytest.skip(f"the applications cannot be installed on Python {folder.name}: {errors[-1]}")
    pytest.fail(done.stderr)


def _wheel(folder: Path, target: Path) -> str:
    """Build this package from a copy of its sources: runs on several Pythons must not meet in build/."""
    source = target / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    done = _pip(folder, "wheel", "--no-deps", "--wheel-dir", str(target), str(source))
    assert done.returncode == 0, done.stderr
    (wheel,) = target.glob("evbus_hub-*.whl")
    return str(wheel)


def _pip(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(folder / "bin/python"),
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=INSTALL_LIMIT, check=False
    )


@pytest.fixture(scope="session")
def aspyx(request: pytest.FixtureRequest) -> Apps:
    """Return the environment with aspyx-service; it is kept in pytest's cache from run to run."""
    folder = request.config.cache.mkdir("aspyx") / "{}.{}".format(*sys.version_info)  # type: ignore[union-attr]
    stamp = folder / ".installed"
    if not stamp.exists() or stamp.read_text() != PINS.read_text():
        venv.create(folder, with_pip=True, clear=True)
        _install_or_skip(folder, "--requirement", str(PINS))
        stamp.write_text(PINS.read_text())
    return Apps(folder / "bin")
