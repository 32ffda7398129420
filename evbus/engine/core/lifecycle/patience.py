"""The time that a stop may take: to deliver what is there, and then to close what is open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

__all__ = ["Patience", "within"]

#: Seconds that everything which is to be closed has together, once the time to deliver is over.
CLOSING = 3.0
#: Seconds that each part of it has at the least.
MOMENT = 0.1


class Patience:
    """The time of one stop, for all who take part in it.

    :param seconds: until what is not delivered is given up.
    :param progress: returns a number that grows as long as anything is delivered: the seconds are then
        counted from its last growth, until :meth:`limit` is called.
    """

    def __init__(self, seconds: float, progress: Callable[[], int] | None = None) -> None:
        self._seconds = seconds
        self._progress = progress
        self._seen = progress() if progress is not None else 0
        self._end = time.monotonic() + seconds

    def __repr__(self) -> str:
        return f"<Patience left={self.left():.1f}{' steady' if self.steady else ''}>"

    @property
    def steady(self) -> bool:
        """Whether it lasts as long as anything is delivered."""
        return self._progress is not None

    def limit(self) -> None:
        """Count the seconds from now on, whatever is delivered."""
        if self.steady:
            self._progress = None
            self._end = time.monotonic() + self._seconds

    def left(self) -> float:
        """Return the seconds that are left for delivering; look at the progress."""
        now = time.monotonic()
        if self._progress is not None and (seen := self._progress()) != self._seen:
            self._seen, self._end = seen, now + self._seconds
        return max(0.0, self._end - now)

    def grace(self, most: float) -> float:
        """Return the seconds that closing something may take, at most ``most``."""
        return min(most, max(MOMENT, self._end + CLOSING - time.monotonic()))


async def within(
    seconds: float, waiting: Iterable[Awaitable[Any]], cut_short: asyncio.Future[None], moment: float
) -> None:
    """Wait for all for ``seconds``, or ``moment`` seconds once ``cut_short`` is done; cancel the rest.

    Cancelled itself, it cancels all.
    """
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(one) for one in waiting]
    if not tasks:
        return
    together = asyncio.ensure_future(asyncio.wait(tasks))
    try:
        if not cut_short.done():
            first: set[asyncio.Future[Any]] = {together, cut_short}
            await asyncio.wait(first, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if cut_short.done():
            await asyncio.wait({together}, timeout=moment)
    finally:
        together.cancel()
        for task in tasks:
            if not task.done():
                task.cancel()
