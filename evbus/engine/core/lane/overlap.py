"""A worker that hands over a batch while the one before is still waiting for its answers.

Waiting out each answer costs a round trip, and a disk's flush, between any two batches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from evbus.engine.core.lane.retry import Outcome
from evbus.engine.core.lane.sender import Publishing, Turn
from evbus.errors import DeliveryError, Unavailable
from evbus.types import Envelope

__all__ = ["LaneCallbacks", "Overlap"]


class LaneCallbacks(NamedTuple):
    """The functions of a lane that its worker calls. A flight is a batch on its way, by its number.

    :ivar going: whether the lane is not being closed. A plugin may swallow the cancellation.
    :ivar room: how many more events may be in flight.
    :ivar waiting: whether events are queued.
    :ivar take: takes events off the queue for a flight, at most so many.
    :ivar send: publishes a flight's events, and lets a function call the plugin.
    :ivar land: deals with the outcomes of a flight, and tries again what failed until nothing is left of it.
    :ivar stand: notes which events of a flight wait until those before it have landed.
    :ivar note: notes which events of a flight were delivered, when the worker ends.
    :ivar arrival: returns a future that is done when an event is queued.
    :ivar not_ready: returns None when the destination takes events, else why not and what to await.
    :ivar wait: waits for the destination, given that.
    """

    going: Callable[[], bool]
    room: Callable[[], int]
    waiting: Callable[[], bool]
    take: Callable[[int, int], list[Envelope]]
    send: Callable[[list[Envelope], Turn], Publishing]
    land: Callable[[int, list[Envelope], Sequence[Outcome]], Coroutine[Any, Any, None]]
    stand: Callable[[int, list[Envelope]], None]
    note: Callable[[int, list[Envelope]], None]
    arrival: Callable[[], asyncio.Future[None]]
    not_ready: Callable[[], tuple[str, Awaitable[None]] | None]
    wait: Callable[[str, Awaitable[None]], Coroutine[Any, Any, None]]


class _Flight(NamedTuple):
    number: int
    events: list[Envelope]
    task: asyncio.Task[Sequence[Outcome]]


class Overlap:
    """One lane's worker. Batches begin, and end, in the order of their events.

    When one fails, those behind it are waited for, and nothing more is sent until all of it was dealt with:
    its events come before theirs.
    """

    def __init__(self, lane: LaneCallbacks) -> None:
        self._lane = lane
        self._flights: deque[_Flight] = deque()
        # Numbers of those of which something is left.
        self._failed: set[int] = set()
        self._number = 0
        self._arrival: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Work until cancelled, or the lane is closed."""
        flights = self._flights
        try:
            while self._lane.going():
                await self._begin()
                await self._something()
                while flights and flights[0].task.done():
                    await self._land()
        except GeneratorExit:
            raise  # the loop was closed; nothing can be ended, or awaited, in it any more
        except BaseException:
            await self._end()
            raise
        await self._end()

    async def _begin(self) -> None:
        """Send what may be sent."""
        lane = self._lane
        while lane.going() and lane.waiting() and lane.room() > 0:
            if (not_ready := lane.not_ready()) is not None:
                if self._flights:
                    if asyncio.iscoroutine(not_ready[1]):
                        not_ready[1].close()
                    return  # it still has to answer for these
                await lane.wait(*not_ready)
                continue  # meanwhile what was queued may have been delivered without a worker
            self._number += 1
            events = lane.take(self._number, lane.room())
            task = asyncio.ensure_future(self._send(self._number, events))
            self._flights.append(_Flight(self._number, events, task))

    async def _send(self, number: int, events: list[Envelope]) -> Sequence[Outcome]:
        async def in_turn(publish: Callable[[], Publishing]) -> Sequence[Outcome]:
            # Looked at where the plugin is called, and noted where it has ended.
            if min(self._failed, default=number) < number:
                raise Unavailable("the batch before failed, and comes first")
            return await self._noted(number, len(events), publish())

        return await self._noted(number, len(events), self._lane.send(events, in_turn))

    async def _noted(self, number: int, count: int, publishing: Publishing) -> Sequence[Outcome]:
        """Return the outcomes; when something is left of the flight, that is known as soon as they are."""
        left = True
        try:
            outcomes = await publishing
            left = outcomes.count(None) < count
            return outcomes
        finally:
            if left:
                self._failed.add(number)

    async def _end(self) -> None:
        """End what is in flight; what is known of it by then is noted."""
        flights = self._flights
        if self._arrival is not None:
            self._arrival.cancel()  # or it would be woken in place of the next worker's
        for flight in flights:
            flight.task.cancel()
        if flights:
            await asyncio.wait([flight.task for flight in flights])
        for flight in flights:
            if not flight.task.cancelled() and flight.task.exception() is None:
                outcomes = zip(flight.events, flight.task.result())  # noqa: B905 - one each
                self._lane.note(flight.number, [event for event, outcome in outcomes if outcome is None])
        flights.clear()

    async def _something(self) -> None:
        """Wait until the first flight has ended, or an event may be sent."""
        waited: set[asyncio.Future[Any]] = set()
        if self._flights:
            waited.add(self._flights[0].task)
        # What is queued although there is room waits for the destination, and so for its answers.
        if not self._flights or (self._lane.room() > 0 and not self._lane.waiting()):
            if self._arrival is None or self._arrival.done():
                self._arrival = self._lane.arrival()
            waited.add(self._arrival)
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)

    async def _land(self) -> None:
        flight = self._flights[0]
        outcomes = _outcomes(flight)
        if outcomes.count(None) < len(flight.events) and len(self._flights) > 1:
            await asyncio.wait([each.task for each in self._flights])
            for behind in list(self._flights)[1:]:
                self._lane.stand(behind.number, _failed(behind))
        # Not sooner: what is known of it is noted if the worker ends while it waits.
        self._flights.popleft()
        self._failed.discard(flight.number)
        await self._lane.land(flight.number, flight.events, outcomes)


def _outcomes(flight: _Flight) -> Sequence[Outcome]:
    if flight.task.cancelled():
        return [DeliveryError("the publish was cancelled")] * len(flight.events)
    return flight.task.result()


def _failed(flight: _Flight) -> list[Envelope]:
    """Return the events of a flight that are to be sent again."""
    outcomes = zip(flight.events, _outcomes(flight))  # noqa: B905 - one each
    return [event for event, outcome in outcomes if outcome is not None]
