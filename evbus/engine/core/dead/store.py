"""The dead store: a file with the events that were given up, to be read and replayed by a person."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import threading
import time
from collections import deque
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from evbus.engine.codec import jsonl
from evbus.engine.kit.append import AppendFile
from evbus.engine.kit.paths import no_home
from evbus.engine.kit.thread import Job, WorkerThread
from evbus.errors import InvalidPayload, Unavailable
from evbus.types import Envelope

__all__ = ["NO_STORE", "DeadStore"]

_log = logging.getLogger("evbus.evbus.dead")

#: Records that wait in memory while the file cannot be written, at most; and their bytes.
MAX_PENDING = 10_000
MAX_PENDING_BYTES = 64 * 1024 * 1024
#: Seconds until a file that could not be written is tried again.
RETRY = 5.0
#: Seconds that writing may take when the process is about to end.
LAST_WRITE = 10.0

_REASON_CHARACTERS = 2_000
#: Records that are written and synced together, at most.
_TOGETHER = 1_000
#: Turns of the loop that a flush waits for others; and seconds, when there were some, or have been while the
#: one before was made.
TURNS = 4
GATHER = 0.005
#: Seconds that records wait for others when nobody waits for them.
LINGER = 0.02

#: What a snapshot has of a store before there is one.
NO_STORE = {"path": "", "stored": 0, "pending": 0, "lost": 0, "last_error": ""}


class DeadStore:
    """Events that no destination took, in ``path`` and ``path.1``, as lines that ``evbus run`` reads.

    :meth:`add` may be called from any thread and only encodes; a thread of the store's own writes and
    syncs soon after, all that waits at once. :meth:`flush` waits for that; several flushes are one. The file
    is made, with permissions 0600 in a folder with 0700, when the first event dies, and is held open only
    while it is written, so that processes may share it.

    When it cannot be written, the events wait in memory, at most 10,000 and 64 MiB of them, and it is
    tried again every 5 seconds and at each flush.

    :param path: the file.
    :param limit: bytes that both files together take. Default 256 MiB; 0 for no limit. When they are
        full, the older half is deleted, counted as lost and logged.
    :ivar lost: events that it was given and could not keep, those among them that the limit made go.
    :ivar last_error: why events are not written at present, or else why they were lost.
    :ivar closed: it takes nothing more.
    """

    def __init__(self, path: Path, limit: int = 256 * 1024 * 1024) -> None:
        self.path = path
        self.lost = 0
        self.last_error = ""
        self._why_lost = ""
        # What it has written into each of the two files, and in all.
        self._older = self._newer = self._written = 0
        self._file = AppendFile(
            path.absolute(),
            max_size=max(limit // 2, 1) if limit else 0,
            keep=1,
            sync=0.0,
            folder_mode=0o700,
            lock_timeout=1.0,
            on_drop=self._dropped,
            on_rotate=self._rotated,
        )
        self._limit = limit
        self._worker = WorkerThread("evbus-dead", self._tick)
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._scheduled = False
        # Set while somebody waits for what is added.
        self._wanted = threading.Event()
        self._flushing: asyncio.Task[None] | None = None
        # What was written in all when each of those who wait may go on.
        self._flushes: deque[tuple[int, asyncio.Future[bool]]] = deque()
        self._crowd = False
        self._failed_at: float | None = None
        self.closed = False
        self._given_up = False
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return f"<DeadStore {self.path} stored={self.stored} pending={self.pending} lost={self.lost}>"

    @property
    def stored(self) -> int:
        """Events that it has put into the files, and that are in them still."""
        return self._older + self._newer

    @property
    def pending(self) -> int:
        """Events that are not on the disk yet and wait in memory."""
        return len(self._waiting)

    def snapshot(self) -> dict[str, Any]:
        """Return its path and its counters."""
        return {
            "path": str(self.path),
            "stored": self.stored,
            "pending": self.pending,
            "lost": self.lost,
            "last_error": self.last_error,
        }

    def try_out(self) -> str:
        """Return the reason why the file cannot be written, or ``""``; nothing is made or changed."""
        try:
            self._refuse_homeless()
            self._file.try_out()
        except Unavailable as exc:
            return str(exc)
        return ""

    def _refuse_homeless(self) -> None:
        """Refuse a path whose ``~`` nobody could write out: a folder of that name is not meant."""
        if str(self.path).startswith("~"):
            raise Unavailable(
                f"cannot write {self.path}: {no_home(self.path)}, or name a file with the option dead_store"
            )

    def add(
        self,
        envelope: Envelope,
        *,
        lane: str,
        reason: str,
        attempts: int,
        plugin: str = "",
        provider: str = "",
        profile: str = "",
        kind: str = "",
        place: str = "",
    ) -> bool:
        """Keep an event, to be written soon; False when it is lost because too many wait already.

        :param reason: why it died; at most 2,000 characters are kept. It must hold no secret.
        :param attempts: how often it was tried.
        :param kind: the type of the exception that it died of; ``place`` is the file and line that raised it.
        """
        known = {name: value for name, value in (("type", kind), ("place", place)) if value}
        line = _line(
            envelope,
            {
                "lane": lane,
                "plugin": plugin,
                "provider": provider,
                "profile": profile,
                "reason": reason[:_REASON_CHARACTERS],
                **known,
                "attempts": attempts,
                "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            },
        )
        with self._lock:
            full = self._is_full(len(line))
            if not full and not self.closed:
                self._waiting.append(line)
                self._waiting_bytes += len(line)
                if 0 < self._limit < 4 * self._waiting_bytes:
                    self._wanted.set()  # before there is no room
                if not self._scheduled and self._failed_at is None:
                    self._scheduled = True
                    self._worker.submit(self._write_soon)
                return True
            why = "too many wait for it" if full else "it is closed"
            self._lose(1, f"it is not stored in {self.path}, as {why}")
        self._tell("full", f"dead events are lost, not stored in {self.path}: {why}")
        return False

    def _is_full(self, size: int) -> bool:
        size += self._waiting_bytes
        if self._failed_at is not None:
            return len(self._waiting) >= MAX_PENDING or size > MAX_PENDING_BYTES
        # A disk that hangs and one that is slow look alike; what the file could not hold need not wait.
        return 0 < self._limit < size

    async def flush(self) -> bool:
        """Wait until all is on the disk that was added before; False when it could not be and waits on.

        Cancelled, the writing goes on in its thread.
        """
        with self._lock:
            wanted = self._written + len(self._waiting)
        if self.closed or (self._written >= wanted and not self._flushes):
            return self._written >= wanted
        # Those who wait go on in the order in which they began to.
        flushed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._flushes.append((wanted, flushed))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.ensure_future(self._flush_all())
        else:
            self._crowd = True
        return await flushed

    async def _flush_all(self) -> None:
        """Write until nobody waits for it; what it fails with is told to all who do."""
        problem: Exception | None = None
        try:
            while self._flushes:
                await self._flush()
                # What was added after a write had begun is for the next.
                ends = self.closed or self._failed_at is not None
                while self._flushes and (ends or self._flushes[0][0] <= self._written):
                    wanted, flushed = self._flushes.popleft()
                    if not flushed.done():
                        flushed.set_result(self._written >= wanted)
        except Exception as exc:
            problem = exc
        finally:
            for _, flushed in self._flushes:
                if problem is None:
                    flushed.cancel()
                elif not flushed.done():
                    flushed.set_exception(problem)
            self._flushes.clear()

    async def _flush(self) -> None:
        """Write what waits, in the thread, with what is added in the next moment."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
        if self._crowd:
            await asyncio.sleep(GATHER)
        self._crowd = False
        if not self.closed:  # else it is written already, or lost
            self._wanted.set()
            await self._worker.begin(Job(self._write))

    def flush_in_time(self) -> None:
        """Write what waits, from another thread than the loop's, and give up what cannot be written.

        A disk has a second for each part of it, and ten in all.
        """
        end = time.monotonic() + LAST_WRITE
        before = -1
        while self._waiting and before != self._written and time.monotonic() < end:
            before = self._written
            self._wanted.set()
            with contextlib.suppress(RuntimeError):  # it is closed, and is at its last work
                self._worker.submit(self._write)
            for _ in range(20):
                if self._waiting:
                    time.sleep(0.05)
        self._lose_rest()

    async def close(self, seconds: float = LAST_WRITE) -> None:
        """Flush and end the thread. What cannot be written even now is lost, counted and logged.

        :param seconds: that a disk may hang. One that takes something meanwhile has as long again, and ten
            seconds in all.
        """
        if self._flushing is not None and not self._flushing.done():
            # As far as it has to be, for the thread to write what it is for.
            await asyncio.wait({self._flushing}, timeout=2 * GATHER)
        with self._lock:
            self.closed = True
        self._wanted.set()
        closing = asyncio.ensure_future(self._worker.close(self._write_last if self._waiting else None))
        end = time.monotonic() + max(LAST_WRITE, seconds)
        before = -1
        while not closing.done() and before != self._written and time.monotonic() < end:
            before = self._written
            await asyncio.wait({closing}, timeout=seconds)
        if not closing.done():
            # Nothing ends a thread that hangs in a write, and none of this process waits for it.
            closing.cancel()
            await asyncio.wait({closing})
            self._lose_rest()

    def _write_soon(self) -> None:
        self._wanted.wait(LINGER)
        self._write()

    def _write(self) -> None:
        """Move what waits into the file. Only the thread takes from the left, others add on the right."""
        with self._lock:
            self._scheduled = False
            left = len(self._waiting)
            if not self.closed:
                self._wanted.clear()
        problem = None
        while left and problem is None:
            with self._lock:
                lines = list(islice(self._waiting, min(left, _TOGETHER)))
            done, problem = self._append(lines)
            left -= done
            with self._lock:
                if self._given_up:
                    return  # all of it was counted as lost
                for _ in range(done):
                    self._waiting_bytes -= len(self._waiting.popleft())
                self._newer += done
                self._written += done
                self.last_error = self._why_lost if problem is None else str(problem)
                self._failed_at = None if problem is None else time.monotonic()
        if problem is None:
            self._told -= {"write", "full"}
        else:
            self._tell("write", f"dead events are kept in memory: {problem}")

    def _tick(self) -> float | None:
        """Try again what could not be written; return the seconds until the next time."""
        if self._failed_at is None:
            return None
        left = self._failed_at + RETRY - time.monotonic()
        if left > 0:
            return left
        self._write()
        return RETRY

    def _append(self, lines: list[bytes]) -> tuple[int, Unavailable | None]:
        try:
            self._refuse_homeless()
            self._file.open()
        except Unavailable as exc:
            return 0, exc
        try:
            return self._file.write(lines)
        finally:
            # Synced by write; closing lets other processes at the file.
            self._file.close()

    def _write_last(self) -> None:
        self._write()
        self._lose_rest()

    def _lose_rest(self) -> None:
        with self._lock:
            self.closed = self._given_up = True
            left = len(self._waiting)
            self._waiting.clear()
            if left:
                self._lose(left, self.last_error or f"{self.path} is not written in time")
        if left:
            what = "1 dead event is" if left == 1 else f"{left} dead events are"
            _log.error("%s lost: %s", what, self.last_error)

    def _lose(self, count: int, why: str) -> None:
        self.lost += count
        self.last_error = self._why_lost = why

    def _dropped(self, file: io.BufferedReader) -> None:
        """Count the events of the older file, which the limit made go."""
        count = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
        limit = f"the dead store {self.path} is at its limit"
        with self._lock:
            # Those that were there before are nobody's here.
            if self._older:
                self._lose(self._older, limit)
            self._older = 0
        self._tell("limit", f"{limit}: its {count} oldest are lost")

    def _rotated(self, lines: int) -> None:
        """Be told that the file begins anew; ``lines`` of those being written are in the older one."""
        with self._lock:
            self._older, self._newer = self._newer + lines, -lines

    def _tell(self, about: str, message: str) -> None:
        """Log once; what a flush can mend is told again when it comes back."""
        if about not in self._told:
            self._told.add(about)
            _log.error("%s", message)


def _line(envelope: Envelope, dead: dict[str, Any]) -> bytes:
    try:
        return jsonl.encode(envelope, {"dead": dead})
    except InvalidPayload:
        # A lone surrogate is perhaps why the event died; spelled out, the rest of it is kept.
        plain = Envelope(
            _spelled(envelope.profile),
            _spelled(envelope.routing_key),
            envelope.body,
            {_spelled(name): _spelled(value) for name, value in envelope.headers.items()},
        )
        known = {key: _spelled(value) if isinstance(value, str) else value for key, value in dead.items()}
        return jsonl.encode(plain, {"dead": known})


def _spelled(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
