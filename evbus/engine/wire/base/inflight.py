"""Events in flight: their outcomes as they come, and those events that nobody waits for any more."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Generic, TypeVar

from evbus.types import Envelope

__all__ = ["InFlight", "Outcomes"]

_Outcome = TypeVar("_Outcome", bound=BaseException)
_Sent = TypeVar("_Sent")


class Outcomes(Generic[_Outcome]):
    """The outcomes of one call of ``publish``, as they come.

    :ivar outcomes: one for each event: None where it was taken, or is not known yet.
    :ivar left: how many are not known yet.
    """

    __slots__ = ("_moved", "_waiting", "left", "outcomes")

    def __init__(self, count: int) -> None:
        self.outcomes: list[_Outcome | None] = [None] * count
        self.left = 0
        self._moved = False
        self._waiting: asyncio.Future[None] | None = None

    def settle(self, index: int, outcome: _Outcome | None) -> None:
        """Take what became of an event."""
        self.outcomes[index] = outcome
        self.left -= 1
        self._moved = True
        if not self.left and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def complete(self, seconds: float) -> bool:
        """Return True once all outcomes are known, False when none came for ``seconds``."""
        while self.left:
            self._moved = False
            self._waiting = asyncio.get_running_loop().create_future()
            done, _ = await asyncio.wait({self._waiting}, timeout=seconds)
            if not done and not self._moved:
                return False
        return True


class InFlight(Generic[_Sent]):
    """Events of unknown outcome that nobody waits for, until they are offered again.

    :param limit: how many are remembered.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Retries have the body and the time of an event, not the envelope. The body is kept, so that no other
        # event's gets its id; of twins, alike even in these, the first comes first.
        self._sent: OrderedDict[tuple[int, float, str], deque[tuple[bytes, _Sent]]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._sent)

    def clear(self) -> None:
        """Forget all: the connection that they were sent over is gone."""
        self._sent.clear()

    def keep(self, event: Envelope, sent: _Sent) -> None:
        """Remember what stands for an event that was sent."""
        # Events that no bus has accepted have no time of their own, and could be taken for one another.
        if event.accepted_at:
            self._sent.setdefault(_identity(event), deque()).append((event.body, sent))
            if len(self._sent) > self._limit:
                self._sent.popitem(last=False)

    def take(self, event: Envelope) -> _Sent | None:
        """Return what stands for an event, and forget it; None when it was not sent before."""
        identity = _identity(event)
        known = self._sent.get(identity)
        if known is None:
            return None
        _, sent = known.popleft()
        if not known:
            del self._sent[identity]
        return sent


def _identity(event: Envelope) -> tuple[int, float, str]:
    return id(event.body), event.accepted_at, event.routing_key
