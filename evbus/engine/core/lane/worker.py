"""The workers of a lane: each takes events, sends them, and tries again what failed until nothing is left.

One that may hands over a batch while the one before still waits for its answers: to wait out each costs a
round trip, and a disk's flush, between any two batches. Batches begin, and end, in the order of their events.
When one fails, those behind it are waited for, and nothing more is sent until all of it was dealt with: its
events come before theirs.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from evbus.engine.core.broker import HANDLING
from evbus.engine.core.lane.buffer import Flight
from evbus.engine.core.lane.lane import Lane
from evbus.engine.core.lane.retry import Outcome, Sorted, blamed, sort
from evbus.engine.core.lane.sender import Publishing, outcomes_of
from evbus.engine.kit.backoff import backoff
from evbus.engine.kit.waiting import failure_of, running
from evbus.errors import ConnectionLost, Unavailable
from evbus.types import Envelope

__all__ = ["Turns", "start"]

log = logging.getLogger("evbus.lane")

_Made = TypeVar("_Made")

#: Seconds until a worker that failed by a fault of the bus itself is started again.
RESTART = 1.0


class Turns:
    """Lets workers call a destination at the same time, unless one of them has to be alone.

    What several have in flight when a connection breaks tells nothing about whose fault it was.
    """

    def __init__(self) -> None:
        self._under_way = 0
        self._alone = False
        self._changed = asyncio.Event()

    async def take(self, call: Callable[..., Awaitable[_Made]], *given: object, alone: bool = False) -> _Made:
        """Await ``call(*given)``; with ``alone`` while no other call is under way."""
        while self._alone:
            await self._changed.wait()
        self._alone = alone
        try:
            while alone and self._under_way:
                await self._changed.wait()
            self._under_way += 1
            try:
                return await call(*given)
            finally:
                self._under_way -= 1
        finally:
            if alone:
                self._alone = False
            if alone or self._alone:
                # All who wait look again.
                self._changed.set()
                self._changed.clear()


def start(lane: Lane) -> None:
    """Start the workers of a lane in the running loop."""
    loop = asyncio.get_running_loop()
    lane.closing = False
    turns = Turns()
    for number in range(lane.delivery.concurrency):
        task = loop.create_task(_Worker(lane, turns).run(), name=f"evbus lane {lane.key} {number}")
        lane.tasks.append(task)


class _Sent:
    """A flight whose events are on their way.

    :ivar answer: their outcomes: of a task that sends them, or with ``begun`` of a plugin that has them.
    :ivar told: those of a plugin are known, and what the plugin itself does about them is done.
    :ivar failed: something will be left of it.
    """

    answer: asyncio.Future[Any]

    def __init__(self, flight: Flight, *, begun: bool = False) -> None:
        self.flight = flight
        # Some of them may be taken back before they are answered for.
        self.events = flight.events
        self.begun = begun
        self.told = False
        self.failed = False
        # A cancelled task says only once by what.
        self._outcomes: Sequence[Outcome] | None = None

    @property
    def open(self) -> bool:
        """Whether the plugin has its events, and nothing is known of their outcomes."""
        return self.begun and not self.answer.done()

    @property
    def done(self) -> bool:
        """Whether the outcomes are known."""
        return self.told if self.begun else self.answer.done()

    def outcomes(self) -> Sequence[Outcome]:
        """Return what became of each event, once that is known."""
        if self._outcomes is None:
            # What else a task of the lane raises is a bug, and ends the worker.
            known = self.begun or self.answer.cancelled()
            self._outcomes = outcomes_of(self.answer, len(self.events)) if known else self.answer.result()
        return self._outcomes

    def those(self, *, delivered: bool) -> list[Envelope]:
        """Return the events that were delivered, or those that were not."""
        outcomes = zip(self.events, self.outcomes())  # noqa: B905 - one each
        return [event for event, outcome in outcomes if (outcome is None) is delivered]


class _Worker:
    def __init__(self, lane: Lane, turns: Turns) -> None:
        self._lane = lane
        self._turns = turns
        self._task: asyncio.Task[Any] | None = None
        # What it has taken and not dealt with, and what of that is being sent while it does something else.
        self._flights: deque[Flight] = deque()
        self._sent: deque[_Sent] = deque()
        self._arrival: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Work until the lane is closed."""
        lane = self._lane
        self._task = task = running()
        while not lane.closing:
            try:
                await self._work()
            except BaseException as exc:
                # Whatever it is, as of a plugin's ready(): the lane must not stand.
                failure_of(exc, task if running() is task else None)
                log.exception("lane %s: the worker failed and is started again", lane.key)
                while self._flights:
                    lane.buffer.give_back(self._flights.pop())
                await asyncio.sleep(RESTART)

    async def _work(self) -> None:
        # A plugin that puts events itself must not wait for room that the end of its own call makes.
        HANDLING.set(asyncio.current_task())
        lane = self._lane
        buffer, delivery = lane.buffer, lane.delivery
        # Without publish_batch one event is taken at a time, so that what is in flight is being sent.
        most = delivery.batch if lane.sender.batching else 1
        if lane.sender.overlap and delivery.concurrency == 1:
            await self._overlap(most)
        # A plugin may swallow the cancellation that close() begins with, and return.
        while not lane.closing:
            if not len(buffer):
                await buffer.arrival()
                continue
            flight = lane.take(most)
            self._flights.append(flight)
            await self._deliver(flight, flight.events, [0] * len(flight.events))
            self._flights.pop()
            lane.rest()

    # One flight, until nothing is left of it

    async def _deliver(
        self,
        flight: Flight,
        left: list[Envelope],
        tries: list[int],
        outcomes: Sequence[Outcome] | None = None,
        *,
        broke: bool = False,
    ) -> None:
        """Publish ``left``, tried ``tries`` times before; ``outcomes`` are those of a first try, if made.

        :param broke: the connection broke when they were sent the last time.
        """
        lane = self._lane
        rounds = 0
        while left:
            if outcomes is None:
                if lane.closing:
                    return
                left, tries = await self._ready(flight, left, tries)
                if not left:
                    return
                if rounds or tries[0]:
                    _note_tries(flight, left, [count + 1 for count in tries])
                outcomes = await self._turns.take(
                    lane.sender.send, left, self._task, alone=broke and len(left) == 1
                )
            if outcomes.count(None) == len(left):
                lane.settle(flight, left)
                return
            rounds += 1
            spare = blamed(outcomes, broke=broke)
            found = sort(left, tries, outcomes, lane.delivery.retry.attempts, spare=spare, broke=broke)
            left, tries = found.again, found.tries
            lane.settle(flight, found.delivered, found.dead, len(left))
            if not left or lane.closing:
                return
            _note_tries(flight, left, tries)
            problems = [outcome for outcome in outcomes if outcome is not None]
            lane.fails(problems[0], "publishing fails and", len(left))
            broke = broke or any(isinstance(problem, ConnectionLost) for problem in problems)
            outcomes = None
            left, tries = await self._stand_by(flight, left, tries, self._pause(rounds, found))
            if spare:
                while left:
                    alone = self._deliver(flight, left[:1], tries[:1], broke=broke)
                    left, tries = await self._stand_by(flight, left[1:], tries[1:], alone)
                return

    async def _ready(
        self, flight: Flight, left: list[Envelope], tries: list[int]
    ) -> tuple[list[Envelope], list[int]]:
        """Wait for a destination that is down; return what is to be sent then."""
        lane = self._lane
        while (waiting := lane.sender.not_ready()) is not None:
            left, tries = await self._stand_by(flight, left, tries, lane.wait(*waiting))
        return left, tries

    async def _pause(self, rounds: int, found: Sorted) -> None:
        retry = self._lane.delivery.retry
        await asyncio.sleep(found.pause(backoff(rounds, retry.min, retry.max)))

    async def _stand_by(
        self, flight: Flight, left: list[Envelope], tries: list[int], until: Awaitable[None]
    ) -> tuple[list[Envelope], list[int]]:
        """Await something with events that are not being sent; return those that are still wanted."""
        behind = flight.standing
        self._lane.stand(flight, [*left, *behind])
        try:
            await until
        finally:
            flight.standing = behind
        return flight.left_of(left, tries)

    # Several flights at once

    async def _overlap(self, most: int) -> None:
        """Work with ``most`` events in each of several batches under way, until the lane is closed."""
        sent = self._sent
        try:
            while not self._lane.closing:
                await self._begin(most)
                await self._something(most)
                while sent and sent[0].done:
                    await self._land()
        except GeneratorExit:
            raise  # the loop was closed; nothing can be ended, or awaited, in it any more
        except BaseException:
            await self._end()
            raise
        await self._end()

    def _room(self, most: int) -> int:
        """Return how many more events may be in flight, of those that the next batch may have."""
        return min(most, 2 * most - self._lane.counters.in_flight)

    async def _begin(self, most: int) -> None:
        """Send what may be sent."""
        lane = self._lane
        while not lane.closing and len(lane.buffer) and self._room(most) > 0:
            if (not_ready := lane.sender.not_ready()) is not None:
                if self._sent:
                    _drop(not_ready[1])
                    return  # it still has to answer for these
                await lane.wait(*not_ready)
                continue  # meanwhile what was queued may have been delivered without a worker
            flight = lane.take(self._room(most))
            # What is only about to be sent, and what has failed, is not overtaken.
            if not all(before.open for before in self._sent) or not self._begun(flight):
                sent = _Sent(flight)
                self._flights.append(flight)
                sent.answer = asyncio.ensure_future(self._send(sent))
                self._sent.append(sent)

    def _at_once(self, most: int) -> None:
        """Send what is queued without the worker, which waits for it and for nothing else."""
        lane = self._lane
        if lane.closing:
            return
        if (not_ready := lane.sender.not_ready()) is not None:
            _drop(not_ready[1])
            return
        flight = lane.take(most)
        if not self._begun(flight):
            lane.buffer.give_back(flight)

    def _begun(self, flight: Flight) -> bool:
        """Let the plugin have the events, if it takes them without waiting."""
        answer = self._lane.sender.begin(flight.events)
        if answer is None:
            return False
        sent = _Sent(flight, begun=True)
        sent.answer = answer
        self._flights.append(flight)
        self._sent.append(sent)
        # After the plugin's own callbacks, which may change the outcomes.
        answer.add_done_callback(partial(self._answered, sent))
        return True

    def _answered(self, told: _Sent, _: asyncio.Future[Any]) -> None:
        """Settle what was delivered as a whole; the worker deals with what was not."""
        told.told = True
        lane = self._lane
        while self._sent and self._sent[0].told:
            sent = self._sent[0]
            if sent.outcomes().count(None) < len(sent.events):
                sent.failed = True
                if self._arrival is not None and not self._arrival.done():
                    self._arrival.set_result(None)
                return
            self._sent.popleft()
            lane.settle(sent.flight, sent.events)
            if not lane.closing:
                self._flights.remove(sent.flight)
                lane.rest()

    async def _send(self, sent: _Sent) -> Sequence[Outcome]:
        async def in_turn(publish: Callable[[], Publishing]) -> Sequence[Outcome]:
            # Looked at where the plugin is called, and noted where it has ended.
            for before in self._sent:
                if before is sent:
                    break
                if before.failed:
                    raise Unavailable("the batch before failed, and comes first")
            return await _noted(sent, publish())

        return await _noted(sent, self._lane.sender.send(sent.events, None, in_turn))

    async def _something(self, most: int) -> None:
        """Wait until the first flight has ended, or an event may be sent."""
        lane = self._lane
        waited: set[asyncio.Future[Any]] = set()
        if self._sent:
            waited.add(self._sent[0].answer)
        # What is queued although there is room waits for the destination, and so for its answers.
        if not self._sent or (self._room(most) > 0 and not len(lane.buffer)):
            if self._arrival is None or self._arrival.done():
                self._arrival = lane.buffer.arrival()
            if all(sent.begun for sent in self._sent):
                lane.at_once = partial(self._at_once, most) if lane.sender.begins else None
                try:
                    await self._arrival
                finally:
                    lane.at_once = None
                return
            waited.add(self._arrival)
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)

    async def _land(self) -> None:
        """Deal with the outcomes of the first flight."""
        lane = self._lane
        sent = self._sent[0]
        outcomes = sent.outcomes()
        if outcomes.count(None) < len(sent.events) and len(self._sent) > 1:
            await asyncio.wait([each.answer for each in self._sent])
            for behind in list(self._sent)[1:]:
                lane.stand(behind.flight, behind.those(delivered=False))
        # Not sooner: what is known of it is noted if the worker ends while it waits.
        self._sent.popleft()
        flight, events = sent.flight, sent.events
        if flight.standing:
            flight.standing = ()
            events, outcomes = flight.left_of(events, outcomes)
        await self._deliver(flight, events, [0] * len(events), outcomes)
        if not lane.closing:  # else what is left of it is told by close()
            self._flights.popleft()
            lane.rest()

    async def _end(self) -> None:
        """End what is in flight; what is known of it by then is noted."""
        sent = list(self._sent)
        if self._arrival is not None:
            self._arrival.cancel()  # or it would be woken in place of the next worker's
        for each in sent:
            each.answer.cancel()
        if sent:
            await asyncio.wait([each.answer for each in sent])
        for each in sent:
            if not each.answer.cancelled() and (each.begun or each.answer.exception() is None):
                self._lane.settle(each.flight, each.those(delivered=True))
        self._sent.clear()


def _drop(awaitable: Awaitable[None]) -> None:
    """Give up what was to be awaited until the destination takes events."""
    if asyncio.iscoroutine(awaitable):
        awaitable.close()


async def _noted(sent: _Sent, publishing: Publishing) -> Sequence[Outcome]:
    """Return the outcomes; when something is left of the flight, that is known as soon as they are."""
    left = True
    try:
        outcomes = await publishing
        left = outcomes.count(None) < len(sent.events)
        return outcomes
    finally:
        sent.failed = sent.failed or left


def _note_tries(flight: Flight, events: list[Envelope], tries: list[int]) -> None:
    flight.tries.update(zip(map(id, events), tries))  # noqa: B905 - one each
