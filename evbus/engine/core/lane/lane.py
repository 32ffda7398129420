"""A lane: one destination's own buffer, its workers, its retries and its counters.

A lane runs by itself. That it is slow, hangs or fails is seen by no other lane.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from evbus.engine.core.broker import HANDLING
from evbus.engine.core.lane.overlap import LaneCallbacks, Overlap
from evbus.engine.core.lane.relay import Tracker
from evbus.engine.core.lane.retry import DeadLetter, Outcome, blamed, sort, without
from evbus.engine.core.lane.sender import Sender
from evbus.engine.core.lane.stats import Counters, LaneKey, LaneState, Latency
from evbus.engine.core.lane.turns import Turns
from evbus.engine.core.observe import Observers
from evbus.engine.core.queue import Queue
from evbus.engine.core.settings import DeliverySettings
from evbus.engine.kit.backoff import backoff
from evbus.engine.kit.failure import about, trace
from evbus.engine.kit.redact import one_line, redact, said
from evbus.engine.kit.waiting import failure_of, running
from evbus.engine.kit.weight import size_of
from evbus.errors import ConnectionLost
from evbus.types import Envelope

__all__ = ["DeadLetter", "Lane", "LaneKey", "LaneState"]

log = logging.getLogger("evbus.lane")

#: Stands for a worker in what is delivered without one.
NO_WORKER = -1
#: Seconds until a worker that failed by a fault of the bus itself is started again.
RESTART = 1.0
#: Seconds between two looks at what can pass a listener that has as much as it may have.
PASSING = 0.05
#: Events from which on a look costs too much for doing it at once whenever something comes.
MANY = 2_000


class Lane:
    """Deliver events to one destination.

    :param key: its name.
    :param sender: how to publish.
    :param delivery: the profile's delivery settings.
    :param queue: the bus's queue: its lock guards the counters, its bounds hold back producers.
    :param on_dead: called with the events given up, after they were counted.
    :param secrets: strings of the profile that must not appear in a log line.
    :param observers: told of what becomes of its events.
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
        self.delivery = delivery
        self.counters = Counters()
        self.latency = Latency()
        self.last_error = ""
        self.on_idle: Callable[[], None] | None = None
        self.tracker: Tracker | None = None
        self._observers = observers or Observers()
        self._sender = sender
        self._turns = Turns()
        self._queue = queue
        self._lock = queue.lock
        self._on_dead = on_dead
        self.secrets = secrets
        self._pending: deque[Envelope] = deque()
        self._pending_size = 0
        self._held = 0
        self._flying_size = 0
        # The bytes that the queue knows of.
        self._weighed = 0
        self.stalled = False
        self._flying: dict[int, list[Envelope]] = {}
        # How often those in flight were tried that are tried again, by their identity.
        self._tried: dict[int, dict[int, int]] = {}
        # Those in flight that a worker only waits with, by its number: they are not being sent.
        self._standing: dict[int, list[Envelope]] = {}
        self._sizes: dict[int, int] = {}
        self._sleepers: deque[asyncio.Future[None]] = deque()
        self._workers: list[asyncio.Task[None]] = []
        # The task that each worker works in.
        self._tasks: dict[int, asyncio.Task[Any]] = {}
        self._failing = 0
        self._waiting = 0
        self._closing = False
        self._passing: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Lane {self.key} {self.state.value} queued={len(self._pending)}>"

    @property
    def state(self) -> LaneState:
        """The state of the lane."""
        if self._closing:
            return LaneState.CLOSED
        if self.idle:
            return LaneState.IDLE
        if self._waiting:
            return LaneState.WAITING
        return LaneState.RETRYING if self._failing else LaneState.RUNNING

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or in flight."""
        return not self._pending and not self.counters.in_flight

    def snapshot(self) -> dict[str, Any]:
        """Return the counters; see :mod:`evbus.evbus.stats`. Needs the queue's lock to be exact."""
        return {
            **self.counters.as_dict(),
            "queued": len(self._pending),
            "queued_bytes": self._pending_size,
            "state": self.state.value,
            "last_error": self.last_error,
            "latency": self.latency.percentiles(),
        }

    # Taking events in

    def offer(self, events: list[Envelope], size: int) -> bool:
        """Queue ``events``, ``size`` bytes in all. Needs the queue's lock; never waits.

        Returns whether :meth:`deliver_now` should be called once the lock is released.
        """
        pending = self._pending
        pending.extend(events)
        self._pending_size += size
        self.counters.accepted += len(events)
        excess = len(pending) - self.delivery.buffer
        if excess > 0:
            self._overflow(excess)
        if self._sender.immediate and not self.counters.in_flight and not self._failing:
            return True
        self._weigh()
        self._wake(len(events))
        if self.stalled:
            self._pass_later(0.0 if len(pending) < MANY else PASSING)
        return False

    def _weigh(self) -> None:
        """Tell the queue how many bytes are here, which count against its bound. Needs its lock."""
        size = self._pending_size + self._flying_size
        if size != self._weighed:
            change, self._weighed = size - self._weighed, size
            self._queue.weigh(change)

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
        if not self.stalled or self._closing:
            return
        with self._lock:
            key_of = self._sender.routing_key
            behind = {key_of(event) for flying in self._flying.values() for event in flying}
            runs: dict[str, list[Envelope]] = {}
            for event in self._pending:
                key = key_of(event)
                if key not in behind:
                    runs.setdefault(key, []).append(event)
            for events in runs.values():
                self._pass_run(events)
        self._pass_later(PASSING)

    def _pass_run(self, events: list[Envelope]) -> None:
        """Deliver the first of what waits for one destination, as much as there is room for."""
        passed: list[Envelope] = []
        dropped = 0
        for first in range(0, len(events), self.delivery.batch):
            part = events[first : first + self.delivery.batch]
            gave_way = self._sender.send_nowait(part)
            if gave_way is None:
                break
            passed += part
            dropped += gave_way
        if not passed:
            return
        kept = without(list(self._pending), passed)
        self._pending.clear()
        self._pending.extend(kept)
        size = size_of(passed)
        self._pending_size -= size
        self.counters.delivered += len(passed) - dropped
        self.counters.dropped += dropped
        self.counters.delivered_bytes += size
        self.latency.sample(passed, time.monotonic())
        self._tell(passed, dropped)
        if self.tracker is not None:
            self.tracker.done(passed)
        self._release()
        self._weigh()

    def _wake(self, events: int) -> None:
        while events and self._sleepers:
            sleeper = self._sleepers.popleft()
            if not sleeper.done():
                sleeper.set_result(None)
                events -= 1

    def deliver_now(self) -> None:
        """Deliver what is queued without a worker, if the destination takes it without waiting."""
        while self._pending and not self.counters.in_flight:
            batch = self._take(NO_WORKER, self.delivery.batch)
            dropped = self._sender.send_nowait(batch)
            if dropped is not None:
                self._settle(NO_WORKER, batch, [], 0, dropped)
            else:
                self._return(NO_WORKER)
                if self._sender.crowded:
                    self._stall(True)
                self._wake(len(self._pending))
                return
        if self.on_idle is not None and self.idle:
            self.on_idle()

    def _overflow(self, excess: int) -> None:
        if self.delivery.on_full == "drop_oldest":
            dropped = [self._pending.popleft() for _ in range(excess)]
            self._pending_size -= size_of(dropped)
            self.counters.dropped += excess
            self._tell([], excess)
            if self.tracker is not None:
                self.tracker.done(dropped)
            return
        new = excess - self._held
        self._held += new
        self._queue.hold(new)

    def _release(self) -> None:
        released = self._held - max(0, len(self._pending) - self.delivery.buffer)
        if released <= 0:
            return
        self._held -= released
        self._queue.hold(-released)
        self._queue.wake()

    def withdraw(self, gone: Callable[[Envelope], bool]) -> list[Envelope]:
        """Take back what is not being sent and comes again from its source: it counts as never accepted.

        Needs the queue's lock.
        """
        found = [event for event in self._pending if gone(event)]
        if found:
            kept = without(list(self._pending), found)
            self._pending.clear()
            self._pending.extend(kept)
            self._pending_size -= size_of(found)
        for worker in self._standing:
            found += self._give_up(worker, gone)
        if found:
            self.counters.accepted -= len(found)
            self._release()
            self._weigh()
        return found

    def _give_up(self, worker: int, gone: Callable[[Envelope], bool]) -> list[Envelope]:
        """Take from a worker what it only waits with, and comes again. Needs the queue's lock."""
        standing = set(map(id, self._standing[worker]))
        flying = self._flying.get(worker, [])
        found = [event for event in flying if id(event) in standing and gone(event)]
        if found:
            self._flying[worker] = without(flying, found)
            size = size_of(found)
            self._sizes[worker] -= size
            self._flying_size -= size
            self.counters.in_flight -= len(found)
            tried = self._tried.get(worker, {})
            for event in found:
                tried.pop(id(event), None)
        return found

    def _stand(self, worker: int, events: list[Envelope]) -> None:
        """Note that a worker only waits with events: they are taken back when they come again."""
        self._standing[worker] = events
        if self.tracker is not None and any(self.tracker.gone(event) for event in events):
            # What they came over has ended while they were being sent.
            with self._lock:
                found = self.withdraw(self.tracker.gone)
            self.tracker.withdrawn(found)

    async def _stand_by(
        self, worker: int, left: list[Envelope], tries: list[int], until: Awaitable[None]
    ) -> tuple[list[Envelope], list[int]]:
        """Await something with events that are not being sent; return those that are still wanted."""
        behind = self._standing.get(worker, [])
        self._stand(worker, [*left, *behind])
        try:
            await until
        finally:
            if behind:
                self._standing[worker] = behind
            else:
                self._standing.pop(worker, None)
        flying = set(map(id, self._flying.get(worker, ())))
        wanted = [pair for pair in zip(left, tries) if id(pair[0]) in flying]  # noqa: B905 - one each
        return [event for event, _ in wanted], [count for _, count in wanted]

    def _take(self, worker: int, most: int) -> list[Envelope]:
        with self._lock:
            pending = self._pending
            if self.stalled:
                # Of one destination, so that none of what goes elsewhere waits with it.
                most = self._alike(most)
            if len(pending) <= most:
                batch = list(pending)
                pending.clear()
                size = self._pending_size
            else:
                batch = [pending.popleft() for _ in range(most)]
                size = size_of(batch)
            self._pending_size -= size
            self._flying_size += size
            self._sizes[worker] = size
            self.counters.in_flight += len(batch)
            self._flying[worker] = batch
            if self._tried:
                self._tried.pop(worker, None)
            if self._held:
                self._release()
        return batch

    def _alike(self, most: int) -> int:
        """Count the events at the front that have the routing key of the first, at most ``most``."""
        key_of = self._sender.routing_key
        first, count = None, 0
        for event in itertools.islice(self._pending, most):
            key = key_of(event)
            if first is None:
                first = key
            if key != first:
                break
            count += 1
        return max(1, count)

    # Running

    def start(self) -> None:
        """Start the workers in the running loop."""
        loop = asyncio.get_running_loop()
        self._closing = False
        for worker in range(self.delivery.concurrency):
            task = loop.create_task(self._supervise(worker), name=f"evbus lane {self.key} {worker}")
            self._workers.append(task)

    async def _supervise(self, worker: int) -> None:
        task = running()
        assert task is not None
        self._tasks[worker] = task
        while not self._closing:
            try:
                await self._work(worker)
            except BaseException as exc:
                # Whatever it is, as of a plugin's ready(): the lane must not stand.
                failure_of(exc, task if running() is task else None)
                log.exception("lane %s: the worker failed and is started again", self.key)
                for flight in sorted(self._flying, reverse=True) if self._overlaps else (worker,):
                    self._return(flight)
                await asyncio.sleep(RESTART)

    def _return(self, worker: int) -> None:
        """Put what a worker had in flight back to the head of the lane."""
        with self._lock:
            batch = self._flying.pop(worker, [])
            self._standing.pop(worker, None)
            self.counters.in_flight -= len(batch)
            self._pending.extendleft(reversed(batch))
            size = size_of(batch)
            self._pending_size += size
            self._flying_size -= size
            excess = len(self._pending) - self.delivery.buffer
            if excess > self._held and self.delivery.on_full != "drop_oldest":
                self._overflow(excess)
            self._weigh()

    async def _work(self, worker: int) -> None:
        # A plugin that puts events itself must not wait for room that the end of its own call makes.
        HANDLING.set(asyncio.current_task())
        # Without publish_batch one event is taken at a time, so that what is in flight is being sent.
        most = self.delivery.batch if self._sender.batching else 1
        if self._overlaps:
            await self._overlap(most)
        # A plugin may swallow the cancellation that close() begins with, and return.
        while not self._closing:
            if not self._pending:
                await self._arrival()
                continue
            batch = self._take(worker, most)
            await self._deliver(worker, batch, [0] * len(batch))
            if self.stalled and not self._pending:
                self._stall(False)
            if self.on_idle is not None and self.idle:
                self.on_idle()

    def _arrival(self) -> asyncio.Future[None]:
        """Return a future that is done when an event is queued."""
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append(sleeper)
        # Looked at again, as a finalizer may have put an event before there was a sleeper.
        if self._pending and not sleeper.done():
            sleeper.set_result(None)
        return sleeper

    @property
    def _overlaps(self) -> bool:
        return self._sender.overlap and self.delivery.concurrency == 1

    async def _overlap(self, most: int) -> None:
        async def land(flight: int, events: list[Envelope], outcomes: Sequence[Outcome]) -> None:
            if self._standing.pop(flight, None):
                flying = set(map(id, self._flying.get(flight, ())))
                left = [pair for pair in zip(events, outcomes) if id(pair[0]) in flying]  # noqa: B905 - one each
                events, outcomes = [event for event, _ in left], [outcome for _, outcome in left]
            await self._deliver(flight, events, [0] * len(events), outcomes)
            if self._closing:
                return  # what is left of it is told by close()
            self._flying.pop(flight, None)
            self._sizes.pop(flight, None)
            if self.on_idle is not None and self.idle:
                self.on_idle()

        callbacks = LaneCallbacks(
            going=lambda: not self._closing,
            room=lambda: min(most, 2 * most - self.counters.in_flight),
            waiting=lambda: bool(self._pending),
            take=self._take,
            send=lambda events, turn: self._sender.send(events, None, turn),
            land=land,
            stand=self._stand,
            note=lambda flight, delivered: self._settle(flight, delivered, [], 0),
            arrival=self._arrival,
            not_ready=self._sender.not_ready,
            wait=self._wait,
        )
        await Overlap(callbacks).run()

    async def _ready(
        self, worker: int, left: list[Envelope], tries: list[int]
    ) -> tuple[list[Envelope], list[int]]:
        """Wait for a destination that is down; return what is to be sent then."""
        while (waiting := self._sender.not_ready()) is not None:
            left, tries = await self._stand_by(worker, left, tries, self._wait(*waiting))
        return left, tries

    async def _deliver(
        self,
        worker: int,
        left: list[Envelope],
        tries: list[int],
        outcomes: Sequence[Outcome] | None = None,
        *,
        broke: bool = False,
    ) -> None:
        """Publish ``left``, tried ``tries`` times before; ``outcomes`` are those of a first try, if made.

        :param broke: the connection broke when they were sent the last time.
        """
        rounds = 0
        while left:
            if outcomes is None:
                if self._closing:
                    return
                left, tries = await self._ready(worker, left, tries)
                if not left:
                    return
                if rounds or tries[0]:
                    self._note_tries(worker, left, [count + 1 for count in tries])
                outcomes = await self._turns.take(
                    self._sender.send, left, self._tasks.get(worker), alone=broke and len(left) == 1
                )
            if outcomes.count(None) == len(left):
                self._settle(worker, left, [], 0)
                return
            rounds += 1
            spare = blamed(outcomes, broke=broke)
            found = sort(left, tries, outcomes, self.delivery.retry.attempts, spare=spare, broke=broke)
            left, tries = found.again, found.tries
            self._settle(worker, found.delivered, found.dead, len(left))
            if not left or self._closing:
                return
            self._note_tries(worker, left, tries)
            self._failed(outcomes, len(left))
            broke = broke or any(isinstance(outcome, ConnectionLost) for outcome in outcomes)
            outcomes = None
            left, tries = await self._stand_by(worker, left, tries, self._pause(rounds, found.wait))
            if spare:
                while left:
                    alone = self._deliver(worker, left[:1], tries[:1], broke=broke)
                    left, tries = await self._stand_by(worker, left[1:], tries[1:], alone)
                return

    def _note_tries(self, worker: int, events: list[Envelope], tries: list[int]) -> None:
        self._tried.setdefault(worker, {}).update(zip(map(id, events), tries))  # noqa: B905 - equal

    def _settle(
        self, worker: int, delivered: list[Envelope], dead: list[DeadLetter], retried: int, dropped: int = 0
    ) -> None:
        """Count what became of events in flight.

        :param dropped: how many gave way at their destination, which is in this process: these, or others
            that were delivered before.
        """
        counters = self.counters
        with self._lock:
            flying = self._flying.get(worker)
            if flying is None:
                return  # The lane was closed while a plugin did not end: these were counted as dead.
            counters.in_flight -= len(delivered) + len(dead)
            counters.delivered += len(delivered) - dropped
            counters.dropped += dropped
            whole = len(delivered) == len(flying)
            size = self._sizes[worker] if whole else size_of(delivered)
            counters.delivered_bytes += size
            counters.dead += len(dead)
            counters.retried += retried
            if whole:
                self._flying[worker] = []
            else:
                gone = [*delivered, *(entry.event for entry in dead)] if dead else delivered
                self._flying[worker] = without(flying, gone)
                size = size_of(gone) if dead else size
                self._sizes[worker] -= size
            self._flying_size -= size
            if self._weighed:
                self._weigh()
        if delivered:
            self.latency.sample(delivered, time.monotonic())
            if dropped or self._observers.delivered is not None:
                self._tell(delivered, dropped)
            if self._failing and not retried:
                log.warning("lane %s: delivers again", self.key)
                self._failing = 0
        if dead:
            self.last_error = self.reason(dead[-1].reason)
            self._on_dead(self, dead)
        if self.tracker is not None:
            self.tracker.done(delivered)
            self.tracker.died(entry.event for entry in dead)

    def _tell(self, delivered: list[Envelope], dropped: int) -> None:
        if self._observers.delivered is not None and delivered:
            self._observers.delivered(self.key, delivered)
        if self._observers.dropped is not None and dropped:
            self._observers.dropped(self.key, dropped)

    def reason(self, problem: BaseException) -> str:
        """Describe a failure, in one line and without the profile's secrets."""
        return said(problem, self.secrets)

    def _failed(self, outcomes: Sequence[Outcome], again: int) -> None:
        problem = next(outcome for outcome in outcomes if outcome is not None)
        self.fails(problem, "publishing fails and")
        if self._observers.retried is not None:
            self._observers.retried(self.key, problem, again)

    def fails(self, problem: BaseException, what: str) -> None:
        """Note a failure. The first since a delivery is logged; at DEBUG each is, with its traceback."""
        self.last_error = self.reason(problem)
        self._failing += 1
        if self._failing == 1:
            details = about(problem, self.last_error)
            log.warning("lane %s: %s is tried again: %s%s", self.key, what, self.last_error, details)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("lane %s: %s is tried again\n%s", self.key, what, trace(problem, self.secrets))

    async def _wait(self, why: str, until: Awaitable[None]) -> None:
        """Wait for a destination that is down; no attempt is counted."""
        self.last_error = one_line(redact(why, self.secrets))
        self._waiting += 1
        try:
            await until
        finally:
            self._waiting -= 1

    async def _pause(self, rounds: int, least: float) -> None:
        retry = self.delivery.retry
        await asyncio.sleep(max(least, backoff(rounds, retry.min, retry.max)))

    # Ending

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cancel the workers and return them; :meth:`close` once they ended or took too long."""
        self._closing = True
        workers, self._workers = self._workers, []
        for task in workers:
            task.cancel()
        return workers

    def close(self) -> list[tuple[Envelope, int]]:
        """Return the events that were not delivered, in order, with their attempts; they are counted as dead.

        The outcome of what was in flight is unknown: its destination may have it. What came from a source
        that has it still goes back there, and counts as never accepted.
        """
        self._closing = True
        self._stall(False)
        with self._lock:
            left = [event for worker in sorted(self._flying) for event in self._flying[worker]]
            # What is in flight is being sent, unless its destination is down.
            first = 0 if self._waiting else 1
            tries = dict.fromkeys(map(id, left), first)
            for tried in self._tried.values():
                tries.update((event, count) for event, count in tried.items() if event in tries)
            left.extend(self._pending)
            self._flying.clear()
            self._tried.clear()
            self._standing.clear()
            self._pending.clear()
            self._pending_size = self._flying_size = 0
            self.counters.in_flight = 0
            self._weigh()
            if self.tracker is not None:
                own = self.tracker.give_back(left)
                self.counters.accepted -= len(left) - len(own)
                left = own
            self.counters.dead += len(left)
            self._release()
        return [(event, tries.get(id(event), 0)) for event in left]
