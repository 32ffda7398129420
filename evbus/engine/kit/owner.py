"""The owner of a source file: the program itself, or what it stands on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

__all__ = ["PACKAGE", "owner"]

#: The folder of this package.
PACKAGE = Path(__file__).parents[2]

_OURS = f"{PACKAGE.resolve()}{os.sep}"
_PYTHON = f"{Path(os.__file__).resolve().parent}{os.sep}"
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def owner(file: str) -> Literal["evbus", "library", "python", "program"]:
    """Return the owner of a file, by its path; what is no file is Python's."""
    if file.startswith(_OURS):
        return "evbus"
    if any(part in file for part in _PACKAGES):
        return "library"
    return "python" if file.startswith((_PYTHON, "<")) else "program"
