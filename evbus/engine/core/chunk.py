"""Chunks of queued events: their bodies end to end in one buffer, what they share in one object."""

from __future__ import annotations

import operator
from array import array
from itertools import accumulate, groupby, pairwise, repeat
from typing import Any, final

from evbus.engine.kit.weight import size_of
from evbus.types import Envelope

__all__ = ["Chunk", "Entry", "Meta", "Run", "runs"]

#: Bodies above this many bytes keep their own object: copying them twice costs more than it saves.
PACK_LIMIT = 1024


@final
class Meta:
    """The part that many events have in common: what they are called, and where they go.

    :ivar lanes: their lanes, as ``router`` has found them; None is a bus that does not run yet.
    """

    __slots__ = ("headers", "lanes", "profile", "router", "routing_key")

    def __init__(self, profile: str, routing_key: str, headers: dict[str, str]) -> None:
        self.profile = profile
        self.routing_key = routing_key
        self.headers = headers
        self.lanes: tuple[Any, ...] = ()
        self.router: object = None


#: The shared part, or an envelope with headers of its own; the body; when it was accepted.
Entry = tuple[Meta | Envelope, bytes, float]
#: Events of one profile that follow each other, behind what the first entry begins with; all bodies' bytes.
Run = tuple[Meta | Envelope, list[Envelope], int]


def runs(entries: list[Entry]) -> list[Run]:
    """Make envelopes of entries."""
    event: Any
    count = len(entries)
    if count == 1:
        slot, body, time = entries[0]
        event = slot
        if type(slot) is Meta:
            event = Envelope(slot.profile, slot.routing_key, body, slot.headers, time)
        return [(slot, [event], len(body))]
    first = entries[0][0] if count else None
    if type(first) is Meta and list(map(_slot, entries)).count(first) == count:
        profile, routing_key, headers = first.profile, first.routing_key, first.headers
        events = [Envelope(profile, routing_key, body, headers, time) for _, body, time in entries]
        return [(first, events, size_of(events))]
    events = [
        Envelope(slot.profile, slot.routing_key, body, slot.headers, time) if type(slot) is Meta else slot
        for slot, body, time in entries
    ]
    found: list[Run] = []
    for _, pairs in groupby(zip(map(_slot, entries), events), lambda pair: pair[0].profile):  # noqa: B905 - one each
        run_slots, run = zip(*pairs)  # noqa: B905 - pairs
        found.append((run_slots[0], list(run), size_of(run)))
    return found


_slot = operator.itemgetter(0)


class Chunk:
    """Entries that have to wait, packed, to be taken in their order.

    What of their times lies far from the first is kept less exactly: to a millisecond after a few hours.
    """

    __slots__ = ("_buffer", "_first", "_lengths", "_offset", "_since", "_slots", "_times")

    def __init__(self, entries: list[Entry]) -> None:
        self._first = self._offset = 0
        # An envelope keeps its body, and a large body makes one: the buffer has nothing of these.
        slots, bodies = zip(*[_split(*entry) for entry in entries])  # noqa: B905 - pairs
        first = slots[0]
        # What all share, as there usually is; every byte of an event is one of a million.
        self._slots: Meta | tuple[Meta | Envelope, ...] = slots
        if type(first) is Meta and slots.count(first) == len(slots):
            self._slots = first
        self._buffer = b"".join(bodies)
        self._lengths = array("H", list(map(len, bodies)))
        self._since = entries[0][2]
        self._times = array("f", [time - self._since for _, _, time in entries])

    def __len__(self) -> int:
        return len(self._times) - self._first

    def take(self, most: int) -> list[Entry]:
        """Remove and return up to ``most`` of the oldest entries."""
        first, since, buffer = self._first, self._since, self._buffer
        last = self._first = min(first + most, len(self._times))
        ends = list(accumulate(self._lengths[first:last], initial=self._offset))
        self._offset = ends[-1]
        shared = self._slots
        slots = repeat(shared) if isinstance(shared, Meta) else shared[first:last]
        rows = zip(slots, pairwise(ends), self._times[first:last])  # noqa: B905 - one each
        return [
            (slot, buffer[start:end] if type(slot) is Meta else slot.body, since + time)
            for slot, (start, end), time in rows
        ]


def _split(slot: Meta | Envelope, body: bytes, time: float) -> tuple[Meta | Envelope, bytes]:
    """Split an event into what a chunk keeps in its slots and in its buffer."""
    if not isinstance(slot, Meta):
        return slot, b""
    if len(body) > PACK_LIMIT:
        return Envelope(slot.profile, slot.routing_key, body, slot.headers, time), b""
    return slot, body
