"""The events of a run, and what became of them: the oracle, which imports nothing of evbus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["KEYS", "Event", "Tally", "body_of", "event_of", "tally"]

#: Events whose numbers leave the same remainder have the same key, and are to arrive in order.
KEYS = 50
DIGEST = 64  # hexadecimal digits


class Event(NamedTuple):
    """The number and the key of an event, told by its body."""

    number: int
    key: int


class Tally(NamedTuple):
    """What arrived beside what was accepted.

    :ivar reordered: events that arrived first after a later one of their key.
    """

    accepted: int
    arrived: int
    lost: int
    invented: int
    corrupted: int
    duplicates: int
    reordered: int


def body_of(run: str, number: int, key: int, size: int = 0) -> bytes:
    """Return a body of `size` bytes or more that tells its event, and whether a byte of it was changed."""
    text = f"{run} {number} {key} "
    text += "x" * (size - len(text) - DIGEST - 1)
    return f"{text} {_digest(text)}".encode()


def event_of(run: str, body: bytes) -> Event | None:
    """Return the event of a body, or None when it is not one of this run as it was sent."""
    text, _, digest = body.decode("utf-8", "replace").rpartition(" ")
    if digest != _digest(text):
        return None
    name, number, key, _ = text.split(" ")
    return Event(int(number), int(key)) if name == run else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def tally(run: str, accepted: Iterable[Event], bodies: Iterable[bytes]) -> Tally:
    """Compare what was accepted with the bodies that arrived, in the order in which they did."""
    expected = set(accepted)
    seen: set[Event] = set()
    latest: dict[int, int] = {}
    arrived = invented = corrupted = duplicates = reordered = 0
    for body in bodies:
        arrived += 1
        event = event_of(run, body)
        if event is None:
            corrupted += 1
        elif event not in expected:
            invented += 1
        elif event in seen:
            duplicates += 1
        else:
            seen.add(event)
            reordered += event.number < latest.get(event.key, -1)
            latest[event.key] = max(event.number, latest.get(event.key, -1))
    return Tally(len(expected), arrived, len(expected - seen), invented, corrupted, duplicates, reordered)
