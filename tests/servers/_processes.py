"""Programs that end with this process, however it ends, and that are no children of it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers._wait import until

KEEPER = Path(__file__).with_name("_keeper.py")
NO_ANSWER = '{"error": "the process that starts others has ended"}'
LIMIT = 15.0  # seconds that a process which was killed may take to be gone


class Process:
    """A running program; its id stays its own until the next program of its `Processes` is started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._exit = os.pidfd_open(pid)  # readable once the process has ended
        # Not closed before: another thread may be waiting for the same end.
        weakref.finalize(self, os.close, self._exit)

    def __repr__(self) -> str:
        return f"<Process {self.pid} {'runs' if self.alive else 'has ended'}>"

    def __reduce__(self) -> tuple[type[Process], tuple[int]]:
        """Let another process hold it too."""
        return Process, (self.pid,)

    @property
    def alive(self) -> bool:
        return not self.wait(0)

    def wait(self, timeout: float = LIMIT) -> bool:
        """Return whether the process has ended, after at most `timeout` seconds."""
        poll = select.poll()
        poll.register(self._exit, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def freeze(self) -> None:
        """Send SIGSTOP and return when every thread stands still."""
        self.signal(signal.SIGSTOP)
        until(self._stands, LIMIT, f"the freezing of process {self.pid}")

    def _stands(self) -> bool:
        states = [
            (task / "stat").read_text().rpartition(")")[2].split()[0]
            for task in Path(f"/proc/{self.pid}/task").iterdir()
        ]
        return set(states) <= {"T", "Z"}

    def kill(self) -> None:
        """Send SIGKILL and return when the process is gone; a frozen one goes too."""
        self.signal(signal.SIGKILL)
        if not self.wait():
            raise TimeoutError(f"process {self.pid} was killed and is still there after {LIMIT:g} s")


class Processes:
    """Starts programs through a small process in between, which kills them when its stdin ends.

    So a test run that is killed leaves none of them behind, Ctrl-C at the terminal does not reach them before
    their fixture's end does, and a program may be started from any thread and in the middle of a test.
    """

    def __init__(self) -> None:
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(KEEPER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self, argv: Sequence[str | Path], env: Mapping[str, str], log: Path) -> Process:
        """Start a program in a session of its own; what it prints is appended to `log`.

        Raises `OSError` when there is no such program, or when the process in between is gone.
        """
        order = {"argv": [str(part) for part in argv], "env": dict(env), "log": str(log)}
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.write(json.dumps(order) + "\n")
        self._keeper.stdin.flush()
        line = self._keeper.stdout.readline()
        answer: dict[str, Any] = json.loads(line or NO_ANSWER)
        if "error" in answer:
            raise OSError(f"{argv[0]} cannot be started: {answer['error']}")
        return Process(answer["pid"])

    def close(self) -> None:
        """Kill whatever still runs. Idempotent."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.close()
        self._keeper.stdout.close()
        self._keeper.wait(LIMIT)
