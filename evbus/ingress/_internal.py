"""Queues in the process, by routing key."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator

from evbus.connection._internal import InternalProfile, Tap, Taps
from evbus.errors import Unavailable
from evbus.types import Envelope

__all__ = ["BodyQueue", "InternalProfile", "Queues", "Tap", "Taps", "put_all", "put_now", "queue"]

#: Seconds that publishing waits for room before the lane hears of it.
PATIENCE = 10.0
#: Events that may wait for subscriptions in a profile without a limit: listeners that are too slow for ever
#: hold back who sends, and do not fill memory.
MOST = 100_000


class BodyQueue(asyncio.Queue[bytes]):
    """The queue of one routing key. Its bound is known only when the first profile delivers to it.

    It stands on what ``asyncio.Queue`` keeps for its subclasses, to take and give many bodies at once.
    """

    # The same from Python 3.10 to 3.13, and not in the types that mypy knows.
    _finished: asyncio.Event
    _getters: deque[asyncio.Future[None]]
    _putters: deque[asyncio.Future[None]]
    _queue: deque[bytes]
    _unfinished_tasks: int
    _wakeup_next: Callable[[deque[asyncio.Future[None]]], None]

    def bound(self, limit: int) -> None:
        """Let at most ``limit`` bodies wait; 0 lifts the bound."""
        self._maxsize = limit

    def put_all(self, bodies: list[bytes]) -> None:
        """Put many bodies at once, whatever the bound."""
        self._queue.extend(bodies)
        self._unfinished_tasks += len(bodies)
        self._finished.clear()
        for _ in range(min(len(bodies), len(self._getters))):
            self._wakeup_next(self._getters)

    async def get(self) -> bytes:
        """Take the oldest body, waiting for one."""
        if self._queue and not self._putters:
            return self._queue.popleft()
        return await super().get()


Queues = dict[str | None, BodyQueue]


def queue(queues: Queues, routing_key: str | None) -> BodyQueue:
    """Return the queue of a routing key, made when first asked for. ``""`` and None are one key."""
    found = queues.get(routing_key or None)
    if found is None:
        found = queues[routing_key or None] = BodyQueue()
    return found


async def put_all(queues: Queues, taps: Taps, limit: int, events: list[Envelope]) -> list[Unavailable | None]:
    """Put ``events`` on their queues, in order; wait for room.

    Nobody reading is no fault of an event's: what finds no room within :data:`PATIENCE` is tried again,
    for ever.
    """
    deadline = time.monotonic() + PATIENCE
    most = limit or MOST
    for index, event in enumerate(events):
        subscribed = taps.get(event.routing_key)
        try:
            if subscribed:
                if any(len(tap) >= most for tap in subscribed):
                    rooms = asyncio.gather(*[tap.room(most) for tap in subscribed])
                    await asyncio.wait_for(rooms, deadline - time.monotonic())
                for tap in list(subscribed):
                    tap.put([event])
            else:
                await _put(queue(queues, event.routing_key), limit, event.body, deadline)
        except asyncio.TimeoutError:
            full = Unavailable(f"the internal queue {event.routing_key!r} holds {most} events, its limit")
            return [*[None] * index, *[full] * (len(events) - index)]
    return [None] * len(events)


async def _put(target: BodyQueue, limit: int, body: bytes, deadline: float) -> None:
    target.bound(limit)
    if target.full():
        await asyncio.wait_for(target.put(body), deadline - time.monotonic())
    else:
        target.put_nowait(body)


def put_now(queues: Queues, taps: Taps, limit: int, events: list[Envelope]) -> None:
    """Put the bodies of ``events`` on their queues, in order, or the envelopes into their subscriptions.

    :raises asyncio.QueueFull: there is a limit, which may have to be waited for; none was put.
    """
    if limit:
        raise asyncio.QueueFull
    runs = list(_runs(events))
    if taps and any(len(tap) >= MOST for key, _ in runs for tap in taps.get(key, ())):
        raise asyncio.QueueFull
    for key, run in runs:
        if key in taps:
            for tap in taps[key]:
                tap.put(run)
        else:
            queue(queues, key).put_all([event.body for event in run])


def _runs(events: list[Envelope]) -> Iterator[tuple[str, list[Envelope]]]:
    """Return the events in parts of one routing key each."""
    start = 0
    while start < len(events):
        key = events[start].routing_key
        end = start + 1
        while end < len(events) and events[end].routing_key == key:
            end += 1
        yield key, events[start:end]
        start = end
