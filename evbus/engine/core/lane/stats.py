"""The name, state and counters of a lane, for an operator to read."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal, NamedTuple

from evbus.engine.kit.redact import one_line
from evbus.types import Envelope

__all__ = ["Counters", "LaneKey", "LaneState", "Latency"]

SAMPLES = 1024
PER_BATCH = 8


class LaneKey(NamedTuple):
    """The name of a lane: ``plugin.provider.profile``."""

    plugin: str
    provider: str
    profile: str

    def __str__(self) -> str:
        return one_line(".".join(self))


#: The state of a lane, as an operator sees it; it waits for a destination that is down.
LaneState = Literal["idle", "running", "retrying", "waiting", "closed"]


class Latency:
    """Time from put to delivery, of at most eight events of each batch, the last 1,024 in all."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=SAMPLES)

    def sample(self, events: list[Envelope], now: float) -> None:
        """Note the latency of a batch delivered at ``now`` (seconds of ``time.monotonic()``)."""
        step = -(-len(events) // PER_BATCH)
        add = self._samples.append
        for event in events[::step]:
            add(now - event.accepted_at)

    def percentiles(self) -> dict[str, float]:
        """Return ``p50``, ``p90``, ``p99`` and ``max`` in seconds; empty before the first delivery."""
        ordered = sorted(self._samples.copy())
        if not ordered:
            return {}
        last = len(ordered) - 1
        found = {f"p{rank}": ordered[round(last * rank / 100)] for rank in (50, 90, 99)}
        return {**found, "max": ordered[-1]}


class Counters:
    """``accepted = delivered + dead + dropped + queued + in_flight``, at every moment."""

    __slots__ = ("accepted", "dead", "delivered", "delivered_bytes", "dropped", "in_flight", "retried")

    def __init__(self) -> None:
        self.accepted = 0
        self.delivered = 0
        self.delivered_bytes = 0
        self.retried = 0
        self.dead = 0
        self.dropped = 0
        self.in_flight = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the counters by name."""
        return {name: getattr(self, name) for name in self.__slots__}
