"""What is installed besides: its mistakes are told and harm nobody, and of two copies of evbus one counts."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pop.hub
import pytest

import evbus
from evbus.engine.core.plugins import installed
from tests.evbus.kit import KEEPER, new_hub, package, plugin, states

OURS = {"amqp", "amqp1", "console", "file", "internal", "stomp", "webhook"}
GOOD = KEEPER.format(name="good")

#: The text of a conf.py, and what is said of it.
BAD = {
    "missing folder": ('DYNE = {"ingress": ["nowhere"]}', "which is not there; setuptools' find: leaves"),
    "a text": ('DYNE = {"ingress": "ingress"}', "DYNE['ingress'] is a list of folders, and not 'ingress'"),
    "a tuple": (
        'DYNE = {"ingress": ("ingress",)}',
        "DYNE['ingress'] is a list of folders, and not ('ingress',)",
    ),
    "a list of numbers": ('DYNE = {"ingress": [1]}', "DYNE['ingress'] is a list of folders, and not [1]"),
    "a list": ('DYNE = ["ingress"]', "DYNE is a mapping of names to lists of folders, and not ['ingress']"),
    "options": ('CONFIG = 7\nDYNE = {"ingress": ["ingress"]}', "its CONFIG cannot be read: "),
    "its own file": ('DYNE = {"ingress": [__file__]}', "NameError: name '__file__' is not defined"),
    "a relative import": (
        'from . import x\nDYNE = {"ingress": ["a"]}',
        "POP cannot execute it, which it does without ",
    ),
    "no Python": ('DYNE = {"ingress": [}', "SyntaxError: "),
    "an end": ('raise SystemExit("bye")\nDYNE = {"ingress": ["a"]}', "SystemExit: bye"),
}
#: Of these POP ends, too, before anything of evbus runs.
ENDS_POP = ("CONFIG = 7", "raise SystemExit", 'DYNE = {"ingress": [1]}')
#: What POP stumbles over, too, and what is no concern of the bus.
ODD = [
    'DYNE = {"other": []}',
    'DYNE = {1: ["x"]}',
    'DYNE = {"other": ["nowhere"]}',
    "DYNE = None",
    "x = DYNE",
]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = tmp_path / "site"
    package(site, "healthy", {"ingress": ["hooks"]}, hooks__good=GOOD)
    monkeypatch.syspath_prepend(str(site))
    return site


def fresh() -> Any:
    hub = installed.new_hub()
    hub.OPT = hub.pop.data.imap({"evbus": {}})
    return hub


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_conf_py_with_a_mistake_is_a_broken_plugin_and_nothing_else_suffers(
    site: Path, caplog: pytest.LogCaptureFixture, text: tuple[str, str]
) -> None:
    (site / "other/ingress").mkdir(parents=True)
    file = site / "other/conf.py"
    file.write_text(text[0])
    for make in (fresh, new_hub):  # the second as a POP project makes it
        if make is new_hub and text[0].startswith(ENDS_POP):
            continue
        hub = make()
        caplog.clear()
        found = plugin(hub, "other")
        assert (found.state, found.file) == ("broken", str(file))
        assert text[1] in found.reason
        assert states(hub) == {**dict.fromkeys(OURS, "loaded"), "other": "broken", "good": "loaded"}
        assert [f"ingress.other ({file}): " in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("room", ["evbus", "log"])
def test_a_folder_that_is_missing_in_a_room_without_plugins_of_its_own_is_told(site: Path, room: str) -> None:
    (site / "other").mkdir()
    (site / "other/conf.py").write_text(f'DYNE = {{"{room}": ["nowhere"]}}')
    (found,) = fresh().evbus.init.plugins()[room]
    assert (found.name, found.state) == ("other", "broken")
    assert "which is not there" in found.reason


@pytest.mark.parametrize("text", ODD)
def test_what_is_odd_about_rooms_of_others_ends_nothing(site: Path, text: str) -> None:
    (site / "other").mkdir()
    (site / "other/conf.py").write_text(text)
    assert states(fresh()) == {**dict.fromkeys(OURS, "loaded"), "good": "loaded"}


def test_pipes_and_folders_that_cannot_be_read_are_passed_over(site: Path) -> None:
    (site / "piped").mkdir()
    os.mkfifo(site / "piped/conf.py")
    (site / "circle").symlink_to(site / "circle")
    (site / "binary").mkdir()
    (site / "binary/conf.py").write_bytes(b"DYNE = '\xff'")
    assert states(fresh()) == {**dict.fromkeys(OURS, "loaded"), "good": "loaded"}


def test_a_sub_virtual_of_others_switches_off_their_own_folder_and_is_told(site: Path) -> None:
    off = "def __sub_virtual__(hub):\n    return False, 'not here'\n"
    root = package(site, "other", {"ingress": ["in"]}, in__init=off, in__mine=KEEPER.format(name="mine"))
    hub = fresh()
    assert states(hub) == {
        **dict.fromkeys(OURS, "loaded"),
        "good": "loaded",
        "init": "disabled",
        "mine": "disabled",
    }
    for name in ("init", "mine"):
        assert plugin(hub, name).reason == f"__sub_virtual__ of {root / 'in/init.py'}: not here"


def test_a_sub_virtual_that_fails_is_broken_with_its_folder(site: Path) -> None:
    bad = "def __sub_virtual__(hub):\n    return 1 / 0\n"
    package(site, "other", {"ingress": ["in"]}, in__init=bad, in__mine=KEEPER.format(name="mine"))
    found = plugin(fresh(), "init")
    assert (found.state, found.line) == ("broken", 2)
    assert found.reason.endswith("__sub_virtual__ failed: ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    "text",
    [
        "def __getattr__(name):\n    raise ValueError(name)\n",
        "__func_alias__ = 5\n",
        "__load__ = ['nothing']\n",
        "__load__ = 5\n",
        "__contracts__ = 5\n",
        "__virtual__ = 5\n",
        "__init__ = 5\n",
        "OPTIONS = [1]\n",
    ],
)
def test_odd_attributes_of_a_file_break_that_file_alone(site: Path, text: str) -> None:
    package(site, "other", {"ingress": ["in"]}, in__odd=text + KEEPER.format(name="odd"))
    found = states(fresh())
    assert found.pop("odd") in ("broken", "loaded")
    assert found == {**dict.fromkeys(OURS, "loaded"), "good": "loaded"}


PROGRAM = """
import json, logging
import pop.hub
logging.basicConfig(level="INFO", format="%(message)s")
import evbus
from evbus.engine.core.plugins import installed
hub = {make}
states = {{plugin.state for found in hub.evbus.init.plugins().values() for plugin in found}}
functions = [hub.evbus.init.start, hub.evbus.broker.put, hub.ingress.file.publish, hub.match.glob.find]
files = [evbus.__file__, *(function.func.__code__.co_filename for function in functions)]
print(json.dumps([sorted(states), files, hasattr(hub.evbus.init, "of_the_other")]))
"""


@pytest.mark.parametrize(
    "make",
    [
        "installed.new_hub()",
        "pop.hub.Hub(); hub.pop.sub.add(dyne_name='evbus')",
        "pop.hub.Hub(); hub.pop.sub.add(dyne_name='evbus', pypath='evbus.evbus')",
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_of_two_copies_of_evbus_the_one_that_python_imports_counts_whole(
    tmp_path: Path, make: str, first: bool
) -> None:
    ours = Path(evbus.__file__).parent
    copy = tmp_path / "elsewhere/evbus"
    shutil.copytree(ours, copy)
    with (copy / "evbus/init.py").open("a") as file:
        file.write("\n\ndef stray(hub):\n    pass\n")
    path = [str(copy.parent), str(ours.parent)] if first else [str(ours.parent), str(copy.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    program = [sys.executable, "-c", PROGRAM.format(make=make)]
    done = subprocess.run(program, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    states, files, _ = json.loads(done.stdout)
    root = copy if first else ours
    assert states == ["loaded"]
    assert [Path(file).is_relative_to(root) for file in files] == [True] * 5
    assert done.stderr.count("copy of evbus") == 1


def test_another_copy_is_told_once_and_without_a_warning(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    package(site, "evbus", {"ingress": ["ingress"]}, ingress__console=KEEPER.format(name="console"))
    caplog.set_level(logging.INFO, logger="evbus")
    assert states(fresh()) == {**dict.fromkeys(OURS, "loaded"), "good": "loaded"}
    said = [record for record in caplog.records if "another copy of evbus" in record.getMessage()]
    assert [record.levelname for record in said] == ["INFO"]


def test_a_hub_that_has_looked_before_is_looked_at_again(site: Path) -> None:
    (site / "other").mkdir()
    (site / "other/conf.py").write_text('DYNE = {"ingress": ["nowhere"]}')
    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="config")
    installed.merge(hub)
    assert plugin(hub, "other").state == "broken"


def _import(package: Path) -> subprocess.CompletedProcess[str]:
    code = "import evbus; print(evbus.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=package.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_installation_over_pop_evbus_is_noticed_at_import(tmp_path: Path) -> None:
    copy = tmp_path / "evbus"
    copy.mkdir()
    for name in ("__init__.py", "conf.py"):
        shutil.copy(Path(evbus.__file__).parent / name, copy)
    assert _import(copy).stderr == ""
    (tmp_path / "pop_evbus-7.0.1.dist-info").mkdir()
    done = _import(copy)
    assert done.returncode == 0
    assert f"RuntimeWarning: evbus and pop-evbus are both installed in {copy}" in done.stderr
    assert "pip uninstall pop-evbus evbus-hub" in done.stderr
    (copy / "conf.py").unlink()
    done = _import(copy)
    assert done.returncode == 1
    assert (
        f"ImportError: files of evbus are missing in {copy}, as after the removal of pop-evbus" in done.stderr
    )


def test_rooms_of_acct_rend_and_pop_serial_are_opened_when_they_are_asked_for() -> None:
    for hub in (installed.new_hub(), new_hub()):
        assert not set(installed.LATER) & set(hub._subs)
        assert hub.serial.json.dump({}) == b"{}"
        assert "acct" not in hub._subs
        assert hub["output.json.display"]({}) == "{}"
        assert callable(hub.crypto.fernet.generate_key)
        assert callable(hub.rend.init.parse)
        assert hub.acct.UNLOCKED is False
        hub.pop.sub.add(dyne_name="serial")
        assert hub.serial.json.load(b"{}") == {}


def test_rooms_that_are_not_installed_are_not_there() -> None:
    hub = installed.new_hub()
    del hub._dynamic["acct"]
    assert not hasattr(hub, "acct")
    assert not hasattr(hub, "no_such_room")
    with pytest.raises(AttributeError, match="acct"):
        hub.acct  # noqa: B018 - that it raises is what is looked at


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_while_a_hub_is_made_and_is_as_it_was_afterwards(
    enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(installed, "merge", lambda _hub: seen.append(gc.isenabled()))
    (gc.enable if enabled else gc.disable)()
    try:
        installed.new_hub()
        assert (seen, gc.isenabled()) == ([False], enabled)
    finally:
        gc.enable()


def test_a_copy_of_a_process_that_loads_has_its_collector() -> None:
    with installed.loading():
        pid = os.fork()
        if not pid:
            os._exit(0 if gc.isenabled() else 1)
        assert not gc.isenabled()
    assert os.waitpid(pid, 0)[1] == 0
    assert gc.isenabled()


async def test_clients_of_connections_are_closed_although_these_were_there_before_the_bus(
    tmp_path: Path,
) -> None:
    closed = list[bool]()

    class Client:
        async def close(self) -> None:
            closed.append(True)

    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="connection")
    installed.merge(hub)
    hub.OPT = hub.pop.data.imap({"evbus": {"dead_store": str(tmp_path / "dead.jsonl")}})
    running = asyncio.ensure_future(hub.evbus.init.start({"internal": {"*": {}}}))
    await hub.evbus.init.join()
    hub.connection.CLIENTS.add(Client())
    await hub.evbus.init.stop()
    await running
    assert closed == [True]
