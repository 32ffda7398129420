"""One run of the bus: what it is asked to do, where it is, and what it says at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple

from ._dead import DeadStore
from ._lane import Lane
from ._sender import Sender

__all__ = ["BusState", "Connection", "Plan", "Report"]


class BusState(Enum):
    """Where the bus is in its life."""

    NEW = "new"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


class Connection(NamedTuple):
    """A lane with its sender and, when the plugin has one, the function that ends its state."""

    pattern: str
    lane: Lane
    sender: Sender


class Plan(NamedTuple):
    """What to run: the connections, how names are matched, and whom to tell of dead events."""

    connections: Sequence[Connection]
    find: Callable[[str, str], bool]
    on_error: Callable[[dict[str, Any]], Any] | None
    contexts: Any
    dead_store: DeadStore
    drain_timeout: float


class Report(NamedTuple):
    """What ``stop()`` could not deliver: events by lane or listener, and where they were written.

    :ivar dead: events that had been given up before, by lanes and listeners, and were written there too.
    :ivar lost: how many of all these, or of older ones that were there, could not be kept.
    :ivar problem: why they could not.
    """

    undelivered: dict[str, int]
    dead_store: str
    seconds: float
    dead: int = 0
    lost: int = 0
    problem: str = ""

    def __str__(self) -> str:
        dead = f"{self.dead} dead before the stop" if self.dead else ""
        if self.undelivered:
            lanes = ", ".join(f"{name}: {count}" for name, count in self.undelivered.items())
            return f"not delivered: {lanes}{f'; {dead}' if dead else ''}; {self._where()}"
        if self.dead or self.lost:
            what = f" but {dead}" if dead else ""
            return f"everything was delivered{what}; {self._where()} ({self.seconds:.2f} s)"
        return f"everything was delivered ({self.seconds:.2f} s)"

    def _where(self) -> str:
        """Return what became of the dead events."""
        written = f"written to {self.dead_store}"
        if not self.lost:
            return written
        lost = f"{self.lost} dead {'event is' if self.lost == 1 else 'events are'} lost: {self.problem}"
        left = sum(self.undelivered.values()) + self.dead - self.lost
        return f"{lost}; the others are {written}" if left > 0 else lost
