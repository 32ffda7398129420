"""The process under test, seen from outside: orders go in, states come out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.chaos._events import Event

ROOT = Path(__file__).parent.parent.parent
LIMIT = 120.0  # seconds that anything may take which is expected to happen
State = Mapping[str, Any]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a program of evbus that keeps its files in `folder`."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("EVBUS", "ACCT", "POP_"))
    }
    return {
        **clean,
        "HOME": str(folder),
        "XDG_STATE_HOME": str(folder / "state"),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "default",
    }


class Program:
    """A bus in a process of its own; what it is told to do stands in `_program`.

    :param run: the run's name, a part of every body.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        profiles: Mapping[str, Any],
        *,
        every: float = 0.01,
        **options: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.dead_store = folder / "dead.jsonl"
        self._journal = folder / "accepted"
        self._journal.touch()
        self._log = folder / "log"
        settings = folder / "settings.json"
        text = {
            "run": run,
            "journal": str(self._journal),
            "profiles": profiles,
            "options": {"dead_store": str(self.dead_store), **options},
            "every": every,
        }
        settings.write_text(json.dumps(text))
        self.state: State = {}
        self.least_workers = sys.maxsize
        self._orders = 0
        self._delivered: dict[str, list[tuple[float, int]]] = {}
        self._changed = threading.Condition()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos._program", str(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=environment(folder),
            )
        self._reader = threading.Thread(target=self._read, name="states", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        try:
            self.until(lambda: self.state, "the start of the program")
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.stop()
        finally:
            self._kill()

    # Orders

    def order(self, what: str, **details: Any) -> None:
        """Give an order; it is begun when those before it are done."""
        assert self._process.stdin is not None
        self._orders += 1
        self._process.stdin.write(json.dumps({"do": what, **details}) + "\n")
        self._process.stdin.flush()

    def put(self, count: int, **details: Any) -> None:
        self.order("put", count=count, **details)

    def figures(self) -> dict[str, dict[str, float]]:
        """Return milliseconds that the puts since the last call took, and the ways through the process."""
        before = self.state["figures"].get("number", 0)
        self.order("figures")
        self.until(lambda: self.state["figures"].get("number", 0) > before, "the figures")
        found: dict[str, dict[str, float]] = self.state["figures"]
        return found

    def stop(self) -> int:
        """Let the bus stop as it does at the end of a program; return the exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        code = self._process.wait(LIMIT)
        self._reader.join()
        return code

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    # What it says

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            state = json.loads(line)
            with self._changed:
                self.state = state
                self.least_workers = min(self.least_workers, state["workers"] or sys.maxsize)
                for name, lane in state["lanes"].items():
                    history = self._delivered.setdefault(name, [(0.0, 0)])
                    if lane["delivered"] != history[-1][1]:
                        history.append((state["at"], lane["delivered"]))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def until(self, ready: Callable[[], Any], what: str, limit: float = LIMIT) -> None:
        """Return once `ready` returns true; it is asked for each state.

        Raises `TimeoutError` after `limit` seconds, and `RuntimeError` when the program has ended.
        """
        deadline = time.monotonic() + limit
        with self._changed:
            while not ready():
                left = deadline - time.monotonic()
                if self._process.poll() is not None:
                    raise RuntimeError(f"{what}: the program has ended:\n{self.log[-3000:]}")
                if left < 0:
                    raise TimeoutError(f"{what}: not within {limit:g} s; {json.dumps(self.state)[:3000]}")
                self._changed.wait(min(left, 1.0))

    @property
    def log(self) -> str:
        """What the program has logged."""
        return self._log.read_text(errors="replace")

    @property
    def idle(self) -> bool:
        """Whether every order is done."""
        return bool(self.state["done"] == self._orders)

    def lane(self, name: str) -> State:
        """Return the counters of the lane whose profile has this name, stars left out."""
        found: State = _named(self.state["lanes"], name)
        return found

    def connection(self, name: str) -> State:
        """Return the state of the connection of such a profile."""
        found: State = _named(self.state["connections"], name)
        return found

    def delivered(self, name: str) -> int:
        return int(self.lane(name)["delivered"])

    def settled(self, *names: str) -> bool:
        """Whether all orders are done and these lanes have nothing left."""
        left = [self.lane(name)["queued"] + self.lane(name)["in_flight"] for name in names]
        return self.idle and not self.state["bus"]["queued"] and not any(left)

    def when(self, name: str, above: int) -> float:
        """Return when more than `above` events of a lane were delivered, by ``time.monotonic()``."""
        with self._changed:
            history: list[tuple[float, int]] = _named(self._delivered, name)
            return next(at for at, delivered in history if delivered > above)

    def accepted(self, name: str = "", *, routing_key: str = "") -> list[Event]:
        """Return the events that put returned for, in the order in which it did: all, or those of a lane."""
        found = [line.split() for line in self._journal.read_text().splitlines()]
        return [
            Event(int(number), int(key))
            for number, key, profile, own in found
            if name in profile and routing_key in ("", own)
        ]

    def dead(self, name: str = "") -> list[dict[str, Any]]:
        """Return the records of the dead store: all, or those of a lane."""
        if not self.dead_store.exists():
            return []
        records = [json.loads(line) for line in self.dead_store.read_text().splitlines()]
        return [record for record in records if name in record["dead"]["lane"]]


def _named(found: Mapping[str, Any], name: str) -> Any:
    """Return the entry of a profile: the last part of its key, without the stars of the pattern."""
    (one,) = [value for key, value in found.items() if key.rpartition(".")[2].strip("*") == name]
    return one
