"""Give the events of a dead store to the lanes that had given them up."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from evbus import jsonl
from evbus._append import AppendFile
from evbus.errors import ConfigError, PayloadError
from evbus.jsonl import Record
from evbus.redact import one_line
from evbus.types import Envelope

__all__ = ["Replay", "Summary", "asides", "files", "summaries"]

#: Seconds to wait for a bus that is writing to the store.
PATIENCE = 2.0
#: Lines that are kept before they are written back.
TOGETHER = 1000


class _Counters(Protocol):
    accepted: int
    delivered: int
    dead: int
    dropped: int
    in_flight: int


class _Delivery(Protocol):
    buffer: int


class Target(Protocol):
    """What is needed of a lane."""

    @property
    def counters(self) -> _Counters: ...
    @property
    def delivery(self) -> _Delivery: ...
    def offer(self, events: list[Envelope], size: int) -> None:
        """Queue events."""


def files(store: Path) -> list[Path]:
    """Return the files of a store that are there, the older first."""
    return [file for file in (store.with_name(store.name + ".1"), store) if file.exists()]


def asides(store: Path) -> list[Path]:
    """Return the files that a replay has put aside, and not finished, the older first."""
    return [aside for aside in (_aside(store.with_name(store.name + ".1")), _aside(store)) if aside.exists()]


def _aside(file: Path) -> Path:
    return file.with_name(file.name + ".replaying")


class Replay:
    """One replay of the store ``store``.

    The files are renamed to ``*.replaying`` first and removed at the end, when every event in them is
    delivered or in the store again. After a crash they are there still, and the next replay begins with
    them; what was delivered before the crash is then delivered again.

    :ivar offered: events that were handed to their lanes.
    :ivar kept: why events stay in the store, and how many.
    """

    def __init__(
        self, store: Path, lanes: Mapping[str, Target], lock: AbstractContextManager[object]
    ) -> None:
        self.store = Path(os.path.realpath(store))
        self.offered = 0
        self.kept: dict[str, int] = {}
        self._lanes = lanes
        self._lock = lock
        self._held: list[tuple[Path, BinaryIO]] = []
        self._lines: list[bytes] = []
        self._problem = ""

    async def run(self) -> None:
        """Hand every event to its lane; cancelled, keep what was not handed over yet.

        :raises ConfigError: another replay of this store is under way.
        """
        self._put_aside()
        stopped: asyncio.CancelledError | None = None
        for _, file in self._held:
            for number, line in enumerate(file, 1):
                if stopped is not None:
                    self._keep(line, "the replay was stopped")
                    continue
                try:
                    await self._take(line)
                    if not number % 256:
                        await asyncio.sleep(0)
                except asyncio.CancelledError as exc:
                    stopped = exc
        self._write_back()
        if stopped is not None:
            raise stopped

    def _put_aside(self) -> None:
        for file in (self.store.with_name(self.store.name + ".1"), self.store):
            aside = _aside(file)
            source = aside if aside.exists() else file
            if source.exists():
                held = _locked(source)
                if source is not aside:
                    source.rename(aside)
                self._held.append((aside, held))

    async def _take(self, line: bytes) -> None:
        try:
            record = jsonl.decode(line, 0)
        except PayloadError as exc:
            self._keep(line, f"no event: {one_line(str(exc), 200)}")
            return
        name = str((record.dead or {}).get("lane", ""))
        lane = self._lanes.get(name)
        if lane is None:
            self._keep(line, f"there is no lane {one_line(name)}" if name else "no lane is named")
            return
        try:
            await _room(lane)
        except asyncio.CancelledError:
            self._keep(line, "the replay was stopped")
            raise
        event = record.envelope()
        event.accepted_at = time.monotonic()
        with self._lock:
            lane.offer([event], len(event.body))
        self.offered += 1

    def _keep(self, line: bytes, why: str) -> None:
        self.kept[why] = self.kept.get(why, 0) + 1
        self._lines.append(line if line.endswith(b"\n") else line + b"\n")
        if len(self._lines) >= TOGETHER:
            self._write_back()

    def _write_back(self) -> None:
        if not self._lines:
            return
        file = AppendFile(self.store, sync=0.0, folder_mode=0o700, lock_timeout=PATIENCE)
        _, problem = file.write(self._lines)
        file.close()
        self._lines = []
        if problem is not None:
            self._problem = str(problem)

    def finish(self, lost: int) -> str:
        """Remove what was put aside, unless ``lost`` events or kept ones did not reach the store.

        Return why it was not removed, or ``""``. Call it when the bus has ended.
        """
        if lost and not self._problem:
            self._problem = f"{lost} events could not be written to {self.store}"
        for aside, file in self._held:
            if not self._problem:
                aside.unlink()
            file.close()
        self._held = []
        return self._problem


async def _room(lane: Target) -> None:
    """Wait until the lane's buffer has room: beyond it, events may be dropped."""
    counters = lane.counters
    while True:
        gone = counters.delivered + counters.dead + counters.dropped + counters.in_flight
        if counters.accepted - gone < lane.delivery.buffer:
            return
        await asyncio.sleep(0.01)


def _locked(path: Path) -> BinaryIO:
    """Open and lock a file, as :class:`AppendFile` does before it writes."""
    deadline = time.monotonic() + PATIENCE
    while True:
        file = path.open("rb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                raise ConfigError(f"{path} is in use by another process, such as a replay") from None
            time.sleep(0.01)
        except FileNotFoundError:
            pass
        file.close()


class Summary(NamedTuple):
    """The dead events of one lane."""

    lane: str
    events: int
    oldest: str
    newest: str
    reason: str


def summaries(paths: list[Path]) -> tuple[list[Summary], int]:
    """Return a summary for each lane, the largest first, and how many lines are no events."""
    lanes: dict[str, Summary] = {}
    unread = 0
    for record in _records(paths):
        if record is None:
            unread += 1
            continue
        dead = {key: str(value) for key, value in (record.dead or {}).items()}
        lane, died = dead.get("lane", "none"), dead.get("time", "")
        known = lanes.get(lane) or Summary(lane, 0, died, "", "")
        newest = died >= known.newest
        lanes[lane] = Summary(
            lane,
            known.events + 1,
            min(known.oldest, died),
            died if newest else known.newest,
            dead.get("reason", "") if newest else known.reason,
        )
    return sorted(lanes.values(), key=lambda summary: -summary.events), unread


def _records(paths: list[Path]) -> Iterator[Record | None]:
    for path in paths:
        with path.open("rb") as lines:
            for line in lines:
                try:
                    yield jsonl.decode(line, 0)
                except PayloadError:
                    yield None
