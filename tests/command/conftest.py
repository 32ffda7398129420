from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command.kit import INTERNAL, Origin, Shell


@pytest.fixture(scope="session", autouse=True)
def origin() -> Iterator[None]:
    """Let the commands of these tests be copies of one process, which is there before the first test."""
    with Origin():
        yield


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return a folder with profiles, in which the command can be run."""
    made = Shell(tmp_path)
    made.file("p.yml", INTERNAL)
    made.file("file.yml", 'file:\n  "*": {path: out.jsonl}\n')
    return made
