"""Queues in the process, by routing key."""

from __future__ import annotations

import asyncio
import itertools
import logging
import operator
import time
import weakref
from collections import deque
from collections.abc import Callable

from evbus.engine.kit.redact import one_line
from evbus.engine.kit.weight import Weight, size_of
from evbus.engine.wire.memory.groups import Group, InternalProfile, Subscribers
from evbus.errors import BusFull, Unavailable
from evbus.types import Envelope

__all__ = [
    "InternalProfile",
    "Queues",
    "put_all",
    "put_now",
    "queue",
]

log = logging.getLogger("evbus.ingress.internal")

#: Seconds that publishing waits for room before the lane hears of it.
PATIENCE = 10.0
#: Seconds of these that it waits for much of it.
HALF = 0.5
#: Events that a listener may have in a profile without a limit, and those that may wait for nobody: in a
#: queue that nobody has asked for, or for listeners of which none is there. Listeners that are too slow for
#: ever hold back who sends, and do not fill memory.
MOST = 10_000
#: Those of a listener's that its consumer has unsettled, and that do not wait for it.
UNSETTLED = 1_000
#: Queues that there may be before those are looked for that are empty, and that nobody has.
SWEEP = 64

_KEY = operator.attrgetter("routing_key")


class _BodyQueue(asyncio.Queue[bytes]):
    """The queue of one routing key. Its bound is known only when the first profile delivers to it.

    :param weight: what waits in it is counted there.
    :ivar wanted: somebody has asked for it, or taken from it. Else it keeps the latest of its bodies.

    It stands on what ``asyncio.Queue`` keeps for its subclasses, to take and give many bodies at once.
    """

    # The same from Python 3.11 to 3.13, and not in the types that mypy knows.
    _finished: asyncio.Event
    _getters: deque[asyncio.Future[None]]
    _putters: deque[asyncio.Future[None]]
    _queue: deque[bytes]
    _unfinished_tasks: int
    _wakeup_next: Callable[[deque[asyncio.Future[None]]], None]

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        self._weight = weight
        # The bytes that are counted there: too many, while it is loose.
        self._size = 0
        self.wanted = False
        # Somebody takes from it, it has no bound, and nobody needs to know at once what was taken: to count
        # that takes as long as to take it.
        self._loose = False

    def want(self) -> None:
        """Note that somebody takes from it."""
        if not self.wanted:
            self.wanted = True
            self._weight.idle -= self._size

    def recount(self) -> None:
        """Count what waits."""
        gone = self._size - sum(map(len, self._queue))
        self._size -= gone
        self._weight.take(gone)

    def tighten(self) -> None:
        """Count what waits, and from now on what is taken."""
        if self._loose:
            self._loose = False
            self._weight.loose.discard(self)
            self.recount()

    def _loosen(self) -> None:
        if not (self._loose or self._weight.floor or self._maxsize or self._putters):
            self._loose = True
            self._weight.loose.add(self)

    def _get(self) -> bytes:
        body = self._queue.popleft()
        if not self._loose:
            self.want()
            self._size -= len(body)
            self._weight.take(len(body))
        return body

    def _put(self, body: bytes) -> None:
        self._queue.append(body)
        self._came(len(body))

    def _came(self, size: int) -> None:
        self._size += size
        if not self.wanted:
            self._weight.idle += size
        self._weight.add(size)

    def bound(self, limit: int) -> None:
        """Let at most ``limit`` bodies wait; 0 lifts the bound."""
        if limit:
            self.tighten()
        self._maxsize = limit

    def put_all(self, bodies: list[bytes]) -> None:
        """Put many bodies at once, whatever the bound."""
        self._queue.extend(bodies)
        # As _came does, without calls.
        self._size += (size := sum(map(len, bodies)))
        weight = self._weight
        weight.size = there = weight.size + size
        if not self.wanted:
            weight.idle += size
        if there > weight.ceiling:
            weight.on_rise()
        self._unfinished_tasks += len(bodies)
        self._finished.clear()
        for _ in range(min(len(bodies), len(self._getters))):
            self._wakeup_next(self._getters)

    def trim(self, most: int) -> int:
        """Drop the oldest beyond ``most``, or while what nobody takes weighs too much, if nobody takes them.

        The latest stays. Returns how many were dropped.
        """
        if self.wanted or self._getters:
            return 0
        weight, waiting, before = self._weight, self._queue, len(self._queue)
        while len(waiting) > most or (weight.idle > weight.most_idle and len(waiting) > 1):
            size = len(waiting.popleft())
            self._size -= size
            weight.idle -= size
            weight.take(size)
        dropped = before - len(waiting)
        self._unfinished_tasks -= dropped
        return dropped

    async def get(self) -> bytes:
        """Take the oldest body, waiting for one."""
        if self._loose and self._queue:
            return self._queue.popleft()
        self.want()
        self._loosen()
        if not self._queue and not self._getters:  # who waits longer comes first
            self._weight.on_wait()
        if self._queue and not self._putters:
            return self._get()
        return await super().get()


def _ignore(_events: list[Envelope], _profile: str) -> None:
    pass


class Queues(dict["str | None", _BodyQueue]):
    """Queues by routing key; one that is empty goes away when nobody has it.

    :ivar untold: bodies that were dropped, and that are in no lane's counters yet.
    :ivar on_unwanted: is told of events in queues that nobody has asked for, and of their profile.
    """

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        self._weight = weight
        self.untold = 0
        self.on_unwanted: Callable[[list[Envelope], str], None] = _ignore
        self._told: set[str] = set()
        self._sweep = SWEEP

    def __missing__(self, key: str | None) -> _BodyQueue:
        if len(self) >= self._sweep:
            self._sweep_empty()
        found = self[key] = _BodyQueue(self._weight)
        return found

    def trim(self, key: str, target: _BodyQueue | Group) -> int:
        """Drop the oldest of a queue, or of listeners of which none is there; return how many.

        They have :data:`MOST` events, and all of them together half of the bytes that the bus may have.
        """
        excess = target.trim(MOST)
        if excess and key not in self._told:
            self._told.add(key)
            log.warning(
                "nobody takes from the internal queue %s, which holds %d events: its oldest are dropped",
                one_line(repr(key)),
                target.qsize() if isinstance(target, _BodyQueue) else len(target),
            )
        return excess

    def _sweep_empty(self) -> None:
        # One that somebody has outlives its being let go.
        kept: weakref.WeakValueDictionary[str | None, _BodyQueue] = weakref.WeakValueDictionary()
        for key in [key for key, each in self.items() if each.empty()]:
            found = kept[key] = self.pop(key)
            found.recount()  # while it can be
            del found
        self.update(kept.items())
        self._sweep = max(SWEEP, 2 * len(self))


def queue(queues: Queues, routing_key: str | None) -> _BodyQueue:
    """Return the queue of a routing key for who takes from it. ``""`` and None are one key."""
    found = queues[routing_key or None]
    found.want()
    return found


async def put_all(
    queues: Queues, subscribers: Subscribers, limit: int, events: list[Envelope], profile: str = ""
) -> list[Unavailable | None]:
    """Put ``events`` on their queues, in order; wait for room.

    Nobody reading is no fault of an event's: what finds no room within :data:`PATIENCE` is tried again,
    for ever.
    """
    deadline = time.monotonic() + PATIENCE
    most = limit or MOST - UNSETTLED
    done = 0
    try:
        for key, run in _runs(events):
            if subscribers and subscribers.patterns:
                subscribers.resolve((key,))
            for part in [run] if key in subscribers else [[event] for event in run]:
                left = part
                while left:
                    put = await _put_some(queues, subscribers, limit, most, key, left, deadline, profile)
                    done += put
                    left = left[put:]
    except TimeoutError:
        full = Unavailable(f"the internal queue {events[done].routing_key!r} holds {most} events, its limit")
        return [*[None] * done, *[full] * (len(events) - done)]
    return [None] * len(events)


async def _put_some(
    queues: Queues,
    subscribers: Subscribers,
    limit: int,
    most: int,
    key: str,
    events: list[Envelope],
    deadline: float,
    profile: str,
) -> int:
    """Put the first of ``events``, which have one routing key; return how many."""
    subscribed = subscribers.get(key)
    if not subscribed:
        target = queues[key or None]
        await _put(target, limit, events[0].body, deadline)
        if not target.wanted:
            queues.on_unwanted(events[:1], profile)
        if not limit:
            queues.untold += queues.trim(key, target)
        return 1
    bounding = [subscriber for subscriber in subscribed if limit or subscriber.wanted]
    room = most - max([len(subscriber) for subscriber in bounding], default=0)
    if room <= 0:
        await _wait_room(bounding, most, deadline)
        return 0
    put = events[:room]
    for subscriber in list(subscribed):
        subscriber.put(put, size_of(put))
        if subscriber not in bounding:
            queues.untold += queues.trim(key, subscriber)
    return len(put)


async def _wait_room(subscribed: list[Group], most: int, deadline: float) -> None:
    """Wait until half of the room is free, as it costs time to wait for each event, or for any room."""
    for limit, seconds in ((max(1, most // 2), HALF), (most, PATIENCE)):
        rooms = asyncio.gather(*[subscriber.room(limit) for subscriber in subscribed])
        left = deadline - time.monotonic()
        try:
            await asyncio.wait_for(rooms, min(left, seconds))
        except TimeoutError:
            if seconds == PATIENCE:
                raise
        else:
            return


async def _put(target: _BodyQueue, limit: int, body: bytes, deadline: float) -> None:
    target.bound(limit)
    if target.full():
        await asyncio.wait_for(target.put(body), deadline - time.monotonic())
    else:
        target.put_nowait(body)


def put_now(
    queues: Queues, subscribers: Subscribers, limit: int, events: list[Envelope], profile: str = ""
) -> int:
    """Put the bodies of ``events`` on their queues, in order, or the envelopes into their subscriptions.

    :returns: how many bodies were dropped, the oldest of queues that nobody takes from.
    :raises BusFull: a subscription has as much as it may have; none was put.
    :raises asyncio.QueueFull: there is a limit, which may have to be waited for; none was put.
    """
    runs = _runs(events)
    if subscribers:
        if subscribers.patterns:
            subscribers.resolve(key for key, _ in runs)
        most = limit or MOST - UNSETTLED
        for key, run in runs:
            for subscriber in subscribers.get(key, ()):
                if len(subscriber.waiting) + len(run) > most and (limit or subscriber.wanted):
                    raise BusFull(len(subscriber.waiting), most, 0, 0)
    if limit and not all(key in subscribers for key, _ in runs):
        raise asyncio.QueueFull
    dropped, queues.untold = queues.untold, 0
    for key, run in runs:
        if key in subscribers:
            size = size_of(run)
            for subscriber in subscribers[key]:
                subscriber.put(run, size)
                if not subscriber.wanted and not limit:
                    dropped += queues.trim(key, subscriber)
        else:
            target = queues[key or None]
            target.put_all([event.body for event in run])
            if not target.wanted:
                dropped += queues.trim(key, target)
                queues.on_unwanted(run, profile)
    return dropped


def _runs(events: list[Envelope]) -> list[tuple[str, list[Envelope]]]:
    """Return the events in parts of one routing key each."""
    if len(events) == 1:
        return [(events[0].routing_key, events)]
    keys = [event.routing_key for event in events]
    if keys and keys.count(keys[0]) == len(keys):
        return [(keys[0], events)]
    return [(key, list(run)) for key, run in itertools.groupby(events, _KEY)]
