from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers._node import Node
from tests.servers._processes import Process, Processes


class Shell(Node):
    """A node that is a shell and says a word at each start."""

    name = "the shell"
    address = "nowhere"
    script = "echo ready; exec sleep 1000"
    starts = 0

    def _prepare(self, folder: Path) -> None:
        (folder / "prepared").touch(exist_ok=False)

    def _launch(self, processes: Processes) -> Process:
        self.starts += 1
        return processes.start(["sh", "-c", self.script], os.environ, self.log)

    def _answers(self) -> bool:
        return self.log.read_text().count("ready") == self.starts


@pytest.fixture
def shell() -> Iterator[Shell]:
    with Shell() as shell:
        yield shell


def test_the_first_start_prepares_the_folder_and_the_next_ones_use_it(shell: Shell, tmp_path: Path) -> None:
    shell.start(tmp_path / "new")
    assert shell.alive
    first = shell.pid
    shell.kill()
    assert repr(shell) == "<Shell nowhere is down>"
    shell.start()
    assert shell.pid != first
    assert shell.log.read_text() == "ready\nready\n"


def test_restarting_works_whether_it_runs_or_not(shell: Shell, tmp_path: Path) -> None:
    first = shell.start(tmp_path).pid
    second = shell.restart().pid
    shell.kill()
    assert len({first, second, shell.restart().pid}) == 3


@pytest.mark.parametrize("harm", ["kill", "freeze", "stop", "close", "thaw"])
def test_mending_makes_it_run_whatever_was_done(shell: Shell, tmp_path: Path, harm: str) -> None:
    shell.start(tmp_path)
    getattr(shell, harm)()
    shell.mend()
    assert shell.alive


def test_stopping_ends_a_frozen_one_and_may_be_repeated(shell: Shell, tmp_path: Path) -> None:
    shell.start(tmp_path).freeze()
    shell.stop()
    shell.stop()
    assert not shell.alive


def test_a_start_that_fails_shows_the_end_of_the_log(shell: Shell, tmp_path: Path) -> None:
    shell.script = "echo no space left; exit 1"
    with pytest.raises(RuntimeError, match="the shell ended while it started.*\n.*no space left"):
        shell.start(tmp_path)


def test_misuse_is_told(shell: Shell, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="is given its folder by the first start"):
        shell.start()
    with pytest.raises(RuntimeError, match="is down>: start it first"):
        shell.kill()
    shell.start(tmp_path)
    with pytest.raises(RuntimeError, match="runs> already"):
        shell.start()
    shell.kill()
    with pytest.raises(RuntimeError, match="is down> and has its folder"):
        shell.start(tmp_path)
