"""Groups of consumers in this process."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable

import msgspec

from evbus.engine.kit.topics import is_pattern, key_of, matches
from evbus.engine.kit.weight import Weight, size_of
from evbus.errors import ProfileError
from evbus.types import Delivery, Envelope, Subscription

__all__ = ["Group", "InternalProfile", "Subscribers", "renamed"]

Take = Callable[[list[Delivery]], None]
#: Gets the name of a group, and envelopes that nobody of it takes any more.
Lost = Callable[[str, list[Envelope]], None]

#: Deliveries that a consumer may have unsettled at once when it says nothing.
PREFETCH = 1000


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


class Group:
    """Consumers that share the events of one name; each event goes to one of them.

    :param key: the name, and that of the group, made unique for a copy of one process.
    :param name: that of the group.
    :ivar wanted: it has a consumer, or its events go somewhere else.
    """

    def __init__(self, key: tuple[str, str], name: str, subscribers: Subscribers) -> None:
        self.waiting: deque[Envelope] = deque()
        #: How often those were delivered that wait again, by their identity.
        self.counts: dict[int, int] = {}
        self.wanted = False
        self._key = key
        self._name = name
        self.weight = subscribers.weight
        self._subscribers = subscribers
        self._members: deque[_Member] = deque()
        # They take turns; one of them stands for all.
        self._first: _Member | None = None
        self._durable = False
        self._crowd: deque[asyncio.Future[None]] = deque()
        self._lost: Lost | None = None
        # The bytes that are counted there: too many by what was settled, while nobody needs to know.
        self._size = 0
        self.exact = True
        self._loosen()
        subscribers.groups[key] = self
        subscribers.add(key[0], self)

    def __repr__(self) -> str:
        return f"<Group {'::'.join(self._key)} waiting={len(self.waiting)} members={len(self._members)}>"

    def __len__(self) -> int:
        """Return the number of events that wait for a consumer."""
        return len(self.waiting)

    def trim(self, most: int) -> int:
        """Drop the oldest beyond ``most``, or while what nobody takes weighs too much, if nobody takes them.

        The latest stays. Returns how many were dropped.
        """
        if self.wanted:
            return 0
        weight, waiting, before = self.weight, self.waiting, len(self.waiting)
        while len(waiting) > most or (weight.idle > weight.most_idle and len(waiting) > 1):
            event = waiting.popleft()
            self.counts.pop(id(event), None)
            weight.idle -= len(event.body)
            self.take(len(event.body))
        return before - len(waiting)

    def put(self, events: list[Envelope], size: int) -> None:
        """Take events, for consumers there are or will be; ``size`` bytes of bodies in all."""
        if self._lost is not None:
            self._lost(self._name, events)
            return
        self.waiting.extend(events)
        if not self.wanted:
            self.weight.idle += size
        if self.exact:
            self._loosen()
        self._size += size
        # As Weight.add does, without a call.
        weight = self.weight
        weight.size = there = weight.size + size
        if there > weight.ceiling:
            weight.on_rise()
        self.push()

    def take(self, size: int) -> None:
        """Count bytes that went."""
        self._size -= size
        self.weight.take(size)

    def recount(self) -> None:
        """Count what waits, and what is not settled."""
        self.take(self._size - size_of(self.waiting) - sum([member.size() for member in self._members]))

    def tighten(self) -> None:
        """Count what is there, and from now on what is settled."""
        if not self.exact:
            self.exact = True
            self.weight.loose.discard(self)
            self.recount()

    def _loosen(self) -> None:
        if not self.weight.floor:
            self.exact = False
            self.weight.loose.add(self)

    def _want(self, wanted: bool) -> None:
        """Note whether somebody takes what waits."""
        if wanted is not self.wanted:
            self.wanted = wanted
            size = size_of(self.waiting)
            self.weight.idle += -size if wanted else size

    def _empty(self) -> list[Envelope]:
        """Take all that waits."""
        left = list(self.waiting)
        self.waiting.clear()
        self.counts.clear()
        size = size_of(left)
        if not self.wanted:
            self.weight.idle -= size
        self.take(size)
        return left

    def held(self) -> int:
        """Return how many events are with its consumers, or wait for them."""
        return sum(member.unsettled for member in self._members) + (len(self.waiting) if self._members else 0)

    async def room(self, limit: int) -> None:
        """Return when fewer than ``limit`` events wait."""
        while len(self.waiting) >= limit:
            turn = asyncio.get_running_loop().create_future()
            self._crowd.append(turn)
            await turn

    def push(self) -> None:
        """Hand what waits to consumers that have room."""
        waiting, members = self.waiting, self._members
        full = 0
        while waiting and full < len(members):
            member = members[0]
            # Consumers take turns; the only one gets all that it has room for.
            room, alone = member.room(), len(members) == 1
            if room <= 0:
                full += 1
            else:
                most = room if alone else 1
                if most >= len(waiting):
                    events = list(waiting)
                    waiting.clear()
                else:
                    events = [waiting.popleft() for _ in range(most)]
                member.give(events)
                full = 0
            if not alone:
                members.rotate(-1)
        if self._crowd:
            self._relieve()

    def _relieve(self) -> None:
        """Let those look again who wait for room."""
        while self._crowd:
            turn = self._crowd.popleft()
            if not turn.done():
                turn.set_result(None)

    def leads(self, member: _Member) -> bool:
        """Return whether a consumer is the first of those that there are."""
        return member is self._first

    def join(self, member: _Member, durable: bool) -> None:
        """Add a consumer."""
        self._lost = None  # the bus was started again
        self._durable = self._durable or durable
        self._members.append(member)
        self._want(True)
        self._first = self._first or member
        self.push()

    def leave(self, member: _Member, unsettled: list[Envelope]) -> None:
        """Drop a consumer; what it did not settle is for others. The last one ends what is not durable."""
        self._members.remove(member)
        if self._first is member:
            self._first = self._members[0] if self._members else None
        for event in reversed(unsettled):
            self.give_back(event)
        self._want(bool(self._members) or self._lost is not None)
        if self._lost is not None:
            self.lose(self._lost)
        elif self._members or self._durable:
            self.push()
        else:
            self._end()

    def give_back(self, event: Envelope) -> None:
        """Let an event wait again, before the others."""
        self.counts[id(event)] = self.counts.get(id(event), 0) + 1
        self.waiting.appendleft(event)

    def lose(self, lost: Lost) -> None:
        """Hand what waits, and what comes before there is a consumer again, to ``lost``."""
        self._lost = lost
        self._want(True)
        left = self._empty()
        self._relieve()
        if left:
            lost(self._name, left)

    def resume(self) -> None:
        """Be told that the bus was started again: without a consumer, only what is durable goes on."""
        if self._lost is not None and not self._members:
            self._lost = None
            self._want(False)
            if not self._durable:
                self._end()

    def _end(self) -> None:
        del self._subscribers.groups[self._key]
        self._subscribers.remove(self._key[0], self)
        self._empty()
        self.tighten()
        self._relieve()


class Subscribers(dict[str, list[Group]]):
    """Subscriptions by routing key, those to patterns of keys among them once a key is known.

    :param weight: what waits for consumers, or is not settled by them, is counted there.
    :ivar groups: those that consume, by name and group.
    :ivar patterns: subscriptions to patterns, by these.
    """

    #: Keys for which patterns were looked at; they come from outside, and may be made up.
    REMEMBERED = 10_000

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        self.weight = weight
        self.groups: dict[tuple[str, str], Group] = {}
        self.patterns: dict[str, list[Group]] = {}
        self._known: set[str] = set()

    def attach(self, subscription: Subscription, take: Take) -> _Member:
        """Make a consumer of a subscription.

        :raises ProfileError: it does not say what it wants.
        """
        if not subscription.name:
            raise ProfileError("a subscription to internal events has a name, the routing key of the events")
        own = secrets.token_hex(4) if subscription.per_process else ""
        key = (subscription.name, f"{subscription.group}{own}")
        group = self.groups.get(key)
        if group is None:
            group = Group(key, subscription.group, self)
        durable = subscription.durable and not subscription.per_process
        return _Member(group, subscription.prefetch or PREFETCH, take, durable)

    async def deliveries(self, subscription: Subscription) -> AsyncGenerator[Delivery, None]:
        """Yield the deliveries of a consumer of a subscription."""
        waiting: deque[Delivery] = deque()
        arrived = asyncio.Event()

        def take(found: list[Delivery]) -> None:
            waiting.extend(found)
            arrived.set()

        member = self.attach(subscription, take)
        try:
            while True:
                while waiting:
                    yield waiting.popleft()
                arrived.clear()
                await arrived.wait()
        finally:
            member.end()

    def held(self) -> int:
        """Return how many events wait for a consumer that there is, or are not settled by one."""
        return sum(group.held() for group in self.groups.values())

    def resume(self) -> None:
        """End the groups that were closed, and that nobody has joined again."""
        for group in list(self.groups.values()):
            group.resume()

    def close(self, lost: Lost) -> None:
        """Hand what waits in any group, and what comes while it has no consumer, to ``lost``."""
        for group in list(self.groups.values()):
            group.lose(lost)

    def add(self, name: str, subscriber: Group) -> None:
        """Add a subscription to a key, or to a pattern."""
        self.setdefault(name, []).append(subscriber)
        if is_pattern(name):
            self.patterns.setdefault(name, []).append(subscriber)
            self._known.clear()

    def remove(self, name: str, subscriber: Group) -> None:
        """Remove a subscription."""
        if name in self.patterns:
            self.patterns[name].remove(subscriber)
            if not self.patterns[name]:
                del self.patterns[name]
            keys = [key for key, subscribers in self.items() if subscriber in subscribers]
        else:
            keys = [name]
        for key in keys:
            self[key].remove(subscriber)
            if not self[key]:
                del self[key]

    def resolve(self, keys: Iterable[str]) -> None:
        """Let keys lead to the subscriptions whose patterns they match, too."""
        several = set(keys)
        new = several - self._known
        if new and len(self._known) + len(new) > self.REMEMBERED:
            self._forget()
            new = several
        for key in new:
            self._resolve(key)

    def _resolve(self, key: str) -> None:
        self._known.add(key)
        there = self.get(key, [])
        known = set(map(id, there))
        found = [
            subscriber
            for pattern, subscribers in self.patterns.items()
            if matches(key, pattern)
            for subscriber in subscribers
            if id(subscriber) not in known
        ]
        if found:
            self[key] = [*there, *found]

    def _forget(self) -> None:
        self._known.clear()
        several = {id(subscriber) for subscribers in self.patterns.values() for subscriber in subscribers}
        for key, subscribers in list(self.items()):
            if key not in self.patterns:
                subscribers[:] = [subscriber for subscriber in subscribers if id(subscriber) not in several]
                if not subscribers:
                    del self[key]


class _Member:
    """A consumer of a group.

    :param most: deliveries that it may have unsettled at once.
    :param take: gets deliveries.
    """

    def __init__(self, group: Group, most: int, take: Take, durable: bool) -> None:
        self._group = group
        self._most = most
        # It gets more when it has settled a part of what it may have: to look with every one takes time, and
        # as many may be under way for long.
        self._low = most - max(1, most // 16)
        self._take = take
        self._unsettled: dict[int, Envelope] = {}
        self._number = 0
        self._paused = False
        self._ended = False
        group.join(self, durable)

    def __repr__(self) -> str:
        return f"<_Member of {self._group!r} unsettled={len(self._unsettled)}>"

    @property
    def unsettled(self) -> int:
        """The number of deliveries that it has not settled."""
        return len(self._unsettled)

    @property
    def waiting(self) -> int:
        """The number of events that wait for its group, told by the first of those that share them."""
        return len(self._group) if self._group.leads(self) else 0

    def size(self) -> int:
        """Return the bytes of what it has not settled."""
        return size_of(self._unsettled.values())

    def room(self) -> int:
        """Return how many deliveries it takes."""
        return 0 if self._paused else self._most - len(self._unsettled)

    def give(self, events: list[Envelope]) -> None:
        """Deliver."""
        first, counts = self._number, self._group.counts
        if len(events) == 1 and not counts:
            self._number = first + 1
            self._unsettled[first] = events[0]
            self._take([Delivery(events[0], self, first, False, 0)])
            return
        self._number = first + len(events)
        numbers = range(first, self._number)
        self._unsettled.update(zip(numbers, events, strict=True))
        times: Iterable[int] = itertools.repeat(0)
        if counts:
            times = [counts.get(id(event), 0) for event in events]
        again = map(bool, times) if counts else itertools.repeat(False)
        self._take(list(map(Delivery, events, itertools.repeat(self), numbers, again, times)))

    def __call__(self, number: int, accepted: bool | None, requeue: bool) -> None:
        """Settle a delivery, as one of any source is settled."""
        if not requeue or accepted:
            self.accept([number])
            return
        event = self._unsettled.pop(number, None)
        if event is not None:  # else others have it: this consumer has ended
            self._group.give_back(event)
            self._group.push()

    def accept(self, numbers: list[int]) -> None:
        """Forget deliveries that were handled, or given up."""
        unsettled, group = self._unsettled, self._group
        events = list(map(unsettled.pop, numbers, itertools.repeat(None)))
        if group.exact:
            group.take(size_of(event for event in events if event is not None))
        if group.counts:
            for event in events:
                group.counts.pop(id(event), None)
        if group.waiting and len(unsettled) <= self._low:
            group.push()

    def pause(self) -> None:
        """Take nothing more."""
        self._paused = True

    def end(self) -> None:
        """Leave the group; what is not settled is for others."""
        if not self._ended:
            self._ended = self._paused = True
            unsettled, self._unsettled = list(self._unsettled.values()), {}
            self._group.leave(self, unsettled)


def renamed(subscription: Subscription, template: str | None) -> Subscription:
    """Return the subscription for a profile with a routing key such as ``shop.{routing_key}``.

    :raises ProfileError: it is a pattern, and the routing key does not keep names apart.
    """
    return msgspec.structs.replace(subscription, name=key_of(template, subscription.name))
