"""Chunks of queued events: their bodies end to end in one buffer, what they share in one object."""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import final

from evbus.engine.kit.weight import size_of
from evbus.types import Envelope

__all__ = ["Chunk", "Entry", "Meta"]

#: Bodies above this many bytes keep their own object: copying them twice costs more than it saves.
PACK_LIMIT = 1024


@final
class Meta:
    """The part that many queued events have in common."""

    __slots__ = ("headers", "profile", "routing_key")

    def __init__(self, profile: str, routing_key: str, headers: dict[str, str]) -> None:
        self.profile = profile
        self.routing_key = routing_key
        self.headers = headers


Entry = tuple["Meta | Envelope", bytes, float]


class Chunk:
    """Events that have to wait, packed: ``slots`` holds a Meta (body in ``buffer``) or an Envelope."""

    __slots__ = ("buffer", "ends", "first", "plain", "size", "slots", "times")

    def __init__(self, entries: list[Entry]) -> None:
        slots, bodies, times = zip(*entries)  # noqa: B905 - entries are triples
        lengths = list(map(len, bodies))
        self.first = 0
        self.size = sum(lengths)
        self.times = array("d", times)
        # Whether there are only small bodies without headers of their own, as there usually are.
        self.plain = max(lengths) <= PACK_LIMIT and all(type(slot) is Meta for slot in slots)
        if not self.plain:
            rows = [_split(*entry) for entry in entries]
            slots, bodies = zip(*rows)  # noqa: B905 - rows are pairs
            lengths = list(map(len, bodies))
        self.slots: tuple[Meta | Envelope, ...] = slots
        self.buffer = b"".join(bodies)
        self.ends = array("I", accumulate(lengths))

    def take(self, most: int) -> list[Envelope]:
        """Remove and return up to ``most`` of the oldest events."""
        first = self.first
        last = self.first = min(first + most, len(self.slots))
        starts = [self.ends[first - 1] if first else 0, *self.ends[first : last - 1]]
        buffer = self.buffer
        rows = zip(self.slots[first:last], starts, self.ends[first:last], self.times[first:last])  # noqa: B905
        taken = [
            Envelope(slot.profile, slot.routing_key, buffer[start:end], slot.headers, time)
            if type(slot) is Meta
            else slot
            for slot, start, end, time in rows
        ]
        if self.plain:
            self.size -= (self.ends[last - 1] if last else 0) - (self.ends[first - 1] if first else 0)
        else:
            self.size -= size_of(taken)
        return taken


def _split(slot: Meta | Envelope, body: bytes, time: float) -> tuple[Meta | Envelope, bytes]:
    """Split an event into what a chunk keeps in its slots and in its buffer."""
    if not isinstance(slot, Meta):
        return slot, b""
    if len(body) > PACK_LIMIT:
        return Envelope(slot.profile, slot.routing_key, body, slot.headers, time), b""
    return slot, body
