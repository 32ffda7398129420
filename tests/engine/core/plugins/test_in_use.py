"""Whose listeners join a program: its own, those of plugin_dirs, and those of packages that it names."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.core.plugins import in_use
from evbus.errors import SettingsError
from tests.evbus.kit import new_hub, package, plugin, states, write
from tests.evbus.rig import failure

LISTENER = """
from evbus.api import event_listener

@event_listener("weather.changed")
async def {name}(event):
    print("{name} heard", event)
"""
CONF = 'DYNE = {"listener": ["listener"]}\n'

SEND = """
import asyncio
from evbus.api import bus

async def main():
    async with bus({"internal": {"default": {}}}) as events:
        await events.put(routing_key="weather.changed", body={"sky": "grey"})

def start():
    asyncio.run(main())
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Two packages that are installed side by side."""
    site = tmp_path / "site"
    for name, file in (("weather", "board"), ("city", "press")):
        package(site, name, {"listener": ["listener"]}, **{f"listener__{file}": LISTENER.format(name=file)})
        write(site / name, program=SEND)
        (site / name / "__init__.py").touch()
        (site / name / "__main__.py").write_text(f"from {name}.program import start\nstart()\n")
    return site


@pytest.fixture
def found(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(site))
    return site


def run(site: Path, *command: str, cwd: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(site), "HOME": str(site), **environment},
        cwd=cwd or site.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


BOARD = "board heard {'sky': 'grey'}\n"
PRESS = "press heard {'sky': 'grey'}\n"


def test_a_program_gets_its_own_listeners_and_nobody_elses(site: Path) -> None:
    assert run(site, "-m", "weather") == BOARD
    assert run(site, "-m", "city") == PRESS


def test_the_script_of_an_installer_is_the_package_whose_function_it_calls(site: Path) -> None:
    script = site.parent / "weather-command"
    script.write_text(
        "import sys\nfrom weather.program import start\nif __name__ == '__main__':\n    start()\n"
    )
    assert run(site, str(script)) == BOARD


def test_packages_beside_a_script_are_its_own(site: Path) -> None:
    (site / "app.py").write_text(SEND + "\nstart()\n")
    assert sorted(run(site, "app.py", cwd=site).splitlines(keepends=True)) == [BOARD, PRESS]


def test_a_script_elsewhere_names_whom_it_wants(site: Path) -> None:
    script = site.parent / "job.py"
    script.write_text(SEND + "\nstart()\n")
    assert run(site, str(script)) == ""
    assert run(site, str(script), EVBUS_LISTEN_TO="") == ""


@pytest.mark.parametrize(
    ("options", "joined"),
    [
        ({}, []),
        ({"listen_to": ["city"]}, ["press"]),
        ({"listen_to": "city, weather"}, ["board", "press"]),
        ({"listen_to": ["*"]}, ["board", "press"]),
        ({"listen_to": []}, []),
    ],
)
def test_options_say_whose_listeners_join(found: Path, options: Any, joined: list[str]) -> None:
    rest = {"board": "not in use", "press": "not in use"}
    assert states(new_hub(**options), "listener") == {**rest, **dict.fromkeys(joined, "loaded")}


def test_what_is_not_in_use_is_shown_with_the_line_that_adds_it_and_is_not_executed(found: Path) -> None:
    write(found, city__listener__press="raise ValueError\n")
    entry = plugin(new_hub(), "press", "listener")
    assert entry.file == str(found / "city/listener/press.py")
    assert entry.reason == "it belongs to the package city; this adds it: listen_to: [city]"


def test_a_pop_program_is_found_by_the_parts_of_its_configuration(found: Path) -> None:
    hub = new_hub()
    hub.OPT = hub.pop.data.imap({"evbus": {}, "weather": {"sky": "grey"}})
    assert states(hub, "listener") == {"board": "loaded", "press": "not in use"}


def test_changed_options_change_who_joins(found: Path) -> None:
    hub = new_hub(listen_to=["city"])
    assert states(hub, "listener") == {"board": "not in use", "press": "loaded"}
    hub.OPT = hub.pop.data.imap({"evbus": {"listen_to": ["weather"]}})
    assert states(hub, "listener") == {"board": "loaded", "press": "not in use"}


def test_folders_of_plugin_dirs_are_always_in_use(found: Path, tmp_path: Path) -> None:
    root = write(tmp_path / "mine", listener__own=LISTENER.format(name="own"))
    expected = {"own": "loaded", "board": "not in use", "press": "not in use"}
    assert states(new_hub(plugin_dirs=[root]), "listener") == expected


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cty", "there is no package 'cty'; did you mean 'city'?"),
        (
            "json",
            "the package 'json' has no listeners or handlers for POP: its conf.py names the folder, such as ",
        ),
    ],
)
def test_a_name_that_adds_nothing_is_refused(found: Path, name: str, reason: str) -> None:
    assert failure(SettingsError, new_hub(listen_to=["city", name]).evbus.init.settings).startswith(
        f"evbus.listen_to[1]: {reason}"
    )


def test_a_package_behind_an_import_hook_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = package(
        tmp_path / "project", "hidden", {"listener": ["listener"]}, listener__one=LISTENER.format(name="one")
    )
    # As setuptools writes it for an editable install of a flat layout.
    hook = types.ModuleType("__editable___hidden_1_0_finder")
    hook.MAPPING = {"hidden": str(root)}  # type: ignore[attr-defined]
    finder = type(
        "_EditableFinder", (), {"__module__": hook.__name__, "find_spec": staticmethod(lambda *_: None)}
    )
    monkeypatch.setitem(sys.modules, hook.__name__, hook)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])
    ((name, file, reason),) = in_use.unseen()
    assert (name, file) == ("hidden", str(root / "conf.py"))
    assert reason.startswith(
        "an import hook of an editable install hides it from POP: give its project package-dir"
    )
    with pytest.raises(
        SettingsError, match=r"listen_to\[0\]: the package 'hidden' is not used: an import hook"
    ):
        new_hub(listen_to=["hidden"]).evbus.init.settings()
