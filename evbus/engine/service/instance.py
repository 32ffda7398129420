"""The addresses of a component over one channel: which gets a call, and which is left alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Iterator

from evbus.engine.service.settings import Breaker, ChannelSettings

__all__ = ["Instance", "Instances"]


#: Seconds for which an address is left alone at first that calls did not reach; each further time it is twice
#: as long, up to the pause of the breaker: what is started again is there in a moment, most often.
_FIRST = 0.1


class Instance:
    """A place where a component can be called.

    :ivar in_flight: calls that are under way, or wait for their turn.
    :ivar failures: calls in a row that did not reach it, or got no answer.
    :ivar soon: it is left alone, and may be back in a moment, so that calls may wait for that.
    """

    def __init__(self, uri: str, settings: ChannelSettings) -> None:
        self.uri = uri
        self.in_flight = 0
        self.failures = 0
        self._breaker: Breaker = settings.breaker
        self._most = settings.in_flight
        self._room = asyncio.Semaphore(settings.in_flight)
        self.soon = False
        self._closed_until = 0.0
        self._times = 0
        self._trying = False

    def __repr__(self) -> str:
        state = f"left alone for {self.pause:.1f} s" if self.pause else "usable"
        return f"<Instance {state}, {self.in_flight} in flight, {self.failures} failures>"

    @property
    def pause(self) -> float:
        """Seconds for which it is left alone; 0 when it is usable."""
        left = self._closed_until - time.monotonic() if self._closed_until else 0.0
        return max(left, 0.001) if left > 0 or self._trying else 0.0

    @property
    def full(self) -> bool:
        """Whether a further call would have to wait."""
        return self.in_flight >= self._most

    async def enter(self) -> bool:
        """Wait for a call's turn; what this returns is for :meth:`leave`."""
        self.in_flight += 1
        alone = bool(self._closed_until)
        if alone:
            self._trying = True  # the others wait for what becomes of it
        try:
            await self._room.acquire()
        except BaseException:
            self._count(alone)
            raise
        return alone

    def leave(self, alone: bool) -> None:
        """Let the next call have its turn."""
        self._room.release()
        self._count(alone)

    def _count(self, alone: bool) -> None:
        self.in_flight -= 1
        if alone:
            self._trying = False

    def worked(self) -> None:
        """Be told that a call got its answer."""
        self.failures, self._closed_until, self._times, self.soon = 0, 0.0, 0, False

    def failed(self, *, reached: bool = True) -> None:
        """Be told that a call got none.

        :param reached: it may have come there.
        """
        self.failures += 1
        if not self._breaker.failures or self.failures < self._breaker.failures:
            return
        now, pause = time.monotonic(), self._breaker.pause
        if not reached:
            # Those that were under way at once fail at once.
            self._times += now >= self._closed_until
            pause = min(pause, _FIRST * 2 ** (self._times - 1))
        self.soon = pause < self._breaker.pause
        self._closed_until = now + pause


class Instances:
    """The addresses of a component over one channel.

    :param channel: its settings.
    """

    def __init__(self, channel: ChannelSettings) -> None:
        self._channel = channel
        self._known: dict[str, Instance] = {}
        self._turn = 0

    def __len__(self) -> int:
        return len(self._known)

    def set(self, uris: Iterable[str]) -> None:
        """Have these addresses from now on; what is known of those that stay is kept."""
        # Of one that is gone, calls may be under way; they end as they will.
        self._known = {uri: self._known.get(uri) or Instance(uri, self._channel) for uri in uris}

    def __iter__(self) -> Iterator[Instance]:
        return iter(self._known.values())

    def pick(self, tried: Collection[Instance] = ()) -> Instance | None:
        """Return the address for a call, None when all are left alone.

        :param tried: those that it was sent to already, which are taken when there are no others.
        """
        known = list(self._known.values())
        if len(known) == 1:
            return None if known[0].pause else known[0]
        if self._channel.select == "round_robin" and len(known) > 1:
            self._turn = (self._turn + 1) % len(known)
            known = known[self._turn :] + known[: self._turn]
        usable = [one for one in known if not one.pause]
        found = [one for one in usable if one not in tried] or usable
        found = [one for one in found if not one.full] or found
        if not found:
            return None
        if self._channel.select == "least_in_flight":
            return min(found, key=lambda one: one.in_flight)
        return found[0]
