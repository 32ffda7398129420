"""Where the dead store of a program is that was told no file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from evbus.engine.core.dead_path import stores
from tests.command.kit import ROOT

SHOW = "from evbus.engine.core.dead_path import default_path\nprint(default_path().name)\n"


def _name(folder: Path, *args: str) -> str:
    env = {"PYTHONPATH": f"{ROOT}", "XDG_STATE_HOME": str(folder)}
    return subprocess.run(
        [sys.executable, *args], cwd=folder, env=env, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


def test_each_script_and_each_folder_has_one_of_its_own(tmp_path: Path) -> None:
    for folder in ("shop", "bank", "shop/worker"):
        (tmp_path / folder).mkdir()
    for file in ("shop/main.py", "shop/other.py", "bank/main.py", "shop/worker/__main__.py"):
        (tmp_path / file).write_text(SHOW)
    found = {
        _name(tmp_path, "shop/main.py"),
        _name(tmp_path, "shop/other.py"),
        _name(tmp_path, "bank/main.py"),
        _name(tmp_path / "shop", "-m", "worker"),
    }
    assert len(found) == 4
    starts = sorted(name.rpartition("-")[0] for name in found)
    assert starts == ["main-bank", "main-shop", "other-shop", "worker-shop"]
    # Wherever a script is called, it is the same.
    assert _name(tmp_path / "shop", "main.py") == _name(tmp_path, "shop/main.py")


def test_what_is_not_a_script_has_one_for_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert _name(tmp_path, "-c", SHOW) != _name(tmp_path / "a", "-c", SHOW)
    assert _name(tmp_path / "a", "-c", SHOW).startswith("python-a-")


def test_all_of_them_are_found_also_while_they_are_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert stores() == []
    folder = tmp_path / "evbus"
    folder.mkdir()
    names = ("a.jsonl", "a.jsonl.1", "b.jsonl.1", "c.jsonl.replaying", "c.jsonl.replaying.done", "else.txt")
    for name in names:
        (folder / name).touch()
    assert stores() == [folder / name for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
