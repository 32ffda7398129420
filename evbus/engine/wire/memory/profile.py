"""The profile of deliveries in this process, and the subscribers that get them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from evbus.engine.kit.topics import is_pattern, matches
from evbus.types import Envelope

__all__ = ["InternalProfile", "Subscriber", "Subscribers"]


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


class Subscriber(Protocol):
    """Subscriptions that share what comes for one routing key.

    :ivar wanted: somebody takes from it.
    """

    wanted: bool

    def __len__(self) -> int:
        """Return the number of events that wait."""

    def trim(self, most: int, /) -> int:
        """Drop the oldest beyond ``most``, or while what nobody takes weighs too much, if nobody takes them.

        The latest stays. Returns how many were dropped.
        """

    def put(self, events: list[Envelope], size: int, /) -> None:
        """Take events, whatever waits; ``size`` bytes of bodies in all."""

    async def room(self, limit: int, /) -> None:
        """Return when fewer than ``limit`` events wait."""


class Subscribers(dict[str, list[Subscriber]]):
    """Subscriptions by routing key, those to patterns of keys among them once a key is known.

    :ivar patterns: subscriptions to patterns, by these.
    """

    #: Keys for which patterns were looked at; they come from outside, and may be made up.
    REMEMBERED = 10_000

    def __init__(self) -> None:
        super().__init__()
        self.patterns: dict[str, list[Subscriber]] = {}
        self._known: set[str] = set()

    def add(self, name: str, subscriber: Subscriber) -> None:
        """Add a subscription to a key, or to a pattern."""
        self.setdefault(name, []).append(subscriber)
        if is_pattern(name):
            self.patterns.setdefault(name, []).append(subscriber)
            self._known.clear()

    def remove(self, name: str, subscriber: Subscriber) -> None:
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
