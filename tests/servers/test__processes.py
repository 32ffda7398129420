from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers._processes import Process, Processes

SLEEP = ["sleep", "1000"]
ROOT = Path(__file__).parent.parent.parent
STARTER = """
import os, sys
from pathlib import Path
from tests.servers._processes import Processes
processes = Processes()
print(processes.start(["sleep", "1000"], os.environ, Path(sys.argv[1])).pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def processes() -> Iterator[Processes]:
    processes = Processes()
    yield processes
    processes.close()


def test_a_process_is_alive_until_it_is_killed(processes: Processes, tmp_path: Path) -> None:
    sleep = processes.start(SLEEP, os.environ, tmp_path / "log")
    assert sleep.alive
    sleep.kill()
    assert not sleep.alive
    sleep.kill()


def test_a_frozen_process_is_killed_too(processes: Processes, tmp_path: Path) -> None:
    sleep = processes.start(SLEEP, os.environ, tmp_path / "log")
    sleep.freeze()
    assert sleep.alive
    sleep.kill()
    assert not sleep.alive


def test_what_a_process_prints_is_appended_to_its_log(processes: Processes, tmp_path: Path) -> None:
    for word in ("one", "two"):
        assert processes.start(["echo", word], os.environ, tmp_path / "log").wait()
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_a_missing_program_is_told_and_harms_no_other(processes: Processes, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-such-program cannot be started: .*No such file"):
        processes.start(["no-such-program"], os.environ, tmp_path / "log")
    assert processes.start(SLEEP, os.environ, tmp_path / "log").alive


def test_closing_ends_all_of_them(processes: Processes, tmp_path: Path) -> None:
    started = [processes.start(SLEEP, os.environ, tmp_path / "log") for _ in range(3)]
    processes.close()
    processes.close()
    assert not any(process.alive for process in started)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_processes_end_with_the_one_that_started_them(number: signal.Signals, tmp_path: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path / "log")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with starter:
        assert starter.stdout is not None
        sleep = Process(int(starter.stdout.readline()))
        assert sleep.alive
        starter.send_signal(number)
        assert sleep.wait()
