"""Bytes of bodies that wait behind the lanes, in this process."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from evbus.types import Envelope

__all__ = ["UNBOUNDED", "Weight", "size_of"]

UNBOUNDED = 1 << 62
_body = operator.attrgetter("body")


def size_of(events: Iterable[Envelope]) -> int:
    """Return the bytes of all bodies."""
    return sum(map(len, map(_body, events)))


def _nothing() -> None:
    """Do nothing."""


class Weight:
    """The bytes of bodies that were delivered to a queue or to listeners of this process, and wait there.

    They count against the bound of the bus, which sets the marks and is called when they are passed. It
    belongs to the thread of the bus's event loop; others only read it.

    :ivar size: the bytes of all of them; too many by what has gone from what is ``loose``.
    :ivar loose: the holders that count what comes and not what goes, as long as nobody needs to know: each
        with ``recount()``, which counts what is there, and ``tighten()``, from which on what goes is counted.
    :ivar idle: those of them that nobody takes: they do not go away by themselves.
    :ivar most_idle: how many these may be; beyond it the oldest are dropped.
    :ivar ceiling: ``on_rise`` is called when ``size`` comes above it.
    :ivar floor: ``on_fall`` is called when ``size`` comes below it; 0 when nobody waits for that.
    :ivar on_wait: called by a holder of which something is wanted while it has nothing.
    """

    __slots__ = ("ceiling", "floor", "idle", "loose", "most_idle", "on_fall", "on_rise", "on_wait", "size")

    def __init__(self) -> None:
        self.size = 0
        self.idle = 0
        self.most_idle = UNBOUNDED
        self.ceiling = UNBOUNDED
        self.floor = 0
        self.loose: weakref.WeakSet[Any] = weakref.WeakSet()
        self.on_rise: Callable[[], None] = _nothing
        self.on_fall: Callable[[], None] = _nothing
        self.on_wait: Callable[[], None] = _nothing

    def __repr__(self) -> str:
        return f"<Weight size={self.size} idle={self.idle}>"

    def recount(self) -> None:
        """Make ``size`` what is there."""
        for each in list(self.loose):
            each.recount()

    def watch(self, floor: int) -> None:
        """Set the mark ``floor``."""
        self.floor = floor
        if floor:
            for each in list(self.loose):
                each.tighten()

    def add(self, size: int) -> None:
        """Count bytes that came."""
        self.size += size
        if self.size > self.ceiling:
            self.on_rise()

    def take(self, size: int) -> None:
        """Count bytes that went."""
        self.size -= size
        if self.size < self.floor:
            self.on_fall()
