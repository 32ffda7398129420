"""What is made of files, and made again when they have changed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from evbus.engine.kit.watched import Watched
from evbus.errors import ConfigError

log = logging.getLogger("evbus.service")


def test_it_is_made_once_and_again_when_a_file_has_changed(tmp_path: Path) -> None:
    file, made = tmp_path / "file", []
    file.write_text("one")

    def load() -> str:
        made.append(file.read_text())
        return made[-1]

    watched = Watched([file], load, log)
    assert [watched.get(), watched.get()] == ["one", "one"]
    assert made == ["one"]
    other = tmp_path / "other"
    other.write_text("two")
    other.replace(file)
    assert watched.get() == "two"
    assert made == ["one", "two"]


def test_what_it_was_before_stays_when_it_cannot_be_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.write_text("one")

    def load() -> str:
        if file.read_text() == "half":
            raise ConfigError("it is no word")
        return file.read_text()

    watched = Watched([file], load, log)
    file.write_text("half")
    assert [watched.get(), watched.get()] == ["one", "one"]
    file.unlink()
    assert watched.get() == "one"
    # Each is told once.
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "ConfigError: it is no word",
        f"FileNotFoundError: [Errno 2] No such file or directory: '{file}'",
    ]
    file.write_text("three")
    assert watched.get() == "three"


def test_the_first_time_it_has_to_be_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Watched([tmp_path / "file"], (tmp_path / "file").read_text, log)
