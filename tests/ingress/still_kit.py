"""A connection that stands still: nothing comes over it any more but heartbeats."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Still"]


class Still:
    """Makes the functions for a proxy's direction "down"; the first connection stands still from `begin` on.

    :param beats: what the broker's heartbeats are.
    """

    def __init__(self, beats: bytes) -> None:
        self._beats = beats
        self._still = False
        self._first = True

    def begin(self) -> None:
        self._still = True

    def __call__(self) -> Callable[[bytes], bytes]:
        first, self._first = self._first, False

        def through(data: bytes) -> bytes:
            return self._beats if first and self._still else data

        return through
