"""The life of a broker that is one process in a folder of its own."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.servers._ports import HOST
from tests.servers._processes import Process, Processes
from tests.servers._wait import until

START_LIMIT, STOP_LIMIT = 90.0, 20.0  # seconds
SHOWN = 25  # lines of a log


class Node(ABC):
    """Give it a folder with ``start(folder)``; the ports are chosen then and stay, as does the data.

    As a context manager it is closed at the end. All methods block; none is for two threads at a time.
    """

    host = HOST
    name = "the broker"

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._processes: Processes | None = None
        self._process: Process | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address} {'runs' if self.alive else 'is down'}>"

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what starts and ends the node, which stays with the process that did start it."""
        return {**vars(self), "_processes": None}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    @abstractmethod
    def address(self) -> str:
        """HOST:PORT, for people."""

    @property
    def folder(self) -> Path:
        if self._folder is None:
            raise RuntimeError(f"{self.name} is given its folder by the first start(folder)")
        return self._folder

    @property
    def log(self) -> Path:
        """What the node has printed, all starts one after another."""
        return self.folder / "output.log"

    @property
    def alive(self) -> bool:
        """Whether the node's process exists; a frozen one does."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int:
        """The process id of the node itself, not of a script around it."""
        return self._running().pid

    def start(self, folder: Path | None = None) -> Self:
        """Start the node in an empty folder, or, without one, where it was; return when it can be used.

        Raises `RuntimeError` with the end of the log when the node ends by itself, and `TimeoutError`.
        """
        if self.alive:
            raise RuntimeError(f"{self!r} already")
        if folder is not None:
            if self._folder is not None:
                raise RuntimeError(f"{self!r} and has its folder: start() starts it there again")
            folder.mkdir(parents=True, exist_ok=True)
            self._folder = folder
            self._prepare(folder)
        self.log.touch()  # before anything is started: without a folder there is none
        self._processes = self._processes or Processes()
        self._process = self._launch(self._processes)
        try:
            until(self._is_ready, START_LIMIT, f"the start of {self.name}")
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}; {self._end_of_log()}") from None
        return self

    def sync(self) -> None:  # noqa: B027 - most have nothing to do
        """Have what was declared on the disk, so that a kill does not make the node forget it."""

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone. ``start()`` starts it again."""
        self._running().kill()

    def restart(self) -> Self:
        """Kill the node, if it runs, and start it again on the same ports with the same data."""
        if self.alive:
            self.kill()
        return self.start()

    def freeze(self) -> None:
        """SIGSTOP, and wait until it stands still: connections stay open and nothing is answered."""
        self._running().freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self._running().signal(signal.SIGCONT)

    def mend(self) -> Self:
        """Make it run, answer and take messages, whatever was done to it."""
        if self.alive:
            self.thaw()
            until(self._is_ready, START_LIMIT, f"the mending of {self.name}, see {self.log}")
        else:
            self.start()
        return self

    def stop(self) -> None:
        """Shut the node down in order, then close it. ``start()`` starts it again."""
        if self._process is not None and self.alive:
            self.thaw()
            self._process.signal(signal.SIGTERM)
            self._process.wait(STOP_LIMIT)
        self.close()

    def close(self) -> None:
        """Kill all that belongs to the node; the data stays. Idempotent."""
        if self._process is not None:
            self._process.kill()
        if self._processes is not None:
            self._processes.close()
        self._processes = self._process = None

    def _running(self) -> Process:
        if self._process is None or not self._process.alive:
            raise RuntimeError(f"{self!r}: start it first")
        return self._process

    def _is_ready(self) -> bool:
        if not self.alive:
            raise RuntimeError(f"{self.name} ended while it started; {self._end_of_log()}")
        return self._answers()

    def _end_of_log(self) -> str:
        end = "\n".join(self.log.read_text(errors="replace").splitlines()[-SHOWN:])
        return f"the end of {self.log}:\n{end}"

    @abstractmethod
    def _prepare(self, folder: Path) -> None:
        """Choose the ports and write the settings."""

    @abstractmethod
    def _launch(self, processes: Processes) -> Process:
        """Start the process."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether every listener can be used; an `OSError` says no too."""
