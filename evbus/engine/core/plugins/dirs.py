"""The folders of the option ``plugin_dirs``: what is in them, and who may write to them."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from evbus.engine.kit.paths import expanded
from evbus.errors import PluginError, nearest

__all__ = ["check_dirs", "folders_of", "inside"]

#: What Python or POP would execute, or loads in place of a source file.
CODE = (".py", ".pyc", ".pyo", ".pyx", ".so")


def check_dirs(plugin_dirs: Sequence[str], known: Sequence[str]) -> list[Path]:
    """Return the folders of the option ``plugin_dirs`` as absolute paths.

    :param known: the subsystems that such a folder may hold.
    :raises PluginError: a folder is missing, writable by everybody, or holds no known subsystem.
    """
    found = []
    for index, name in enumerate(plugin_dirs):
        option = f"evbus.plugin_dirs[{index}]"
        root = expanded(name, option).resolve()
        if not root.is_dir():
            raise PluginError(f"{option}: {root} is not a folder")
        try:
            _check_names(root, option, known)
            _check_modes(root)
        except OSError as exc:
            raise PluginError(f"{option}: {exc.filename or root} cannot be read: {exc.strerror}") from None
        found.append(root)
    return found


def _check_names(root: Path, option: str, known: Sequence[str]) -> None:
    inside = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] not in "_.")
    unknown = sorted(set(inside) - set(known))
    for name in unknown:
        # A folder for something else may lie there too; a near miss is a typing error.
        if difflib.get_close_matches(name, known, n=1, cutoff=0.8):
            raise PluginError(f"{option}: {root / name} is no folder of plugins{nearest(name, known)}")
    if set(inside) & set(known):
        return
    if unknown or any(root.glob("*.py")):
        above = f"; name the folder above it, {root.parent}" if root.name in known else ""
        raise PluginError(
            f"{option}: {root} holds no folder of plugins; known: {', '.join(sorted(known))}{above}"
        )


def _check_modes(root: Path) -> None:
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        _check_mode(Path(folder))
        for file in files:
            # A link that leads nowhere is told when it is loaded, and an editor's lock file is one.
            if file.endswith(CODE) and (path := Path(folder, file)).exists():
                _check_mode(path)


def _raise(exc: OSError) -> None:
    raise exc


def _check_mode(path: Path) -> None:
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH:
        raise PluginError(
            f"everybody may write to it (mode {stat.S_IMODE(mode):04o}), so anybody could run code here; "
            "mend it with chmod o-w",
            file=str(path),
        )


def folders_of(roots: Sequence[Path], subsystem: str) -> list[str]:
    """Return the folders of a subsystem below ``roots``; POP finds their ``contracts`` by itself."""
    return [str(root / subsystem) for root in roots if (root / subsystem).is_dir()]


def inside(plugin_dirs: Sequence[str], file: str) -> bool:
    """Return whether a file lies in one of the folders of the option ``plugin_dirs``."""
    path = Path(file)
    roots = [expanded(name, "evbus.plugin_dirs").resolve() for name in plugin_dirs]
    return any(root in (*path.parents, *path.resolve().parents) for root in roots)
