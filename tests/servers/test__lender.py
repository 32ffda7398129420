from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers._lender import Lender, borrow
from tests.servers._node import Node
from tests.servers._processes import Process, Processes

ROOT = Path(__file__).parent.parent.parent
BORROWER = """
import sys
from tests.servers._lender import borrow
node = borrow((sys.argv[1], sys.argv[2]), "a")
print(node.pid, node.alive, node.folder)
"""


class Sleep(Node):
    """A program that is no broker, but starts and ends as one does."""

    name, address = "sleep", ""

    def _prepare(self, folder: Path) -> None:
        pass

    def _launch(self, processes: Processes) -> Process:
        return processes.start(["sleep", "1000"], os.environ, self.log)

    def _answers(self) -> bool:
        return True


@pytest.fixture
def started() -> list[str]:
    return []


@pytest.fixture
def lender(tmp_path: Path, started: list[str]) -> Iterator[Lender]:
    def start(name: str) -> Node:
        started.append(name)
        if name == "bad":
            raise RuntimeError("it does not start")
        return Sleep().start(tmp_path / name)

    with Lender(start) as lender:
        yield lender


def test_who_asks_for_a_name_gets_the_same_broker(lender: Lender, started: list[str], tmp_path: Path) -> None:
    first, second, other = (borrow(lender.place, name) for name in ("a", "a", "b"))
    assert (first.pid, first.folder) == (second.pid, tmp_path / "a")
    assert other.pid != first.pid
    assert started == ["a", "b"]


def test_another_process_gets_it_too_and_does_not_end_it(lender: Lender, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BORROWER, *lender.place],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    node = borrow(lender.place, "a")
    assert done.stdout.split() == [str(node.pid), "True", str(tmp_path / "a")]
    assert node.alive


def test_brokers_end_with_the_lender(lender: Lender) -> None:
    node = borrow(lender.place, "a")
    lender.close()
    assert not node.alive
    lender.close()


def test_what_does_not_start_is_told_to_who_asks_and_asked_once(lender: Lender, started: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="it does not start"):
            borrow(lender.place, "bad")
    assert started == ["bad"]


def test_brokers_start_side_by_side(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=30)

    def start(name: str) -> Node:
        both.wait()
        return Sleep().start(tmp_path / name)

    with Lender(start) as lender:
        asking = threading.Thread(target=borrow, args=(lender.place, "a"))
        asking.start()
        assert borrow(lender.place, "b").alive
        asking.join()
