"""Give the events of a dead store to the lanes that had given them up."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from evbus.engine.codec import jsonl
from evbus.engine.codec.jsonl import Record
from evbus.engine.kit.append import AppendFile
from evbus.engine.kit.redact import one_line
from evbus.errors import BusStopped, ConfigError, PayloadError
from evbus.types import Delivery

__all__ = ["Replay", "asides", "files", "records", "summaries"]

#: Seconds to wait for a bus that is writing to the store.
PATIENCE = 2.0
#: Lines that are kept before they are written back.
TOGETHER = 1000
#: Events that one lane has at once, at most.
MOST = 1000


def files(store: Path) -> list[Path]:
    """Return the files of a store that are there, the older first."""
    return [file for file in (store.with_name(store.name + ".1"), store) if file.exists()]


def asides(store: Path) -> list[Path]:
    """Return the files that a replay has put aside, and not finished, the older first."""
    return [aside for aside in (_aside(store.with_name(store.name + ".1")), _aside(store)) if aside.exists()]


def _aside(file: Path) -> Path:
    return file.with_name(file.name + ".replaying")


class _Aside:
    """A file that was put aside, and beside it a journal of what is done of it: where each line begins.

    What is written to a file survives the end of the process, whatever ends it.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.done = _done(path)
        self._journal = _journal(path).open("ab", buffering=0)

    def note(self, offset: int) -> None:
        """Note that a line is done: what it holds is delivered, or in the store again."""
        self._journal.write(_OFFSET.pack(offset))

    def close(self, *, remove: bool) -> None:
        if remove:
            # In this order: without the journal it would be taken for one that was not begun.
            self.path.unlink()
            _journal(self.path).unlink()
        self._journal.close()
        self.file.close()


_OFFSET = struct.Struct("<Q")


def _journal(aside: Path) -> Path:
    return aside.with_name(aside.name + ".done")


def _done(aside: Path) -> set[int]:
    """Return the offsets of the lines that are done."""
    try:
        found = _journal(aside).read_bytes()
    except FileNotFoundError:
        return set()
    whole = len(found) - len(found) % _OFFSET.size
    return {offset for (offset,) in _OFFSET.iter_unpack(found[:whole])}


def _lines(file: BinaryIO, done: set[int]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not done, and where they begin."""
    offset = 0
    for line in file:
        if offset not in done:
            yield offset, line
        offset += len(line)


class Replay:
    """One replay of the store ``store``.

    The files are renamed to ``*.replaying`` first and removed at the end, when every event in them is
    delivered or in the store again. After a crash they are there still, with a journal of what was done, and
    the next replay goes on with the rest.

    :param lanes: for each lane, and each listener, what hands it a delivery, and how many it may have at once
        without dropping any. It settles a delivery once it is done with it: a dead one when it is recorded.
    :ivar offered: events that were handed to their lanes.
    :ivar kept: why events stay in the store, and how many.
    """

    def __init__(self, store: Path, lanes: Mapping[str, tuple[Callable[[Delivery], None], int]]) -> None:
        self.store = Path(os.path.realpath(store))
        self.offered = 0
        self.kept: dict[str, int] = {}
        self._lanes = lanes
        self._asides: list[_Aside] = []
        # Lines to be written back, and those that a lane has.
        self._lines: list[tuple[_Aside, int, bytes]] = []
        self._under_way: dict[tuple[_Aside, int], tuple[str, bytes]] = {}
        self._counts: Counter[str] = Counter()
        self._room = asyncio.Event()
        self._problem = ""

    async def run(self) -> None:
        """Hand every event to its lane; cancelled, keep what was not handed over yet.

        :raises ConfigError: another replay of this store is under way.
        """
        self._put_aside()
        stopped: asyncio.CancelledError | None = None
        for aside in self._asides:
            for number, (offset, line) in enumerate(_lines(aside.file, aside.done), 1):
                if stopped is not None:
                    self._keep(aside, offset, line, STOPPED)
                    continue
                try:
                    await self._take(aside, offset, line)
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
                    _journal(aside).unlink(missing_ok=True)
                    source.rename(aside)
                self._asides.append(_Aside(aside, held))

    async def _take(self, aside: _Aside, offset: int, line: bytes) -> None:
        try:
            record = jsonl.decode(line, 0)
        except PayloadError as exc:
            self._keep(aside, offset, line, f"no event: {one_line(str(exc), 200)}")
            return
        name = str((record.dead or {}).get("lane", ""))
        if name not in self._lanes:
            self._keep(aside, offset, line, _no_lane(name))
            return
        take, most = self._lanes[name]
        try:
            # Beyond what it may have, a lane might drop events.
            while self._counts[name] >= min(most, MOST):
                self._room.clear()
                await self._room.wait()
            event = record.envelope()
            event.accepted_at = time.monotonic()
            self._counts[name] += 1
            self._under_way[aside, offset] = (name, line)
            take(Delivery(event, self._settle, (aside, offset)))
        except (asyncio.CancelledError, BusStopped):
            if self._under_way.pop((aside, offset), None) is not None:
                self._counts[name] -= 1
            self._keep(aside, offset, line, STOPPED)
            raise
        self.offered += 1

    def _settle(self, tag: tuple[_Aside, int], accepted: bool, requeue: bool) -> None:
        if tag not in self._under_way:
            return  # it is in the store again, as whoever had it did not end in time
        name, _ = self._under_way[tag]
        self._counts[name] -= 1
        self._room.set()
        if requeue and not accepted:
            return  # as if it had not been handed over
        del self._under_way[tag]
        aside, offset = tag
        aside.note(offset)

    def _keep(self, aside: _Aside, offset: int, line: bytes, why: str) -> None:
        self.kept[why] = self.kept.get(why, 0) + 1
        self._lines.append((aside, offset, line if line.endswith(b"\n") else line + b"\n"))
        if len(self._lines) >= TOGETHER:
            self._write_back()

    def _write_back(self) -> None:
        if not self._lines:
            return
        file = AppendFile(self.store, sync=0.0, folder_mode=0o700, lock_timeout=PATIENCE)
        written, problem = file.write([line for _, _, line in self._lines])
        file.close()
        for aside, offset, _ in self._lines[:written]:
            aside.note(offset)
        self._lines = []
        if problem is not None:
            self._problem = str(problem)

    def finish(self, lost: int) -> str:
        """Remove what was put aside, unless ``lost`` events or kept ones did not reach the store.

        What lanes had and did not settle goes back to the store. Return why something was not removed, or
        ``""``. Call it when the bus has ended.
        """
        for (aside, offset), (_, line) in self._under_way.items():
            self._keep(aside, offset, line, STOPPED)
        self._under_way.clear()
        self._write_back()
        if lost and not self._problem:
            self._problem = f"{lost} events could not be written to {self.store}"
        for aside in self._asides:
            aside.close(remove=not self._problem)
        self._asides = []
        return self._problem


def _no_lane(name: str) -> str:
    if not name:
        return "no lane is named"
    # As evbus.engine.handling.events.subscriptions.lane_of calls them.
    cure = "; name its module with --listeners, or its folder with --plugin-dirs"
    return f"there is no lane {one_line(name)}{cure if name.startswith('listener ') else ''}"


#: Why events are kept that no lane was done with.
STOPPED = "the replay was stopped before they were delivered"


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


class _Summary(NamedTuple):
    """The dead events of one lane."""

    lane: str
    events: int
    oldest: str
    newest: str
    reason: str


def summaries(paths: list[Path]) -> tuple[list[_Summary], int]:
    """Return a summary for each lane, the largest first, and how many lines are no events."""
    lanes: dict[str, _Summary] = {}
    unread = 0
    for record in records(paths):
        if record is None:
            unread += 1
            continue
        dead = {key: str(value) for key, value in (record.dead or {}).items()}
        lane, died = dead.get("lane", "none"), dead.get("time", "")
        known = lanes.get(lane) or _Summary(lane, 0, died, "", "")
        newest = died >= known.newest
        lanes[lane] = _Summary(
            lane,
            known.events + 1,
            min(known.oldest, died),
            died if newest else known.newest,
            dead.get("reason", "") if newest else known.reason,
        )
    return sorted(lanes.values(), key=lambda summary: -summary.events), unread


def records(paths: list[Path]) -> Iterator[Record | None]:
    """Yield the events of files but for those that a replay is done with; None for what is no event."""
    for path in paths:
        with path.open("rb") as file:
            for _, line in _lines(file, _done(path)):
                try:
                    yield jsonl.decode(line, 0)
                except PayloadError:
                    yield None
