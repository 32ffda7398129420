"""Deliveries from outside on their way through the lanes: settled once every lane is done with them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from evbus.engine.core.lane.retry import DeadLetter
from evbus.engine.core.queue import Queue
from evbus.types import Delivery, Envelope, Origin

__all__ = ["Tracker"]

log = logging.getLogger("evbus.relay")


class _Tracked:
    """A delivery, the envelopes made of it, and the lanes (and lanes of dead letters) that still have one.

    :ivar died: one of the lanes gave it up.
    :ivar returned: one of them ended before it was done: it stays with its source.
    """

    __slots__ = ("delivery", "died", "envelopes", "left", "returned")

    def __init__(self, delivery: Delivery, envelope: Envelope, left: int) -> None:
        self.delivery = delivery
        self.envelopes = [envelope]
        self.left = left
        self.died = False
        self.returned = False


class Tracker:
    """Tracks the deliveries that lanes work on, and that their source still keeps.

    Nothing here is written down: a delivery that no lane settles before the bus ends stays with its source.

    :param queue: the bus's queue: its lock guards the lanes, and it counts deliveries.
    :param dead_letter: records what a lane gave up.
    :param flush: writes the dead store to the disk; returns whether that succeeded.
    :param every: returns all lanes.
    """

    def __init__(
        self,
        queue: Queue,
        dead_letter: Callable[[Any, list[DeadLetter]], None],
        flush: Callable[[], Coroutine[Any, Any, bool]],
        every: Callable[[], Iterable[Any]] = tuple,
    ) -> None:
        self._queue = queue
        self._lock = queue.lock
        self._dead_letter = dead_letter
        self._flush = flush
        self._every = every
        self._origin: Origin | None = None
        # By the identity of an envelope, which the entry holds so that it stays its own.
        self._tracked: dict[int, _Tracked] = {}
        self._unsettled = 0
        self._settling: set[asyncio.Task[None]] = set()
        self._idle: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Tracker unsettled={self._unsettled} relayed={self._queue.relayed}>"

    def relay(self, delivery: Delivery, event: Envelope, lanes: Sequence[Any]) -> None:
        """Hand ``event``, made of a delivery, to ``lanes``; that is settled when they are done with it."""
        self.track(delivery, event, len(lanes))
        size = len(event.body)
        with self._lock:
            ready = []
            for lane in lanes:
                lane.tracker = self
                if lane.offer([event], size):
                    ready.append(lane)
        for lane in ready:
            lane.deliver_now()

    def refuse(self, delivery: Delivery, event: Envelope, lanes: Sequence[Any], problem: Exception) -> None:
        """Record a delivery that no lane can have as dead in each of them."""
        self.track(delivery, event, len(lanes))
        for lane in lanes:
            with self._lock:
                lane.tracker = self
                lane.counters.accepted += 1
                lane.counters.dead += 1
            self._dead_letter(lane, [DeadLetter(event, problem, 0)])
            self.done([event], died=True)

    def track(self, delivery: Delivery, envelope: Envelope, lanes: int) -> None:
        """Note that ``envelope`` is about to be offered to so many lanes."""
        origin = delivery.origin
        if origin is not self._origin:
            self._origin = origin
            if origin is not None:
                origin.watch(self._lost)
        self._tracked[id(envelope)] = _Tracked(delivery, envelope, lanes)
        self._unsettled += 1
        self._queue.relayed += 1

    def follow(self, event: Envelope, letter: Envelope, lanes: int) -> None:
        """Note that a dead event goes on as ``letter`` to so many lanes."""
        found = self._tracked.get(id(event))
        if found is not None and lanes:
            found.left += lanes
            found.envelopes.append(letter)
            self._tracked[id(letter)] = found

    def done(self, events: Iterable[Envelope], *, died: bool = False) -> None:
        """Note that a lane delivered events, dropped them by its policy, or let go of what comes again.

        :param died: it gave them up, and they were recorded or sent on.
        """
        for event in events:
            found = self._tracked.get(id(event))
            if found is not None:
                found.died |= died
                self._leave(found)

    def give_back(self, events: list[Envelope]) -> list[Envelope]:
        """Leave those of ``events`` that their source has still to it; return the others."""
        own = []
        for event in events:
            found = self._tracked.get(id(event))
            if found is None:
                own.append(event)
            elif not found.returned:
                # Still known: another lane may have it too, and is to give it back as well.
                found.returned = True
                self._settled()
        return own

    def gone(self, event: Envelope) -> bool:
        """Return whether an event was made of a delivery that cannot be settled any more, and comes again."""
        found = self._tracked.get(id(event))
        return found is not None and found.delivery.gone

    def _lost(self, _origin: Origin) -> None:
        """Take back what no lane has begun with of deliveries that come again."""
        with self._lock:
            for lane in self._every():
                self.done(lane.buffer.withdraw(self.gone))

    def _leave(self, tracked: _Tracked) -> None:
        tracked.left -= 1
        if tracked.left:
            return
        for envelope in tracked.envelopes:
            del self._tracked[id(envelope)]
        origin = tracked.delivery.origin
        if origin is not None and origin.ended:
            tracked.delivery.drop()
            self._settled()
            return
        if not tracked.died:
            tracked.delivery.ack()
            self._settled()
            return
        task = asyncio.ensure_future(self._record(tracked))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _record(self, tracked: _Tracked) -> None:
        """Settle a dead event once its record is on the disk."""
        if await self._flush():
            tracked.delivery.ack()
        else:
            log.error("a dead event cannot be recorded, and stays with its source")
        self._settled()

    def _settled(self) -> None:
        self._unsettled -= 1
        if not self._unsettled:
            self.wake()

    def wake(self) -> None:
        """Wake :meth:`wait_idle`, whatever is left."""
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)

    async def wait_idle(self, seconds: float) -> None:
        """Return when everything is settled, or after ``seconds``, or when :meth:`wake` is called."""
        if self._unsettled:
            self._idle = self._idle or asyncio.get_running_loop().create_future()
            await asyncio.wait({self._idle}, timeout=seconds)
