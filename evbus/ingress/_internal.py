"""Queues in the process, by routing key."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

import msgspec

from evbus.errors import Unavailable
from evbus.types import Envelope

__all__ = ["BodyQueue", "InternalProfile", "Queues", "Taps", "put_all", "put_now", "queue"]

#: Seconds that publishing waits for room before the lane hears of it.
PATIENCE = 10.0


class InternalProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A profile of the provider ``internal``.

    :ivar routing_key: template of the queue's key; default: the event's own routing key.
    :ivar limit: most bodies that a queue may hold before publishing waits; 0: any number.
    """

    routing_key: str | None = None
    limit: int = 0

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise ValueError("limit must be 0 (any number) or more")


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
#: Subscriptions by the name of what they want; each gets the envelopes.
Taps = dict[str, list[Callable[[list[Envelope]], None]]]


def queue(queues: Queues, routing_key: str | None) -> BodyQueue:
    """Return the queue of a routing key, made when first asked for. ``""`` and None are one key."""
    found = queues.get(routing_key or None)
    if found is None:
        found = queues[routing_key or None] = BodyQueue()
    return found


async def put_all(queues: Queues, taps: Taps, limit: int, events: list[Envelope]) -> list[Unavailable | None]:
    """Put the bodies of ``events`` on their queues, in order; with a limit, wait for room.

    Nobody reading is no fault of an event's: what finds no room within :data:`PATIENCE` is tried again,
    for ever.
    """
    if not limit:
        put_now(queues, taps, limit, events)
        return [None] * len(events)
    deadline = time.monotonic() + PATIENCE
    for index, event in enumerate(events):
        if event.routing_key in taps:
            put_now(queues, taps, 0, [event])
            continue
        target = queue(queues, event.routing_key)
        target.bound(limit)
        try:
            if target.full():
                await asyncio.wait_for(target.put(event.body), deadline - time.monotonic())
            else:
                target.put_nowait(event.body)
        except asyncio.TimeoutError:
            full = Unavailable(f"the internal queue {event.routing_key!r} holds {limit} events, its limit")
            return [*[None] * index, *[full] * (len(events) - index)]
    return [None] * len(events)


def put_now(queues: Queues, taps: Taps, limit: int, events: list[Envelope]) -> None:
    """Put the bodies of ``events`` on their queues, in order, or the envelopes into the subscriptions there are.

    :raises asyncio.QueueFull: there is a limit, which may have to be waited for; none was put.
    """
    if limit:
        raise asyncio.QueueFull
    start = 0
    while start < len(events):
        key = events[start].routing_key
        end = start + 1
        while end < len(events) and events[end].routing_key == key:
            end += 1
        run = events[start:end]
        if key in taps:
            for tap in taps[key]:
                tap(run)
        else:
            queue(queues, key).put_all([event.body for event in run])
        start = end
