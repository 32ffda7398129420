"""The real command, in a process and a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
TIMEOUT = 60

INTERNAL = 'internal:\n  "*": {}\n'
FAILING = 'async def publish(hub, ctx, routing_key, body):\n    raise ValueError("it does not work")\n'
RETRY = "{delivery: {retry: {attempts: 2, min: 0.001, max: 0.001}}}"


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
        """Run ``evbus ARGS`` to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "evbus", *map(str, args)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            **self._settings(env),
        )
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
