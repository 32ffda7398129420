"""The real command, in a process and a folder of its own."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evbus import scripts
from evbus.engine.core.plugins import installed
from evbus.engine.wire.base import supervisor

ROOT = Path(__file__).parent.parent.parent
TIMEOUT = 60
SETTLING = supervisor.SETTLING  # seconds; tests within this process set it
_FORKING = multiprocessing.get_context("fork")

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
        """Run ``evbus ARGS`` to its end.

        The process is a copy of this one, which spares it the greater half of a start; it is a new
        interpreter when it is told something that only the start of one reads.
        """
        command = [*map(str, args)]
        new = any(name.startswith("PYTHON") for name in env)
        done = (self._run_new if new else self._run_copy)(command, stdin, self._settings(env))
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def _run_new(
        self, command: list[str], stdin: str, settings: dict[str, Any]
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "evbus", *command],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            **settings,
        )

    def _run_copy(
        self, command: list[str], stdin: str, settings: dict[str, Any]
    ) -> subprocess.CompletedProcess[str]:
        with (
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # that this process has threads, of pytest
            _import_what_commands_do()
            reading, writing = os.pipe()
            streams = (reading, out.fileno(), err.fileno())
            process = _FORKING.Process(target=_main, args=(command, settings, streams, writing))
            process.start()
            os.close(reading)
            with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "w") as pipe:
                pipe.write(stdin)
            process.join(TIMEOUT)
            code = process.exitcode
            if code is None:
                process.kill()
                process.join()
            process.close()
            out.seek(0)
            err.seek(0)
            if code is None:
                raise subprocess.TimeoutExpired(command, TIMEOUT, out.read(), err.read())
            return subprocess.CompletedProcess(command, code, out.read(), err.read())

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


@functools.cache
def _import_what_commands_do() -> None:
    hub = installed.new_hub()
    for room in ("log", "config"):
        hub.pop.sub.add(dyne_name=room)
    hub.pop.sub.add(subname="command", pypath="evbus.command")
    importlib.import_module("evbus._program")


def _main(command: list[str], settings: dict[str, Any], streams: tuple[int, ...], writing: int) -> None:
    """Run the command in a copy of the process of the tests, as if it were new."""
    gc.freeze()  # what is old stays as it is, and the memory shared
    os.close(writing)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin = os.fdopen(0, "r", closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    os.chdir(settings["cwd"])
    os.environ.clear()
    os.environ.update(settings["env"])
    sys.path[:0] = [str(settings["cwd"]), str(ROOT)]
    sys.argv[:] = ["evbus", *command]
    # What tests before this one have left, or set for themselves.
    supervisor.SETTLING = SETTLING
    warnings.resetwarnings()
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    places = (sys.prefix, sys.base_prefix, str(ROOT))
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and not file.startswith(places):
            del sys.modules[name]
    sys.modules["__main__"] = importlib.import_module("evbus.__main__")
    scripts.main()
