"""The bus's queue: bounded by events and by bytes, thread-safe, and small in memory.

Python objects cost more than the events they hold: an envelope with a body of 33 bytes takes about
180. Queued events are therefore packed: bodies lie end to end in one byte buffer per chunk, and what
most events share (profile, routing key, headers) is one :class:`Meta` object that they point to.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from evbus.engine.core.chunk import Chunk, Entry, Meta, Run, runs
from evbus.engine.kit.notifier import Notifier, resolve
from evbus.engine.kit.weight import UNBOUNDED, Weight
from evbus.errors import EvbusError
from evbus.types import Envelope

__all__ = ["Meta", "Queue"]

log = logging.getLogger("evbus.queue")

_Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]", int]

INBOX_EVENTS = 256
#: Times that what was put is handed over to who waits for it until the loop has its turn again.
PULLS = 64


class Queue:
    """Events on their way from ``put`` to the listener.

    ``limit`` bounds the events and ``size_limit`` the bytes of their bodies; 0 lifts a bound. An event
    is always taken when the queue is empty, however large it is. Every method may be called from any
    thread; ``get`` belongs to the loop that was bound last. Threads that put in the same instant may
    together exceed a bound by as many events as they are.

    An event first lies in the inbox, as it came, and is usually taken from there. An inbox that is full
    is packed. To append to it is one operation that no other thread can come between, so it needs no
    lock; ``lock`` guards everything else.

    ``routed`` and ``unmatched`` count events that left it for lanes, and those that no profile matched,
    ``relayed`` deliveries from outside, which go to lanes directly.

    ``held`` counts events that left the queue but fill lanes beyond their buffers, and ``held_size`` the
    bytes of all bodies that wait in lanes or are under way; ``outside`` weighs those that wait behind the
    lanes, in this process. They count against the bounds, so that what is slow holds back producers
    instead of memory. ``stalled`` is how many lanes lead to listeners in this process that have as much as
    they may have: who can wait waits then, if their event goes there.
    """

    def __init__(self, limit: int = 100_000, size_limit: int = 256 * 1024 * 1024) -> None:
        self.dropped = 0
        self.got = 0
        self.routed = 0
        self.unmatched = 0
        self.relayed = 0
        self.held = 0
        self.held_size = 0
        self.outside = Weight()
        self.stalled = 0
        # What was held when it was last worked out what fits, and by how much that may be wrong.
        self._measured = 0
        self._step = 0
        # Re-entrant: a finalizer or a signal handler that logs may put while this thread holds it.
        self.lock = threading.RLock()
        self.on_event: Callable[[], object] | None = None
        self.limit = limit
        self.size_limit = size_limit
        self.inbox: deque[Entry] = deque()
        self._chunks: deque[Chunk] = deque()
        self._packed = 0
        self._packed_size = 0
        self._gone = 0
        # The fast way in, which the broker takes by itself: while the inbox holds fewer entries than
        # ``inbox_limit`` and a body has at most ``body_limit`` bytes, append ``(meta, body, time)``, and
        # call ``rouse`` if ``idle``. Otherwise ``put`` looks closer.
        self.inbox_limit = 0
        self.body_limit = 0
        self._max_body = UNBOUNDED
        self.idle = True
        self._changing = False
        self._handing = False
        # How often somebody has pulled since the loop had its turn.
        self._pulled = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._getters: deque[asyncio.Future[None]] = deque()
        self._waiters: deque[_Waiter] = deque()
        self._relief = Notifier()
        self._measure()

    def free_lock(self) -> None:
        """Release the lock in the child of a fork, where the thread that held it does not exist."""
        self.lock._at_fork_reinit()  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"<Queue events={self.qsize()} bytes={self.size} limit={self.limit}>"

    def bound(self, limit: int, size_limit: int, max_body: int = UNBOUNDED) -> None:
        """Set both bounds; what is queued stays queued.

        :param max_body: what the broker looks closer at is every body with more bytes than that.
        """
        with self.lock:
            self.limit = limit
            self._max_body = max_body
            self.size_limit = size_limit
            self.outside.most_idle = size_limit // 2 if size_limit else UNBOUNDED
            self.outside.ceiling = UNBOUNDED
            self._pack()
        self.wake()

    def count_in(self, outside: Weight) -> None:
        """Let what waits behind the lanes count against the bound; once, before the first event."""
        self.outside = outside
        outside.on_rise, outside.on_fall, outside.on_wait = self._risen, self.wake, self.pull
        self.bound(self.limit, self.size_limit, self._max_body)

    def _risen(self) -> None:
        """Look again at what fits: much more waits behind the lanes than before, or it seems so."""
        outside = self.outside
        outside.ceiling = UNBOUNDED
        outside.recount()
        outside.ceiling = outside.size + self._step
        with self.lock:
            self._pack()  # what is in the inbox was let in when there was more room

    def counts(self) -> dict[str, int]:
        """Return ``accepted``, ``queued`` and the other counters of one moment."""
        with self.lock:
            self._recounted()
            entries = self.inbox.copy()
            queued = self._packed + len(entries)
            return {
                "accepted": self._gone + queued,
                "routed": self.routed,
                "unmatched": self.unmatched,
                "relayed": self.relayed,
                "got": self.got,
                "dropped": self.dropped,
                "queued": queued,
                "queued_bytes": self._packed_size + _size_of(entries),
                "held": self.held,
                "local_bytes": self.outside.size,
            }

    def _recounted(self) -> bool:
        """Let the bytes behind the lanes be exact; return False when they were, or another thread asks."""
        if not self.outside.loose or threading.get_ident() != self._loop_thread:
            return False
        self.outside.recount()
        return True

    @property
    def elsewhere(self) -> int:
        """The bytes of all bodies that left the queue, and wait or are under way in this process."""
        return self.held_size + self.outside.size

    @property
    def size(self) -> int:
        """The bytes of all queued bodies."""
        with self.lock:
            return self._packed_size + _size_of(self.inbox.copy())

    def qsize(self) -> int:
        """Return the number of queued events."""
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
            if not waiting and not self.elsewhere:
                return False
            if self.limit and waiting >= self.limit:
                return True
            if not self.size_limit or self.size + self.elsewhere + size <= self.size_limit:
                return False
            if not self._recounted():
                return True
            there = self.elsewhere
            return bool(waiting or there) and self.size + there + size > self.size_limit

    def _measure(self) -> None:
        """Work out what fits into the inbox without a closer look."""
        free = self.limit - self._packed - self.held if self.limit else INBOX_EVENTS
        self.inbox_limit = 0 if self.stalled else min(INBOX_EVENTS, free)
        self._measured = self.held_size
        # What lanes hold and what waits behind them may each become so much more until it is measured again.
        self._step = self.size_limit // 32 if self.size_limit else UNBOUNDED
        outside = self.outside
        # Never raised here: what is counted too much behind the lanes is found when it passes the mark.
        outside.ceiling = min(outside.ceiling, outside.size + self._step)
        used = self._packed_size + self._measured + self._step + outside.ceiling
        room = self.size_limit - used if self.size_limit else UNBOUNDED
        # A whole inbox of bodies of this size still fits.
        self.body_limit = min(room // INBOX_EVENTS, self._max_body)

    def put(self, meta: Meta | Envelope, body: bytes, time: float, *, beyond: bool = False) -> bool:
        """Queue an event and return True, or return False when there is no room.

        :param beyond: queue it whether there is room or not.
        """
        inbox = self.inbox
        with self.lock:
            # A finalizer or a signal handler that runs in the middle of a change may only append.
            free = not self._changing
            if free and not beyond and self._full(len(body)):
                return False
            if free and len(inbox) >= INBOX_EVENTS:
                self._pack()
            inbox.append((meta, body, time))
            if free and len(body) > self.body_limit:
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
        """Pack the inbox, and work out again what fits into it."""
        inbox = self.inbox
        if inbox:
            self._changing = True
            entries = [inbox.popleft() for _ in range(len(inbox))]
            self._chunks.append(Chunk(entries))
            self._packed += len(entries)
            self._packed_size += _size_of(entries)
            self._changing = False
        self._measure()

    def take(self, most: int) -> list[Envelope]:
        """Remove and return up to ``most`` of the oldest events; an empty queue re-arms the signal."""
        with self.lock:
            taken = self.take_runs(most)
        self.wake()
        return [event for _, events, _ in taken for event in events]

    def take_runs(self, most: int) -> list[Run]:
        """Do as :meth:`take` for a caller that holds the lock, and calls :meth:`wake` afterwards."""
        taken = self._take(most)
        if not self._packed and not self.inbox:
            self.idle = True
            if self.inbox:
                # Put between the two lines above by a thread that saw no need to signal.
                self.idle = False
                self._signal()
        return runs(taken)

    def _take(self, most: int) -> list[Entry]:
        self._changing = True
        taken: list[Entry] = []
        chunks, inbox = self._chunks, self.inbox
        while chunks and len(taken) < most:
            taken += chunks[0].take(most - len(taken))
            if not len(chunks[0]):
                chunks.popleft()
        packed = len(taken)
        if packed:
            self._packed -= packed
            self._packed_size -= _size_of(taken)
        if len(inbox) == 1 and packed < most:
            taken.append(inbox.popleft())
        elif inbox and packed < most:
            taken += itertools.starmap(inbox.popleft, itertools.repeat((), min(most - packed, len(inbox))))
        self._gone += len(taken)
        self._changing = False
        if packed:
            self._measure()  # what was in the inbox takes no room from it
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

    def charge(self, events: int, size: int) -> None:
        """Count events that a lane holds beyond its buffer, and bytes that it holds. Needs the lock.

        Negative numbers are what it holds no more.
        """
        self.held += events
        self.held_size += size
        far = abs(self.held_size - self._measured) > self._step
        if events > 0 or (far and size > 0):
            self._pack()  # what is in the inbox was let in when there was more room
        elif events or far:
            self._measure()
        if self._waiters and (events < 0 or size < 0):
            self.wake()

    def stall(self, lanes: int) -> None:
        """Count a lane (negative: no more) whose listeners in this process have as much as they may have."""
        with self.lock:
            self.stalled += lanes
            self._measure()
        if lanes < 0:
            self._relief.notify()

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the queue belong to ``loop``: its listener and getters run there.

        :raises EvbusError: the bus is started in another loop.
        """
        with self.lock:
            if loop is self._loop:
                return
            if self.on_event is not None and self._loop is not None and not self._loop.is_closed():
                raise EvbusError("the bus is started in another event loop; init and get belong there")
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
        then = self._notify
        try:
            if self._hand_over():
                then = self._turn
        finally:
            self._soon(loop, then)

    def _hand_over(self) -> bool:
        """Hand over what is queued, in the bound loop; return False where that has to wait."""
        # Not when a finalizer or a signal handler puts while this thread changes what the lock guards.
        if self.on_event is None or self._handing or self.lock._is_owned():  # type: ignore[attr-defined]
            return False
        self._handing = True
        try:
            self.on_event()
        except Exception:
            # Whoever put the event is not to blame, and it is accepted.
            log.exception("an event could not be handed over")
        finally:
            self._handing = False
            self.idle = False
        return True

    def pull(self) -> None:
        """Hand over what was put since the loop had its turn, as somebody waits for it; so often at most."""
        if self.inbox and not self.idle and self._pulled < PULLS:
            self._pulled += 1
            if threading.get_ident() == self._loop_thread:
                self._hand_over()

    def _soon(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        if asyncio.current_task(loop) is None:
            # Perhaps a signal handler, which does not end the loop's waiting for events by itself.
            loop.call_soon_threadsafe(callback)
        else:
            loop.call_soon(callback)

    def _turn(self) -> None:
        """Hand over what was put since the burst's first event."""
        self.idle = True
        self._pulled = 0
        if not self.empty():
            self.idle = False
            self._notify()

    def _notify(self) -> None:
        self._pulled = 0
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
                with suppress(ValueError):
                    self._getters.remove(getter)
                # The wake-up that this getter will not use belongs to the next one.
                if not getter.cancelled() and not self.empty():
                    self._notify()
                raise

    async def wait_room(self, size: int) -> None:
        """Wait until an event of ``size`` bytes may fit. Wakes in the order of the calls."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        entry = (loop, future, size)
        with self.lock:
            if not self._full(size):
                return
            self._waiters.append(entry)
            self._watch()
        try:
            await future
        except asyncio.CancelledError:
            with self.lock:
                woken = entry not in self._waiters
                if not woken:
                    self._waiters.remove(entry)
            if woken:
                # The room that this put will not use belongs to the next one.
                self.wake()
            raise

    @property
    def reliefs(self) -> int:
        """How often a lane that was stalled became free, or all who wait were told to look again."""
        return self._relief.count

    async def wait_relief(self, since: int) -> None:
        """Wait until :attr:`reliefs` is no longer what it was before the lanes were looked at."""
        await self._relief.until(lambda: True if not self.stalled or self.reliefs != since else None)

    def wake(self, *, everyone: bool = False) -> None:
        """Wake as many waiting puts as there is room for, or ``everyone``."""
        if everyone:
            self._relief.notify()
        if not self._waiters:
            self.outside.floor = 0
            return
        with self.lock:
            woken = self._woken(everyone=everyone)
            self._watch()
        gone = False
        for loop, future, _ in woken:
            gone |= not self._resolve(loop, future)
        if gone:
            # Loops that ended took puts with them. The room is the next ones'.
            self.wake(everyone=everyone)

    def _woken(self, *, everyone: bool) -> list[_Waiter]:
        """Take those off that there is room for."""
        waiters = self._waiters
        if everyone:
            everybody = list(waiters)
            waiters.clear()
            return everybody
        waiting = self.qsize() + self.held
        room = max(0, self.limit - waiting) if self.limit else len(waiters)
        left = self.size_limit - self.size - self.elsewhere if self.size_limit else UNBOUNDED
        if not waiting and not self.elsewhere:
            left = max(left, waiters[0][2])  # the first is taken, however large
        woken: list[_Waiter] = []
        while waiters and len(woken) < room and waiters[0][2] <= left:
            woken.append(waiters.popleft())
            left -= woken[-1][2]
        return woken

    def _watch(self) -> None:
        """Ask to be called when less waits behind the lanes than the first of the puts that wait can bear."""
        if threading.get_ident() != self._loop_thread:
            if self._loop is not None:
                with suppress(RuntimeError):  # it has ended, and nothing goes away any more
                    self._loop.call_soon_threadsafe(self.wake)
            return
        floor = 0
        if self._waiters and self.size_limit and not (self.limit and self.qsize() + self.held >= self.limit):
            floor = self.size_limit - self.size - self.held_size - self._waiters[0][2] + 1
            if not self.qsize() and not self.held and not self.held_size:
                floor = max(1, floor)  # what is larger than the bound is taken when there is nothing else
        self.outside.watch(floor)

    def _resolve(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> bool:
        """Let somebody go on who waits; return False if the loop of that has ended."""
        if threading.get_ident() == self._loop_thread and loop is self._loop:
            resolve(future)
            return True
        try:
            loop.call_soon_threadsafe(resolve, future)
        except RuntimeError:
            return False
        return True


def _size_of(entries: Iterable[Entry]) -> int:
    return sum([len(body) for _, body, _ in entries])
