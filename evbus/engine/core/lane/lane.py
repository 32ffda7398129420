"""A lane: all that waits for one destination, with its states and its counters.

A lane runs by itself. That it is slow, hangs or fails is seen by no other lane.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from evbus.engine.core.lane.buffer import Buffer, Flight
from evbus.engine.core.lane.relay import Tracker
from evbus.engine.core.lane.retry import DeadLetter
from evbus.engine.core.lane.sender import Sender
from evbus.engine.core.lane.stats import Counters, LaneKey, LaneState, Latency
from evbus.engine.core.observe import Observers
from evbus.engine.core.queue import Queue
from evbus.engine.core.settings import DeliverySettings
from evbus.engine.kit.failure import about, trace
from evbus.engine.kit.redact import one_line, redact, said
from evbus.types import Envelope

__all__ = ["DeadLetter", "Lane", "LaneKey"]

log = logging.getLogger("evbus.lane")

#: Seconds between two looks at what can pass a listener that has as much as it may have.
PASSING = 0.05
#: Events from which on a look costs too much for doing it at once whenever something comes.
MANY = 2_000


class Lane:
    """Hold the events of one destination, and know what became of them.

    Who delivers them, in :mod:`evbus.engine.core.lane.worker`, takes them from here and settles them here.

    :param key: its name.
    :param sender: how to publish.
    :param delivery: the profile's delivery settings.
    :param queue: the bus's queue: its lock guards the counters, its bounds hold back producers.
    :param on_dead: called with the events given up, after they were counted.
    :param secrets: strings of the profile that must not appear in a log line.
    :param observers: told of what becomes of its events.
    :ivar closing: it is being closed, and nothing more is begun. A plugin may swallow the cancellation.
    :ivar at_once: sends what is queued without a worker; None unless a worker waits for events alone.
    :ivar failing: failures since the last delivery.
    :ivar waiting: workers that wait for a destination that is down.
    """

    def __init__(
        self,
        key: LaneKey,
        sender: Sender,
        delivery: DeliverySettings,
        queue: Queue,
        on_dead: Callable[[Lane, list[DeadLetter]], None],
        *,
        secrets: frozenset[str] = frozenset(),
        observers: Observers | None = None,
    ) -> None:
        self.key = key
        self.sender = sender
        self.delivery = delivery
        self.secrets = secrets
        self.buffer = Buffer(queue, delivery.buffer, drops=delivery.on_full == "drop_oldest")
        self.latency = Latency()
        self.tasks: list[asyncio.Task[None]] = []
        self.last_error = ""
        self.on_idle: Callable[[], None] | None = None
        self.tracker: Tracker | None = None
        self.stalled = False
        self.closing = False
        self.at_once: Callable[[], None] | None = None
        self.failing = 0
        self.waiting = 0
        self._observers = observers or Observers()
        self._queue = queue
        self._lock = queue.lock
        self._on_dead = on_dead
        self._passing: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Lane {self.key} {self.state} queued={len(self.buffer)}>"

    @property
    def counters(self) -> Counters:
        """What was accepted, and what became of it."""
        return self.buffer.counters

    @property
    def state(self) -> LaneState:
        """The state of the lane."""
        if self.closing:
            return "closed"
        if self.idle:
            return "idle"
        if self.waiting:
            return "waiting"
        return "retrying" if self.failing else "running"

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or in flight."""
        buffer = self.buffer
        return not len(buffer) and not buffer.counters.in_flight

    def snapshot(self) -> dict[str, Any]:
        """Return the counters; see :mod:`evbus.evbus.stats`. Needs the queue's lock to be exact."""
        return {
            **self.counters.as_dict(),
            "queued": len(self.buffer),
            "queued_bytes": self.buffer.size,
            "state": self.state,
            "last_error": self.last_error,
            "latency": self.latency.percentiles(),
        }

    # Taking events in

    def offer(self, events: list[Envelope], size: int) -> bool:
        """Queue ``events``, ``size`` bytes in all. Needs the queue's lock; never waits.

        Returns whether :meth:`deliver_now` should be called once the lock is released.
        """
        buffer = self.buffer
        dropped = buffer.append(events, size)
        if dropped:
            self._tell_dropped(len(dropped))
            if self.tracker is not None:
                self.tracker.done(dropped)
        at_once = self.sender.immediate or self.at_once is not None
        if at_once and not buffer.counters.in_flight and not self.failing:
            return True
        buffer.announce(len(events))
        if self.stalled:
            self._pass_later(0.0 if len(buffer) < MANY else PASSING)
        return False

    def deliver_now(self) -> None:
        """Deliver what is queued without a worker, if the destination takes it without waiting."""
        buffer, sender, most = self.buffer, self.sender, self.delivery.batch
        counters = buffer.counters
        if self.at_once is not None:
            if len(buffer) and not buffer.counters.in_flight:
                self.at_once()
            with self._lock:
                buffer.announce(len(buffer))
            return
        while len(buffer) and not counters.in_flight:
            flight = self.take(most)
            events = flight.events
            dropped = sender.send_nowait(events)
            if dropped is None:
                if sender.crowded:
                    self._stall(True)
                buffer.give_back(flight)
                return
            self.settle(flight, events, dropped=dropped)
        self.rest()

    def take(self, most: int) -> Flight:
        """Take the oldest events, at most ``most``.

        Of one destination while some cannot have more, so that none of what goes elsewhere waits with it.
        """
        return self.buffer.take(most, self.sender.routing_key if self.stalled else None)

    # Destinations in this process that have as much as they may have

    def _stall(self, stalled: bool) -> None:
        """Hold back who sends what goes here, or do so no longer."""
        if stalled != self.stalled:
            self.stalled = stalled
            self._queue.stall(1 if stalled else -1)
            if stalled:
                self._pass_later(0.0)
            elif self._passing is not None:
                self._passing.cancel()
                self._passing = None

    def _pass_later(self, seconds: float) -> None:
        passing = self._passing
        if passing is None or seconds == 0.0:
            if passing is not None:
                passing.cancel()
            self._passing = asyncio.get_running_loop().call_later(seconds, self._pass)

    def _pass(self) -> None:
        """Deliver what waits behind a listener that has as much as it may have, and goes to others.

        That one may be waiting for what they do. The events of one routing key stay in their order.
        """
        self._passing = None
        if not self.stalled or self.closing:
            return
        with self._lock:
            key_of = self.sender.routing_key
            behind = set(map(key_of, self.buffer.taken()))
            runs: dict[str, list[Envelope]] = {}
            for event in self.buffer:
                key = key_of(event)
                if key not in behind:
                    runs.setdefault(key, []).append(event)
            for events in runs.values():
                self._pass_run(events)
        if self.idle:
            self.rest()  # no worker has anything to do with it any more
        else:
            self._pass_later(PASSING)

    def _pass_run(self, events: list[Envelope]) -> None:
        """Deliver the first of what waits for one destination, as much as there is room for."""
        passed: list[Envelope] = []
        dropped = 0
        for first in range(0, len(events), self.delivery.batch):
            part = events[first : first + self.delivery.batch]
            gave_way = self.sender.send_nowait(part)
            if gave_way is None:
                break
            passed += part
            dropped += gave_way
        if passed:
            self.buffer.settle(self.buffer.pick(passed), passed, dropped=dropped)
            self._arrived(passed, dropped)

    # What became of them

    def settle(
        self,
        flight: Flight,
        delivered: list[Envelope],
        dead: Sequence[DeadLetter] = (),
        retried: int = 0,
        dropped: int = 0,
    ) -> None:
        """Count, and tell, what became of events of a flight; see :meth:`Buffer.settle`."""
        if not self.buffer.settle(flight, delivered, dead, retried, dropped):
            return  # The lane was closed while a plugin did not end: these were counted as dead.
        if delivered:
            self._arrived(delivered, dropped)
            if self.failing and not retried:
                log.warning("lane %s: delivers again", self.key)
                self.failing = 0
        if dead:
            self.last_error = self.reason(dead[-1].reason)
            self._on_dead(self, list(dead))
            if self.tracker is not None:
                self.tracker.done((letter.event for letter in dead), died=True)

    def _arrived(self, delivered: list[Envelope], dropped: int) -> None:
        self.latency.sample(delivered, time.monotonic())
        if self._observers.delivered is not None:
            self._observers.delivered(self.key, delivered)
        if dropped:
            self._tell_dropped(dropped)
        if self.tracker is not None:
            self.tracker.done(delivered)

    def _tell_dropped(self, count: int) -> None:
        if self._observers.dropped is not None:
            self._observers.dropped(self.key, count)

    def rest(self) -> None:
        """Note that whoever delivers has nothing in flight any more."""
        if self.stalled and not len(self.buffer):
            self._stall(False)
        if self.on_idle is not None and self.idle:
            self.on_idle()

    def stand(self, flight: Flight, events: list[Envelope]) -> None:
        """Note that these events of a flight are not being sent: they are taken back when they come again."""
        flight.standing = events
        if self.tracker is not None and any(map(self.tracker.gone, events)):
            # What they came over has ended while they were being sent.
            self.tracker.done(self.buffer.withdraw(self.tracker.gone))

    def reason(self, problem: BaseException) -> str:
        """Describe a failure, in one line and without the profile's secrets."""
        return said(problem, self.secrets)

    def fails(self, problem: BaseException, what: str, again: int = 0) -> None:
        """Note a failure. The first since a delivery is logged; at DEBUG each is, with its traceback.

        :param again: how many events are tried again.
        """
        self.last_error = self.reason(problem)
        self.failing += 1
        if self.failing == 1:
            details = about(problem, self.last_error)
            log.warning("lane %s: %s is tried again: %s%s", self.key, what, self.last_error, details)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("lane %s: %s is tried again\n%s", self.key, what, trace(problem, self.secrets))
        if again and self._observers.retried is not None:
            self._observers.retried(self.key, problem, again)

    async def wait(self, why: str, until: Awaitable[None]) -> None:
        """Wait for a destination that is down; no attempt is counted."""
        self.last_error = one_line(redact(why, self.secrets))
        self.waiting += 1
        try:
            await until
        finally:
            self.waiting -= 1

    # Ending

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cancel the workers and return them; :meth:`close` once they ended or took too long."""
        self.closing = True
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            task.cancel()
        return tasks

    def close(self) -> list[tuple[Envelope, int]]:
        """Return the events that were not delivered, in order, with their attempts; they are counted as dead.

        The outcome of what was in flight is unknown: its destination may have it. What came from a source
        that has it still goes back there, and counts as never accepted.
        """
        self.closing = True
        self._stall(False)
        with self._lock:
            # What is in flight is being sent, unless its destination is down.
            left = self.buffer.close(0 if self.waiting else 1)
            if self.tracker is not None:
                own = set(map(id, self.tracker.give_back([event for event, _ in left])))
                self.counters.accepted -= len(left) - len(own)
                left = [(event, tries) for event, tries in left if id(event) in own]
            self.counters.dead += len(left)
        return left
