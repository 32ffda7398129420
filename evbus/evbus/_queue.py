"""The bus's queue: bounded by events and by bytes, thread-safe, and small in memory.

Python objects cost more than the events they hold: an envelope with a body of 33 bytes takes about
180. Queued events are therefore packed: bodies lie end to end in one byte buffer per chunk, and what
most events share (profile, routing key, headers) is one :class:`Meta` object that they point to.
"""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections import deque
from collections.abc import Callable
from itertools import accumulate
from typing import final

from evbus.types import Envelope

__all__ = ["Meta", "Queue"]

INBOX_EVENTS = 256
UNBOUNDED = 1 << 62
#: Bodies above this many bytes keep their own object: copying them twice costs more than it saves.
PACK_LIMIT = 1024


@final
class Meta:
    """What many queued events have in common."""

    __slots__ = ("headers", "profile", "routing_key")

    def __init__(self, profile: str, routing_key: str, headers: dict[str, str]) -> None:
        self.profile = profile
        self.routing_key = routing_key
        self.headers = headers


Entry = tuple["Meta | Envelope", bytes, float]


class _Chunk:
    """Events that have to wait, packed: ``slots`` holds a Meta (body in ``buffer``) or an Envelope."""

    __slots__ = ("buffer", "ends", "first", "plain", "size", "slots", "times")

    def __init__(self, entries: list[Entry]) -> None:
        slots, bodies, times = zip(*entries)  # noqa: B905 - entries are triples
        lengths = list(map(len, bodies))
        self.first = 0
        self.size = sum(lengths)
        self.times = array("d", times)
        # Whether there are only small bodies without headers of their own, as there usually are.
        self.plain = max(lengths) <= PACK_LIMIT and all(type(slot) is Meta for slot in slots)
        if not self.plain:
            rows = [_split(*entry) for entry in entries]
            slots, bodies = zip(*rows)  # noqa: B905 - rows are pairs
            lengths = list(map(len, bodies))
        self.slots: tuple[Meta | Envelope, ...] = slots
        self.buffer = b"".join(bodies)
        self.ends = array("I", accumulate(lengths))

    def take(self, most: int) -> list[Envelope]:
        """Remove and return up to ``most`` of the oldest events."""
        first = self.first
        last = self.first = min(first + most, len(self.slots))
        starts = [self.ends[first - 1] if first else 0, *self.ends[first : last - 1]]
        buffer = self.buffer
        rows = zip(self.slots[first:last], starts, self.ends[first:last], self.times[first:last])  # noqa: B905
        taken = [
            Envelope(slot.profile, slot.routing_key, buffer[start:end], slot.headers, time)
            if type(slot) is Meta
            else slot
            for slot, start, end, time in rows
        ]
        if self.plain:
            self.size -= (self.ends[last - 1] if last else 0) - (self.ends[first - 1] if first else 0)
        else:
            self.size -= sum([len(event.body) for event in taken])
        return taken


def _split(slot: Meta | Envelope, body: bytes, time: float) -> tuple[Meta | Envelope, bytes]:
    """Return what a chunk keeps in its slots and in its buffer for an event."""
    if not isinstance(slot, Meta):
        return slot, b""
    if len(body) > PACK_LIMIT:
        return Envelope(slot.profile, slot.routing_key, body, slot.headers, time), b""
    return slot, body


class Queue:
    """Events on their way from ``put`` to the listener.

    ``limit`` bounds the events and ``size_limit`` the bytes of their bodies; 0 lifts a bound. An event
    is always taken when the queue is empty, however large it is. Every method may be called from any
    thread; ``get`` belongs to the loop that was bound last. Threads that put in the same instant may
    together exceed a bound by as many events as they are.

    An event first lies in the inbox, as it came, and is usually taken from there. An inbox that is full
    is packed. To append to it is one operation that no other thread can come between, so it needs no
    lock; ``lock`` guards everything else.

    ``held`` and ``held_size`` count events that left the queue but fill lanes beyond their buffers:
    they count against the bounds, so that a blocked lane holds back producers instead of memory.
    """

    def __init__(self, limit: int = 100_000, size_limit: int = 256 * 1024 * 1024) -> None:
        self.dropped = 0
        self.got = 0
        self.held = 0
        self.held_size = 0
        # Re-entrant: a finalizer or a signal handler that logs may put while this thread holds it.
        self.lock = threading.RLock()
        self.on_event: Callable[[], object] | None = None
        self._limit = limit
        self._size_limit = size_limit
        self.inbox: deque[Entry] = deque()
        self._chunks: deque[_Chunk] = deque()
        self._packed = 0
        self._packed_size = 0
        self._gone = 0
        # The fast way in, which the broker takes by itself: while the inbox holds fewer entries than
        # ``inbox_limit`` and a body has at most ``body_limit`` bytes, append ``(meta, body, time)``, and
        # call ``rouse`` if ``idle``. Otherwise ``put`` looks closer.
        self.inbox_limit = 0
        self.body_limit = 0
        self.idle = True
        self._handing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._getters: deque[asyncio.Future[None]] = deque()
        self._waiters: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()
        self._measure()

    def __repr__(self) -> str:
        return f"<Queue events={self.qsize()} bytes={self.size} limit={self._limit}>"

    @property
    def limit(self) -> int:
        """Most events; 0 for any number."""
        return self._limit

    @property
    def size_limit(self) -> int:
        """Most bytes; 0 for any number."""
        return self._size_limit

    def bound(self, limit: int, size_limit: int) -> None:
        """Set both bounds; what is queued stays queued."""
        with self.lock:
            self._limit = limit
            self._size_limit = size_limit
            self._measure()

    def counts(self) -> dict[str, int]:
        """Return ``accepted``, ``queued`` and the other counters of one moment."""
        with self.lock:
            entries = self.inbox.copy()
            queued = self._packed + len(entries)
            return {
                "accepted": self._gone + queued,
                "got": self.got,
                "dropped": self.dropped,
                "queued": queued,
                "queued_bytes": self._packed_size + sum([len(body) for _, body, _ in entries]),
                "held": self.held,
            }

    @property
    def size(self) -> int:
        """The bytes of all queued bodies."""
        return self.counts()["queued_bytes"]

    def qsize(self) -> int:
        """Return how many events are queued."""
        with self.lock:
            return self._packed + len(self.inbox)

    def empty(self) -> bool:
        """Return whether nothing is queued."""
        return not self._packed and not self.inbox

    def full(self) -> bool:
        """Return whether the next event would have to wait."""
        return self._full(0)

    def _full(self, size: int) -> bool:
        with self.lock:
            waiting = self.qsize() + self.held
            if not waiting:
                return False
            if self._limit and waiting >= self._limit:
                return True
            return bool(self._size_limit) and self.size + self.held_size + size > self._size_limit

    def _measure(self) -> None:
        """Work out what fits into the inbox without a closer look."""
        free = self._limit - self._packed - self.held if self._limit else INBOX_EVENTS
        self.inbox_limit = min(INBOX_EVENTS, free)
        room = self._size_limit - self._packed_size - self.held_size if self._size_limit else UNBOUNDED
        # A whole inbox of bodies of this size still fits.
        self.body_limit = room // INBOX_EVENTS

    def put(self, meta: Meta | Envelope, body: bytes, time: float) -> bool:
        """Queue an event and return True, or return False when there is no room."""
        inbox = self.inbox
        with self.lock:
            if self._full(len(body)):
                return False
            if len(inbox) >= INBOX_EVENTS:
                self._pack()
            inbox.append((meta, body, time))
            if len(body) > self.body_limit:
                # Only packed bodies are counted when it is worked out what still fits.
                self._pack()
        if self.idle:
            self.rouse()
        return True

    def rouse(self) -> None:
        """Tell the listener that the queue is no longer empty."""
        self.idle = False
        self._signal()

    def _pack(self) -> None:
        inbox = self.inbox
        chunk = _Chunk([inbox.popleft() for _ in range(len(inbox))])
        self._chunks.append(chunk)
        self._packed += len(chunk.slots)
        self._packed_size += chunk.size
        self._measure()

    def take(self, most: int) -> list[Envelope]:
        """Remove and return up to ``most`` of the oldest events; an empty queue re-arms the signal."""
        with self.lock:
            taken = self.take_locked(most)
        self.wake()
        return taken

    def take_locked(self, most: int) -> list[Envelope]:
        """Do as :meth:`take` for a caller that holds the lock, and calls :meth:`wake` afterwards."""
        taken = self._take(most)
        if not self._packed and not self.inbox:
            self.idle = True
            if self.inbox:
                # Put between the two lines above by a thread that saw no need to signal.
                self.idle = False
                self._signal()
        return taken

    def _take(self, most: int) -> list[Envelope]:
        taken: list[Envelope] = []
        while self._chunks and len(taken) < most:
            chunk = self._chunks[0]
            self._packed_size -= chunk.size
            part = chunk.take(most - len(taken))
            self._packed_size += chunk.size
            self._packed -= len(part)
            if chunk.first == len(chunk.slots):
                self._chunks.popleft()
            taken = taken + part if taken else part
        if len(taken) < most:
            popleft = self.inbox.popleft
            entries = [popleft() for _ in range(min(most - len(taken), len(self.inbox)))]
            taken += [
                Envelope(slot.profile, slot.routing_key, body, slot.headers, time)
                if type(slot) is Meta
                else slot
                for slot, body, time in entries
            ]
        self._gone += len(taken)
        self._measure()
        return taken

    def drop_oldest(self, size: int) -> int:
        """Drop queued events until one of ``size`` bytes fits; return how many were dropped."""
        with self.lock:
            dropped = 0
            while self._full(size) and self._take(1):
                dropped += 1
            self.dropped += dropped
            return dropped

    def drop_newest(self) -> None:
        """Count an event that was refused and given up."""
        with self.lock:
            self._gone += 1
            self.dropped += 1

    def hold(self, events: int, size: int) -> None:
        """Count events (negative: release them) that a lane holds beyond its buffer. Needs the lock."""
        self.held += events
        self.held_size += size
        self._measure()

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the queue belong to ``loop``: its listener and getters run there."""
        with self.lock:
            self._loop = loop
            self._loop_thread = threading.get_ident()
            self._getters.clear()

    def listen(self, on_event: Callable[[], object] | None) -> None:
        """Call ``on_event`` in the bound loop whenever the queue stops being empty."""
        with self.lock:
            self.on_event = on_event
            self.idle = self.empty()
            if self.idle or on_event is None:
                return
        self._signal()

    def _signal(self) -> None:
        loop = self._loop
        if loop is None:
            return
        if threading.get_ident() == self._loop_thread:
            if not loop.is_closed():
                self._signal_here(loop)
            return
        try:
            loop.call_soon_threadsafe(self._notify)
        except RuntimeError:
            # The loop ended. The event is queued, and found by whoever binds the next loop.
            return

    def _signal_here(self, loop: asyncio.AbstractEventLoop) -> None:
        # The first event of a burst is handed over at once, which saves it a turn of the loop; those that
        # follow before the loop turns are handed over together.
        if self.on_event is not None and not self._handing:
            self._handing = True
            try:
                self.on_event()
            finally:
                self._handing = False
            self.idle = False
            loop.call_soon(self._turn)
        else:
            loop.call_soon(self._notify)

    def _turn(self) -> None:
        """Hand over what was put since the burst's first event."""
        self.idle = True
        if not self.empty():
            self.idle = False
            self._notify()

    def _notify(self) -> None:
        if self.on_event is not None:
            self.on_event()
            return
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    async def get(self) -> Envelope:
        """Take the oldest event off the bus; wait for one when there is none.

        For applications that drain the bus themselves: a started bus takes its events first.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self.bind(loop)
        while True:
            with self.lock:
                taken = self.take(1)
                self.got += len(taken)
            if taken:
                if self._getters and not self.empty():
                    self._notify()
                return taken[0]
            getter: asyncio.Future[None] = loop.create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                # The wake-up that this getter will not use belongs to the next one.
                if getter.done() and not getter.cancelled() and not self.empty():
                    self._notify()
                raise

    async def wait_room(self, size: int) -> None:
        """Wait until an event of ``size`` bytes may fit. Wakes in the order of the calls."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        entry = (loop, future)
        with self.lock:
            if not self._full(size):
                return
            self._waiters.append(entry)
        try:
            await future
        except asyncio.CancelledError:
            with self.lock:
                if entry in self._waiters:
                    self._waiters.remove(entry)
            if future.done() and not future.cancelled():
                self.wake()
            raise

    def wake(self, *, everyone: bool = False) -> None:
        """Wake as many waiting puts as there is room for, or ``everyone``."""
        if not self._waiters:
            return
        with self.lock:
            room = len(self._waiters)
            if not everyone and self._limit:
                room = min(room, max(0, self._limit - self.qsize() - self.held))
            woken = [self._waiters.popleft() for _ in range(room)]
        for loop, future in woken:
            if threading.get_ident() == self._loop_thread and loop is self._loop:
                if not future.done():
                    future.set_result(None)
                continue
            try:
                loop.call_soon_threadsafe(_resolve, future)
            except RuntimeError:
                continue


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
