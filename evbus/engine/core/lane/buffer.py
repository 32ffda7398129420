"""The events of one lane: those that wait, and those that were taken and are not settled."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from evbus.engine.core.lane.retry import DeadLetter, without
from evbus.engine.core.lane.stats import Counters
from evbus.engine.core.queue import Queue
from evbus.engine.kit.notifier import resolve
from evbus.engine.kit.weight import size_of
from evbus.types import Envelope

__all__ = ["Buffer", "Flight"]

_T = TypeVar("_T")


class Flight:
    """Events that were taken together, as long as they are neither settled nor given back.

    :ivar events: those that are left, in their order; ``size`` is the bytes of their bodies.
    :ivar tries: how often those were tried that are tried again, by their identity.
    :ivar standing: those, perhaps among others, that are not being sent at present: who took them waits.
    """

    __slots__ = ("events", "size", "standing", "tries")

    def __init__(self, events: list[Envelope], size: int) -> None:
        self.events = events
        self.size = size
        self.standing: Sequence[Envelope] = ()
        self.tries: dict[int, int] = {}

    def left_of(self, events: Sequence[Envelope], beside: Sequence[_T]) -> tuple[list[Envelope], list[_T]]:
        """Return those of ``events`` that are left, and what stands for them in ``beside``."""
        left = set(map(id, self.events))
        pairs = [pair for pair in zip(events, beside) if id(pair[0]) in left]  # noqa: B905 - one each
        return [event for event, _ in pairs], [other for _, other in pairs]


class Buffer:
    """What a lane has accepted, until it is settled; in memory.

    Its counters hold at every moment: ``accepted = delivered + dead + dropped + queued + in_flight``. What is
    taken and not settled comes again: with :meth:`give_back` now, at the end of the lane with :meth:`close`.
    No function waits. All may be called with the lock of the bus's queue, and those that say so need it.

    The bytes of what it holds, and the events that wait beyond ``limit``, count against the bounds of the
    bus's queue, so that what is slow holds back producers instead of filling memory.

    :param limit: events that may wait; with ``drops`` the oldest give way for more.
    :ivar size: the bytes of those that wait.
    """

    def __init__(self, queue: Queue, limit: int, *, drops: bool = False) -> None:
        self.counters = Counters()
        self.size = 0
        self._queue = queue
        self._lock = queue.lock
        self._limit = limit
        self._drops = drops
        self._waiting: deque[Envelope] = deque()
        # In the order in which they were taken.
        self._flights: dict[Flight, None] = {}
        # The bytes of all, and what of them, and of the events beyond the limit, the queue knows.
        self._total = 0
        self._charged = 0
        self._held = 0
        self._sleepers: deque[asyncio.Future[None]] = deque()

    def __repr__(self) -> str:
        return f"<Buffer queued={len(self)} in_flight={self.counters.in_flight}>"

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Envelope]:
        return iter(self._waiting)

    def append(self, events: list[Envelope], size: int) -> list[Envelope]:
        """Accept events, ``size`` bytes in all; return the oldest that gave way. Needs the lock.

        What is not taken at once is then to be announced.
        """
        waiting = self._waiting
        waiting.extend(events)
        self.size += size
        self._total += size
        self.counters.accepted += len(events)
        if not self._drops or len(waiting) <= self._limit:
            return []
        dropped = [waiting.popleft() for _ in range(len(waiting) - self._limit)]
        gone = size_of(dropped)
        self.size -= gone
        self._total -= gone
        self.counters.dropped += len(dropped)
        return dropped

    def announce(self, count: int) -> None:
        """Tell whoever waits for it that ``count`` events more have come, and stay. Needs the lock."""
        self._charge()
        while count and self._sleepers:
            sleeper = self._sleepers.popleft()
            if not sleeper.done():
                sleeper.set_result(None)
                count -= 1

    def _charge(self) -> None:
        """Tell the queue what counts against its bounds."""
        held = 0 if self._drops else max(0, len(self._waiting) - self._limit)
        events, size = held - self._held, self._total - self._charged
        if events or size:
            self._held, self._charged = held, self._total
            self._queue.charge(events, size)

    def arrival(self) -> asyncio.Future[None]:
        """Return a future that is done when an event waits."""
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append(sleeper)
        # Looked at again, as a finalizer may have put an event before there was a sleeper.
        if self._waiting:
            resolve(sleeper)
        return sleeper

    def take(self, most: int, alike: Callable[[Envelope], str] | None = None) -> Flight:
        """Take the oldest events, at most ``most``; only those of which ``alike`` says what of the first."""
        waiting = self._waiting
        with self._lock:
            if alike is not None and waiting:
                _, run = next(itertools.groupby(itertools.islice(waiting, most), alike))
                most = len(list(run))
            if len(waiting) <= most:
                events, size = list(waiting), self.size
                waiting.clear()
            else:
                events = [waiting.popleft() for _ in range(most)]
                size = size_of(events)
            self.size -= size
            self.counters.in_flight += len(events)
            flight = Flight(events, size)
            if events:
                self._flights[flight] = None
            if self._held:
                self._charge()
        return flight

    def pick(self, events: list[Envelope]) -> Flight:
        """Take these of the events that wait."""
        with self._lock:
            self._keep([*events, *without(list(self._waiting), events)])
            return self.take(len(events))

    def _keep(self, events: list[Envelope]) -> None:
        self._waiting.clear()
        self._waiting.extend(events)

    def taken(self) -> Iterator[Envelope]:
        """Iterate over what was taken and is not settled. Needs the lock."""
        return (event for flight in self._flights for event in flight.events)

    def settle(
        self,
        flight: Flight,
        delivered: list[Envelope],
        dead: Sequence[DeadLetter] = (),
        retried: int = 0,
        dropped: int = 0,
    ) -> bool:
        """Count what became of events of a flight; return False when the lane was closed meanwhile.

        :param dropped: how many gave way at their destination, which is in this process: these, or others
            that were delivered before.
        """
        counters = self.counters
        with self._lock:
            if flight not in self._flights:
                return False
            gone = [*delivered, *(letter.event for letter in dead)] if dead else delivered
            size = self._let_go(flight, gone)
            counters.delivered += len(delivered) - dropped
            if dead:
                counters.dead += len(dead)
                size = size_of(delivered)
            counters.delivered_bytes += size
            if retried or dropped:
                counters.retried += retried
                counters.dropped += dropped
            if self._charged:
                self._charge()
        return True

    def _let_go(self, flight: Flight, gone: list[Envelope]) -> int:
        """Take events out of a flight, which ends when it has no more; return their bytes."""
        self.counters.in_flight -= len(gone)
        if len(gone) == len(flight.events):
            del self._flights[flight]
            flight.events = []
            size = flight.size
        else:
            flight.events = without(flight.events, gone)
            size = size_of(gone)
            flight.size -= size
        self._total -= size
        return size

    def give_back(self, flight: Flight) -> None:
        """Let what is left of a flight wait again, before all others."""
        with self._lock:
            if flight in self._flights:
                del self._flights[flight]
                self._waiting.extendleft(reversed(flight.events))
                self.size += flight.size
                self.counters.in_flight -= len(flight.events)
                self.announce(len(self))

    def withdraw(self, gone: Callable[[Envelope], bool]) -> list[Envelope]:
        """Give up what waits or stands and is ``gone``, as if never accepted; return what that was."""
        with self._lock:
            found = [event for event in self._waiting if gone(event)]
            if found:
                self._keep(without(list(self._waiting), found))
                size = size_of(found)
                self.size -= size
                self._total -= size
            for flight in list(self._flights):
                standing = set(map(id, flight.standing))
                left = [event for event in flight.events if id(event) in standing and gone(event)]
                if left:
                    self._let_go(flight, left)
                    found += left
            self.counters.accepted -= len(found)
            self._charge()
        return found

    def close(self, first: int) -> list[tuple[Envelope, int]]:
        """Give up what is not settled; return what nobody else keeps, in order, with its attempts.

        :param first: attempts of what was taken and not tried before.
        """
        with self._lock:
            left = [
                (event, flight.tries.get(id(event), first))
                for flight in self._flights
                for event in flight.events
            ]
            left += [(event, 0) for event in self._waiting]
            self._flights.clear()
            self._waiting.clear()
            self.size = self._total = self.counters.in_flight = 0
            self._charge()
        return left
