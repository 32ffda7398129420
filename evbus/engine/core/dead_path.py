"""The path of the dead store of a program that was told none: one for each program and folder."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

from evbus.engine.kit.owner import PACKAGE

__all__ = ["default_path", "program", "state_folder", "stores"]

#: What package managers and shells call the file of a program, and nobody the program.
_GENERIC = ("__main__", "")
#: What stands in the place of a file when there is none.
_NO_FILE = ("", "-", "-c", "-m")
_OTHER = re.compile(r"[^A-Za-z0-9._]+")


def state_folder() -> Path:
    """Return the folder of all that were told no file; it begins with ``~`` when there is no home."""
    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state")
    try:
        return state.expanduser() / "evbus"
    except RuntimeError:
        return state / "evbus"


def default_path() -> Path:
    """Return the file of this program: ``<program>-<folder>-<digest of the folder's path>.jsonl``."""
    name, folder = program()
    digest = hashlib.sha256(str(folder).encode(errors="surrogateescape")).hexdigest()[:8]
    file = "-".join(part for part in (_plain(name), _plain(folder.name), digest) if part)
    return state_folder() / f"{file}.jsonl"


def _plain(name: str) -> str:
    return _OTHER.sub("_", name)[:40].strip("._")


def program() -> tuple[str, Path]:
    """Return the name of this program, and its folder: that of a script, else the current one.

    The folder of what is installed, such as the command ``evbus``, says nothing about what it is used for.
    """
    written = getattr(sys.modules.get("__main__"), "__file__", None) or (sys.argv[0] if sys.argv else "")
    file = Path(os.path.realpath(written)) if written not in _NO_FILE else Path()
    name = file.parent.name if file.stem in _GENERIC else file.stem
    prefixes = (Path(os.path.realpath(sys.prefix)), PACKAGE)
    if file.suffix == ".py" and not any(prefix in file.parents for prefix in prefixes):
        return name, file.parent.parent if file.stem in _GENERIC else file.parent
    try:
        return name or "python", Path.cwd()
    except OSError:  # somebody has removed it
        return name or "python", Path("/")


def stores() -> list[Path]:
    """Return the files of all programs that were told none, as far as there are any."""
    try:
        found = sorted(state_folder().iterdir())
    except OSError:
        return []
    names = {re.sub(r"(\.1)?(\.replaying(\.done)?)?$", "", file.name) for file in found}
    return [state_folder() / name for name in sorted(names) if name.endswith(".jsonl")]
