from __future__ import annotations

from pathlib import Path

import pytest

from tests.command.kit import INTERNAL, Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return a folder with profiles, in which the command can be run."""
    made = Shell(tmp_path)
    made.file("p.yml", INTERNAL)
    made.file("file.yml", 'file:\n  "*": {path: out.jsonl}\n')
    return made
