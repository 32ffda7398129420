"""Names, files and folders, as modules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evbus.engine.cli.places import places
from evbus.errors import ConfigError

DECLARES = (
    "from evbus.api import Service, service\n\n\n@service()\nclass A(Service):\n    async def a(self): ...\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the current folder; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]


def write(folder: Path, *names: str, text: str = DECLARES) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def found(folder: Path, *named: str) -> list[str]:
    return [module.__name__ for module in places(named, folder).modules]


def test_a_module_and_a_package_with_all_below_it(folder: Path) -> None:
    write(
        folder, "place_one.py", "place_pack/__init__.py", "place_pack/sub/__init__.py", "place_pack/sub/x.py"
    )
    assert found(folder, "place_one") == ["place_one"]
    whole = ["place_pack", "place_pack.sub", "place_pack.sub.x"]
    assert found(folder, "place_pack") == whole
    assert found(folder, "place_pack/") == whole
    assert found(folder, "place_pack/__init__.py") == whole
    assert found(folder, "place_pack/sub/x.py") == ["place_pack.sub.x"]
    assert found(folder, "place_one", "place_one.py") == ["place_one"]


def test_a_folder_stands_for_its_files_that_declare_something(folder: Path) -> None:
    write(folder, "place_files/place_b.py", "place_files/place_a.py", "place_files/_hidden.py")
    write(folder, "place_files/program.py", text="raise SystemExit\n")
    assert found(folder, "place_files") == ["place_a", "place_b"]


def test_a_folder_of_plugins_is_one(folder: Path) -> None:
    write(folder, "place_plugins/component/place_c.py")
    assert places(["place_plugins"], folder) == ([], ["place_plugins"])


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("place_on", "there is no module 'place_on'; .*; did you mean 'place_one'"),
        ("nothing.like.it", "there is no module 'nothing.like.it'; it is looked for in "),
        ("place_on.py", r"there is no file or folder place_on.py in .*; did you mean 'place_one.py'\?"),
        ("none/at/all.py", "there is no file or folder none/at/all.py in "),
        ("place_text/", "place_text/ is no file of Python, whose name ends in .py"),
        (
            "place_empty",
            "the folder place_empty has neither a folder component/ nor files of Python with @service",
        ),
        (
            "json.py",
            "json.py is called as another module is, .*json/__init__.py, in whose place it cannot be",
        ),
        (
            "place_wrong.py",
            r"cannot be imported: it is not valid Python: invalid syntax \(.*place_wrong.py:2\)",
        ),
    ],
)
def test_what_is_no_place(folder: Path, named: str, sentence: str) -> None:
    write(folder, "place_one.py", "json.py")
    write(folder, "place_text", text="x")
    write(folder, "place_empty/notes.py", text="x = 1\n")
    write(folder, "place_wrong.py", text="x = 1\nretrn x\n")
    with pytest.raises(ConfigError, match=sentence):
        places([named], folder)
