"""The option plugin_dirs: folders that are missing, misspelt or open to everybody."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evbus.engine.core.plugins.dirs import check_dirs, folders_of
from evbus.errors import PluginError
from tests.evbus.kit import KEEPER, new_hub, running, write

KNOWN = ("match", "serialize", "pipeline", "ingress", "evbus")
PLUGIN = KEEPER.format(name="good")


def refused(*folders: Path) -> str:
    with pytest.raises(PluginError) as caught:
        check_dirs([str(folder) for folder in folders], KNOWN)
    return str(caught.value)


def test_folders_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "plugins", ingress__good=PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_dirs(["plugins", "~/plugins"], KNOWN) == [root, root]
    assert folders_of([root], "ingress") == [str(root / "ingress")]
    assert folders_of([root], "match") == []


def test_an_empty_folder_is_fine(tmp_path: Path) -> None:
    assert check_dirs([str(tmp_path)], KNOWN) == [tmp_path]


def test_a_missing_folder_and_a_file_are_told_with_the_options_index(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused(tmp_path / "none") == f"evbus.plugin_dirs[0]: {tmp_path / 'none'} is not a folder"
    assert (
        refused(tmp_path, tmp_path / "file") == f"evbus.plugin_dirs[1]: {tmp_path / 'file'} is not a folder"
    )


def test_the_folder_of_one_subsystem_is_not_the_root_of_all(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", ingress__good=PLUGIN)
    assert refused(root / "ingress") == (
        f"evbus.plugin_dirs[0]: {root / 'ingress'} holds no folder of plugins; "
        f"known: evbus, ingress, match, pipeline, serialize; name the folder above it, {root}"
    )


def test_a_misspelt_folder_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", ingres__good=PLUGIN, match__x="")
    assert refused(root) == (
        f"evbus.plugin_dirs[0]: {root / 'ingres'} is no folder of plugins; did you mean 'ingress'?"
    )


def test_other_things_may_lie_beside_links_may_go_in_a_circle_and_data_be_open_to_all(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", ingress__good=PLUGIN, listener__x="", _old__x="")
    (root / ".git").mkdir(mode=0o755)
    (root / "ingress" / "again").symlink_to(root)
    (root / "ingress/notes.txt").touch()
    (root / "ingress/notes.txt").chmod(0o666)
    assert check_dirs([str(root)], KNOWN) == [root]


@pytest.mark.parametrize(
    "place",
    [
        ".",
        "ingress",
        "ingress/good.py",
        "ingress/contracts",
        "ingress/contracts/init.py",
        "ingress/__pycache__",
    ],
)
def test_what_everybody_may_write_to_is_refused_with_path_and_mode(tmp_path: Path, place: str) -> None:
    root = write(tmp_path / "plugins", ingress__good=PLUGIN, ingress__contracts__init="")
    (root / "ingress/__pycache__").mkdir(mode=0o755)
    path = root / place
    path.chmod(0o777 if path.is_dir() else 0o646)
    mode = "0777" if path.is_dir() else "0646"
    assert refused(root) == (
        f"({path}): everybody may write to it (mode {mode}), so anybody could run code here; "
        "mend it with chmod o-w"
    )


def test_a_compiled_file_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", ingress__good=PLUGIN)
    compiled = root / "ingress/__pycache__/good.cpython-311.pyc"
    compiled.parent.mkdir(mode=0o755)
    compiled.touch()
    compiled.chmod(0o666)
    assert "good.cpython-311.pyc): everybody may write to it (mode 0666)" in refused(root)


def test_a_link_does_not_hide_what_it_leads_to(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", ingress__good=PLUGIN)
    (elsewhere / "ingress").chmod(0o777)
    root = tmp_path / "plugins"
    root.mkdir(mode=0o755)
    (root / "ingress").symlink_to(elsewhere / "ingress")
    assert f"({root / 'ingress'}): everybody may write to it (mode 0777)" in refused(root)


def test_a_start_is_refused_before_any_code_runs(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", ingress__evil=f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    (root / "ingress/evil.py").chmod(0o666)
    hub = new_hub(plugin_dirs=[root])

    async def main() -> None:
        async with running(hub, {"internal": {"*": {}}}):
            """Never reached."""

    with pytest.raises(PluginError, match=r"everybody may write to it \(mode 0666\)"):
        asyncio.run(main())
    assert not (tmp_path / "ran").exists()
