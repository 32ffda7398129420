"""One run of the bus: what it is asked to do, where it is, and what it says at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

from evbus.engine.core.dead.store import DeadStore
from evbus.engine.core.lane.lane import Lane
from evbus.engine.kit.counted import counted
from evbus.engine.kit.redact import one_line

__all__ = ["BusState", "Report", "RunPlan"]


class BusState(Enum):
    """The state of the bus."""

    NEW = "new"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


class RunPlan(NamedTuple):
    """The plan of a run: its lanes, its matcher, and whom to tell of dead events."""

    lanes: Sequence[Lane]
    find: Callable[[str, str], bool]
    on_error: Callable[[dict[str, Any]], Any] | None
    contexts: Any
    dead_store: DeadStore
    drain_timeout: float
    #: Returns how many events of each name nobody has listened to.
    unheard: Callable[[], dict[str, int]] = dict
    #: How what matches a pattern begins and ends, as far as the matcher tells.
    ends: Callable[[str], tuple[str, str]] | None = None


class Report(NamedTuple):
    """The events that ``stop()`` could not deliver, by lane or listener, and where they were written.

    :ivar dead: events that had been given up before, by lanes and listeners, and were written there too.
    :ivar lost: how many of all these, or of older ones that were there, could not be kept.
    :ivar problem: why they could not.
    :ivar unmatched: events that no profile matched, by the profile that they were put with.
    :ivar hint: which profile may be meant by the first of these names.
    :ivar unheard: events that were sent and that nobody listened to, by name.
    """

    undelivered: dict[str, int]
    dead_store: str
    seconds: float
    dead: int = 0
    lost: int = 0
    problem: str = ""
    unmatched: Mapping[str, int] = MappingProxyType({})
    hint: str = ""
    unheard: Mapping[str, int] = MappingProxyType({})

    def __str__(self) -> str:
        unheard = ", ".join(f"{one_line(name)}: {count}" for name, count in self.unheard.items())
        return f"{self._delivery()}{f'; nobody listened to {unheard}' if unheard else ''}"

    def _delivery(self) -> str:
        dead = f"{self.dead} dead before the stop" if self.dead else ""
        if self.undelivered:
            lanes = ", ".join(f"{name}: {count}" for name, count in self.undelivered.items())
            text = f"not delivered: {lanes}{f'; {dead}' if dead else ''}; {self._where()}"
            return f"{text}; {self._nowhere()}" if self.unmatched else text
        but = " and ".join(part for part in (dead, self._nowhere()) if part)
        where = f"; {self._where()}" if self.dead or self.lost else ""
        return f"everything was delivered{f' but {but}' if but else ''}{where} ({self.seconds:.2f} s)"

    def _nowhere(self) -> str:
        """Tell of the events that matched no profile, and of the name that may be meant."""
        if not self.unmatched:
            return ""
        names = ", ".join(f"{one_line(name, 80)!r}: {count}" for name, count in self.unmatched.items())
        events = counted(sum(self.unmatched.values()), "event", "events")
        return f"{events} that matched no profile ({one_line(names)}{self.hint})"

    def _where(self) -> str:
        """Tell of the dead events: where they are written, and which are lost."""
        written = f"written to {self.dead_store}"
        if not self.lost:
            return written
        lost = f"{self.lost} dead {'event is' if self.lost == 1 else 'events are'} lost: {self.problem}"
        left = sum(self.undelivered.values()) + self.dead - self.lost
        return f"{lost}; the others are {written}" if left > 0 else lost
