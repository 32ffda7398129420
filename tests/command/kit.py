"""The real command, in a process and a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parent.parent.parent
TIMEOUT = 60

INTERNAL = 'internal:\n  "*": {}\n'
FAILING = 'async def publish(hub, ctx, routing_key, body):\n    raise ValueError("it does not work")\n'
RETRY = "{delivery: {retry: {attempts: 2, min: 0.001, max: 0.001}}}"


class Origin:
    """The process whose copies run commands; see :mod:`tests.command.origin`. A context manager.

    :cvar running: the one that there is.
    """

    running: Origin | None = None

    def __enter__(self) -> Self:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests.settimeout(TIMEOUT)
        with theirs:
            command = [sys.executable, "-m", "tests.command.origin", str(theirs.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        Origin.running = self
        return self

    def __exit__(self, *_: object) -> None:
        Origin.running = None
        self._requests.close()
        self._process.wait(TIMEOUT)

    def run(
        self, command: list[str], settings: dict[str, Any], stdin: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        request = {"command": command, "cwd": str(settings["cwd"]), "env": settings["env"]}
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            reading, writing = os.pipe()
            streams = [reading, out.fileno(), err.fileno()]
            with os.fdopen(writing, "w") as pipe:
                socket.send_fds(self._requests, [json.dumps(request).encode()], streams)
                os.close(reading)
                with contextlib.suppress(BrokenPipeError):
                    pipe.write(stdin)
                    pipe.close()
            pid = int(self._requests.recv(100))
            try:
                code = int(self._requests.recv(100))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._requests.recv(100)
                raise subprocess.TimeoutExpired(command, TIMEOUT) from None
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(command, code, out.read(), err.read())


class Shell:
    """A folder with files to run the command in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    @property
    def state(self) -> Path:
        """The dead store of the command that was told no file, in this folder."""
        found = sorted((self.folder / "state" / "evbus").glob("evbus-*.jsonl"))
        return found[0] if found else self.folder / "state" / "evbus" / "none.jsonl"

    def dead(self) -> list[Any]:
        """Return the lines of that dead store."""
        return [json.loads(line) for line in self.state.read_text().splitlines()]

    def lines(self, name: str) -> list[Any]:
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def _settings(self, env: dict[str, str]) -> dict[str, Any]:
        clean = {
            key: value for key, value in os.environ.items() if not key.startswith(("EVBUS", "ACCT", "POP_"))
        }
        home = {"HOME": str(self.folder), "XDG_STATE_HOME": str(self.folder / "state")}
        return {"cwd": self.folder, "env": {**clean, **home, "PYTHONPATH": str(ROOT), **env}}

    def run(self, *args: object, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Run ``evbus ARGS`` to its end.

        The process is a copy of one that has imported what the command does, where there is one; it is a new
        interpreter when it is told something that only the start of one reads.
        """
        command = [*map(str, args)]
        settings = self._settings(env)
        if Origin.running is None or any(name.startswith("PYTHON") for name in env):
            done = subprocess.run(
                [sys.executable, "-m", "evbus", *command],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
                **settings,
            )
        else:
            done = Origin.running.run(command, settings, stdin)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    @contextmanager
    def start(self, *args: object) -> Iterator[subprocess.Popen[str]]:
        """Start ``evbus ARGS`` with pipes; it is killed at the end if it is still there."""
        with subprocess.Popen(
            [sys.executable, "-m", "evbus", *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            **self._settings({}),
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()


def wait_for(stream: Any, text: str) -> str:
    """Read lines until one holds ``text``; return what was read."""
    read = ""
    for line in stream:
        read += line
        if text in line:
            return read
    raise AssertionError(f"{text!r} was never printed:\n{read}")
