"""A lane: one destination's own buffer, its workers, its retries and its counters.

A lane runs by itself. That it is slow, hangs or fails is seen by no other lane.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from evbus.errors import Rejected, Unavailable
from evbus.redact import one_line, redact
from evbus.types import Envelope

from ._queue import Queue
from ._sender import Outcome, Sender
from ._settings import Delivery
from ._stats import Counters, Latency

__all__ = ["Dead", "Lane", "LaneKey", "LaneState", "backoff"]

log = logging.getLogger("evbus.lane")

#: Stands for a worker in what is delivered without one.
NO_WORKER = -1


class LaneKey(NamedTuple):
    """What a lane is called: ``plugin.provider.profile``."""

    plugin: str
    provider: str
    profile: str

    def __str__(self) -> str:
        return ".".join(self)


class LaneState(Enum):
    """What a lane is doing, as the operator sees it."""

    IDLE = "idle"
    RUNNING = "running"
    RETRYING = "retrying"
    CLOSED = "closed"


class Dead(NamedTuple):
    """An event given up: why, and after how many tries."""

    event: Envelope
    reason: BaseException
    attempts: int


def backoff(failures: int, least: float, most: float) -> float:
    """Return the seconds to wait after ``failures`` (1 or more): full jitter below a doubling bound."""
    return random.uniform(0, min(most, least * 2 ** min(failures - 1, 32)))  # noqa: S311 - no secret


def _failed_as_one(events: list[Envelope], outcomes: list[Outcome]) -> bool:
    """Return whether a call failed as a whole, perhaps for the sake of a single event.

    Sent alone, that event is found and the others are delivered. A destination that is down for all of
    them is no such case.
    """
    first = outcomes[0]
    if len(events) < 2 or len(outcomes) < len(events) or isinstance(first, Unavailable):
        return False
    return all(outcome is first for outcome in outcomes)


def _without(events: list[Envelope], delivered: list[Envelope], dead: list[Dead]) -> list[Envelope]:
    gone = {id(event) for event in delivered}
    gone.update(id(entry.event) for entry in dead)
    return [event for event in events if id(event) not in gone]


def _size(events: list[Envelope]) -> int:
    return sum([len(event.body) for event in events])


class Lane:
    """Deliver events to one destination.

    :param key: its name.
    :param sender: how to publish.
    :param delivery: the profile's delivery settings.
    :param queue: the bus's queue: its lock guards the counters, its bounds hold back producers.
    :param on_dead: called with the events given up, after they were counted.
    :param secrets: strings of the profile that must not appear in a log line.
    """

    def __init__(
        self,
        key: LaneKey,
        sender: Sender,
        delivery: Delivery,
        queue: Queue,
        on_dead: Callable[[Lane, list[Dead]], None],
        *,
        secrets: frozenset[str] = frozenset(),
    ) -> None:
        self.key = key
        self.delivery = delivery
        self.counters = Counters()
        self.latency = Latency()
        self.last_error = ""
        self.on_idle: Callable[[], None] | None = None
        self._sender = sender
        self._queue = queue
        self._lock = queue.lock
        self._on_dead = on_dead
        self.secrets = secrets
        self._pending: deque[Envelope] = deque()
        self._pending_size = 0
        self._held = 0
        self._held_size = 0
        self._flying: dict[int, list[Envelope]] = {}
        self._sizes: dict[int, int] = {}
        self._sleepers: deque[asyncio.Future[None]] = deque()
        self._workers: list[asyncio.Task[None]] = []
        self._failing = 0
        self._closing = False

    def __repr__(self) -> str:
        return f"<Lane {self.key} {self.state.value} queued={len(self._pending)}>"

    @property
    def state(self) -> LaneState:
        """What the lane is doing."""
        if self._closing:
            return LaneState.CLOSED
        if self._failing:
            return LaneState.RETRYING
        return LaneState.IDLE if self.idle else LaneState.RUNNING

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
        self._wake(len(events))
        return False

    def _wake(self, events: int) -> None:
        for _ in range(min(len(self._sleepers), events)):
            sleeper = self._sleepers.popleft()
            if not sleeper.done():
                sleeper.set_result(None)

    def deliver_now(self) -> None:
        """Deliver what is queued without a worker, if the destination takes it without waiting."""
        while self._pending and not self.counters.in_flight:
            batch = self._take(NO_WORKER, self.delivery.batch)
            if self._sender.send_nowait(batch):
                self._settle(NO_WORKER, batch, [], 0)
            else:
                self._return(NO_WORKER)
                self._wake(len(self._pending))
                return
        if self.on_idle is not None and self.idle:
            self.on_idle()

    def _overflow(self, excess: int) -> None:
        if self.delivery.on_full == "drop_oldest":
            dropped = [self._pending.popleft() for _ in range(excess)]
            self._pending_size -= _size(dropped)
            self.counters.dropped += excess
            return
        new = excess - self._held
        size = _size([self._pending[-index] for index in range(1, new + 1)])
        self._held += new
        self._held_size += size
        self._queue.hold(new, size)

    def _release(self) -> None:
        released = self._held - max(0, len(self._pending) - self.delivery.buffer)
        if released <= 0:
            return
        size = self._held_size if released == self._held else self._held_size * released // self._held
        self._held -= released
        self._held_size -= size
        self._queue.hold(-released, -size)
        self._queue.wake()

    def _take(self, worker: int, most: int) -> list[Envelope]:
        with self._lock:
            pending = self._pending
            if len(pending) <= most:
                batch = list(pending)
                pending.clear()
                size = self._pending_size
            else:
                batch = [pending.popleft() for _ in range(most)]
                size = _size(batch)
            self._pending_size -= size
            self._sizes[worker] = size
            self.counters.in_flight += len(batch)
            self._flying[worker] = batch
            if self._held:
                self._release()
        return batch

    # Running

    def start(self) -> None:
        """Start the workers in the running loop."""
        loop = asyncio.get_running_loop()
        self._closing = False
        for worker in range(self.delivery.concurrency):
            task = loop.create_task(self._supervise(worker), name=f"evbus lane {self.key} {worker}")
            self._workers.append(task)

    async def _supervise(self, worker: int) -> None:
        while True:
            try:
                await self._work(worker)
            except Exception:
                log.exception("lane %s: the worker failed and is started again", self.key)
            self._return(worker)
            await asyncio.sleep(1)

    def _return(self, worker: int) -> None:
        """Put what a worker had in flight back to the head of the lane."""
        with self._lock:
            batch = self._flying.pop(worker, [])
            self.counters.in_flight -= len(batch)
            self._pending.extendleft(reversed(batch))
            self._pending_size += _size(batch)

    async def _work(self, worker: int) -> None:
        # Without publish_batch one event is taken at a time: what waits stays in the lane's order and
        # what is in flight is what is being sent.
        most = self.delivery.batch if self._sender.batching else 1
        loop = asyncio.get_running_loop()
        while True:
            if not self._pending:
                sleeper: asyncio.Future[None] = loop.create_future()
                self._sleepers.append(sleeper)
                await sleeper
                continue
            batch = self._take(worker, most)
            await self._deliver(worker, batch, [0] * len(batch))
            if self.on_idle is not None and self.idle:
                self.on_idle()

    async def _deliver(self, worker: int, left: list[Envelope], tries: list[int]) -> None:
        """Publish ``left``, which was tried ``tries`` times before, until none of it is left."""
        rounds = 0
        while left:
            outcomes = await self._sender.send(left)
            if outcomes.count(None) == len(left):
                self._settle(worker, left, [], 0)
                return
            rounds += 1
            alone = _failed_as_one(left, outcomes)
            left, tries, wait = self._sort(worker, left, tries, outcomes, spare=alone)
            if not left:
                return
            self._failed(outcomes)
            await self._pause(rounds, wait)
            if alone:
                for event, count in zip(left, tries):  # noqa: B905 - equal by construction
                    await self._deliver(worker, [event], [count])
                return

    def _sort(
        self, worker: int, left: list[Envelope], tries: list[int], outcomes: list[Outcome], *, spare: bool
    ) -> tuple[list[Envelope], list[int], float]:
        """Settle what was delivered or is dead; return what to try again and the least pause.

        With ``spare`` nothing dies in this round: every event has a try of its own to come.
        """
        delivered: list[Envelope] = []
        dead: list[Dead] = []
        again: list[Envelope] = []
        counts: list[int] = []
        most = self.delivery.retry.attempts
        wait = 0.0
        for event, tried, outcome in zip(left, tries, outcomes):  # noqa: B905 - outcomes may be shorter
            if outcome is None:
                delivered.append(event)
                continue
            counted = not isinstance(outcome, Unavailable)
            count = tried + counted
            if not counted:
                wait = max(wait, outcome.retry_after)  # type: ignore[attr-defined]
            elif spare:
                count = min(count, most - 1) if most else count
            elif isinstance(outcome, Rejected) or (most and count >= most):
                dead.append(Dead(event, outcome, count))
                continue
            again.append(event)
            counts.append(count)
        self._settle(worker, delivered, dead, len(again))
        again.extend(left[len(outcomes) :])
        counts.extend(tries[len(outcomes) :])
        return again, counts, wait

    def _settle(self, worker: int, delivered: list[Envelope], dead: list[Dead], retried: int) -> None:
        counters = self.counters
        with self._lock:
            counters.in_flight -= len(delivered) + len(dead)
            counters.delivered += len(delivered)
            flying = self._flying[worker]
            whole = len(delivered) == len(flying)
            counters.delivered_bytes += self._sizes[worker] if whole else _size(delivered)
            counters.dead += len(dead)
            counters.retried += retried
            self._flying[worker] = [] if whole else _without(flying, delivered, dead)
            self._sizes[worker] = 0 if whole else _size(self._flying[worker])
        if delivered:
            self.latency.sample(delivered, time.monotonic())
            if self._failing and not retried:
                log.info("lane %s: delivers again", self.key)
                self._failing = 0
        if dead:
            self.last_error = self._reason(dead[-1].reason)
            self._on_dead(self, dead)

    def _reason(self, problem: BaseException) -> str:
        text = str(problem) or type(problem).__name__
        return one_line(redact(text, self.secrets))

    def _failed(self, outcomes: list[Outcome]) -> None:
        problem = next(outcome for outcome in outcomes if outcome is not None)
        self.last_error = self._reason(problem)
        self._failing += 1
        if self._failing == 1:
            log.warning("lane %s: publishing fails and is tried again: %s", self.key, self.last_error)

    async def _pause(self, rounds: int, least: float) -> None:
        retry = self.delivery.retry
        await asyncio.sleep(max(least, backoff(rounds, retry.min, retry.max)))

    # Ending

    async def close(self, patience: float) -> list[Envelope]:
        """Stop the workers; return what was not delivered, counted as dead, in order.

        A cancelled publish has ``patience`` seconds to end.

        The outcome of what was in flight is unknown: its destination may have it.
        """
        self._closing = True
        for task in self._workers:
            task.cancel()
        if self._workers:
            _, stuck = await asyncio.wait(self._workers, timeout=patience)
            if stuck:
                log.error("lane %s: the plugin's publish does not end when it is cancelled", self.key)
        self._workers.clear()
        with self._lock:
            left = [event for worker in sorted(self._flying) for event in self._flying[worker]]
            left.extend(self._pending)
            self._flying.clear()
            self._pending.clear()
            self._pending_size = 0
            self.counters.in_flight = 0
            self.counters.dead += len(left)
            self._release()
        return left
