"""The source distribution and the wheel hold what they should; what is installed works and has types."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

import docutils.core
import docutils.nodes
import pytest

from evbus.version import DISTRIBUTION, version

ROOT = Path(__file__).parent.parent
STEM = f"{DISTRIBUTION.replace('-', '_')}-{version}"
LIMIT = 300  # seconds

QUICKSTART = """
import asyncio
from evbus.api import bus

async def main():
    async with bus({"console": {"*": {}}}) as events:
        await events.put(routing_key="order.created", body={"id": 1})

asyncio.run(main())
"""

# What a program writes, and what a checker of types says of it.
TYPED = """
import asyncio
from dataclasses import dataclass

from evbus.api import bus, event, event_listener
from evbus.errors import BusFull


@event()
@dataclass
class OrderPlaced:
    order_id: str


@event_listener(OrderPlaced)
async def bill(order: OrderPlaced) -> None:
    print(order.order_id)


async def main() -> None:
    async with bus({"internal": {"default": {}}}) as events:
        reveal_type(events.hub)
        try:
            await events.put(routing_key="order.created", body={"id": 1})
        except BusFull as exc:
            reveal_type(exc)
        await events.put(routing_key=5)


reveal_type(OrderPlaced("A-1"))
asyncio.run(main())
"""


class Built(NamedTuple):
    """The two distributions: the wheel is made from the source distribution, as pip does it."""

    sdist: Path
    wheel: Path


def git_files(*below: str) -> set[str]:
    """Return the files that the repository knows and that are there."""
    git = ["git", "ls-files", "-z", "--", *below]
    done = subprocess.run(git, cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("this is no clone: what belongs to the project is what git knows")
    return {name for name in done.stdout.decode().split("\0") if name and (ROOT / name).exists()}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command, blind to the settings that this process has, and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**environment, "HOME": str(cwd)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    for name in git_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    backend = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    run(sys.executable, "-c", backend, cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel")
    run(*pip, "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, sdist, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return Built(sdist, wheel)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with the wheel; what evbus needs it finds in that of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin/python"
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--no-index", "--no-deps", built.wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


@pytest.fixture(scope="module")
def metadata(built: Built) -> Message:
    with zipfile.ZipFile(built.wheel) as archive:
        return Parser().parsestr(archive.read(f"{STEM}.dist-info/METADATA").decode())


def test_the_source_distribution_holds_what_a_clone_has(built: Built) -> None:
    assert built.sdist.name == f"{STEM}.tar.gz"
    with tarfile.open(built.sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made = {name for name in held if name.startswith("evbus_hub.egg-info/")} | {"PKG-INFO"}
    assert held - made == git_files()


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    assert built.wheel.name == f"{STEM}-py3-none-any.whl"
    with zipfile.ZipFile(built.wheel) as archive:
        held = {name for name in archive.namelist() if not name.startswith(f"{STEM}.dist-info/")}
    assert held == git_files("evbus")
    assert "evbus/py.typed" in held


def test_the_metadata_says_what_it_is(metadata: Message) -> None:
    assert metadata["Name"] == DISTRIBUTION == "evbus-hub"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert {"acct", "amqp1", "webhook"} <= set(metadata.get_all("Provides-Extra", []))
    urls = [entry.partition(", ")[2] for entry in metadata.get_all("Project-URL", [])]
    assert urls
    assert all(url.startswith("https://") for url in urls)


def test_the_readme_has_no_link_that_is_dead_on_another_page(metadata: Message) -> None:
    # A warning of docutils ends this: an index would show the text as it is typed.
    page = docutils.core.publish_doctree(metadata.get_payload(), settings_overrides={"halt_level": 2})
    links = [node["refuri"] for node in page.findall(docutils.nodes.reference) if "refuri" in node]
    assert [link for link in links if not link.startswith("https://")] == []


def test_what_is_installed_runs(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "quickstart.py").write_text(QUICKSTART)
    assert run(installed, "quickstart.py", cwd=tmp_path) == 'order.created {"id":1}\n'
    command = installed.with_name("evbus")
    assert run(command, "--version", cwd=tmp_path) == f"evbus {version}\n"
    plugins = run(command, "plugins", cwd=tmp_path)
    assert "broken" not in plugins
    assert "engine" not in plugins  # which are no plugins
    where = "import evbus, importlib.metadata as m; print(evbus.__file__, m.version('evbus-hub'))"
    site = installed.parent.parent
    assert run(installed, "-c", where, cwd=tmp_path).startswith(str(site))


def test_a_checker_of_types_sees_those_of_what_is_installed(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(TYPED)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(installed), "app.py"]
    done = subprocess.run(mypy, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT, check=False)
    (wrong,) = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert wrong.startswith("app.py:27: error: ")
    assert '"put"' in wrong
    assert '"int"' in wrong
    assert 'Revealed type is "evbus.errors.BusFull"' in done.stdout
    assert 'Revealed type is "app.OrderPlaced"' in done.stdout
