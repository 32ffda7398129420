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
    """What ``stop()`` could not deliver: events by lane, and where they were written.

    :ivar dead: events that were written there before, as their lane or listener gave them up.
    """

    undelivered: dict[str, int]
    dead_store: str
    seconds: float
    dead: int = 0

    def __str__(self) -> str:
        dead = f"{self.dead} dead before the stop" if self.dead else ""
        if self.undelivered:
            lanes = ", ".join(f"{name}: {count}" for name, count in self.undelivered.items())
            return f"not delivered: {lanes}{f'; {dead}' if dead else ''}; written to {self.dead_store}"
        if self.dead:
            return f"everything was delivered but {dead}, written to {self.dead_store} ({self.seconds:.2f} s)"
        return f"everything was delivered ({self.seconds:.2f} s)"
