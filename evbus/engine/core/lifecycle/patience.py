"""The time that a stop may take: to deliver what is there, and then to close what is open."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Patience"]

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
