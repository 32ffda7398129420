"""A connection that stands still: nothing comes over it any more but heartbeats."""

from __future__ import annotations

import struct
from collections.abc import Callable

__all__ = ["Still", "Withheld"]


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


class Withheld:
    """Keeps back frames that the broker sends on the connections that there are; see `Proxy.filter`.

    :param keep: says of a frame's channel and method (0 for other frames) whether it is kept back.
    """

    def __init__(self, keep: Callable[[int, int], bool]) -> None:
        self.keep = keep
        self.made = 0
        self.still = 0

    def begin(self) -> None:
        self.still = self.made

    def __call__(self) -> Callable[[bytes], bytes]:
        self.made += 1
        number, rest = self.made, b""

        def through(data: bytes) -> bytes:
            nonlocal rest
            data, passed = rest + data, b""
            while len(data) >= 8:
                kind, channel, size = struct.unpack_from(">BHI", data)
                whole, left = data[: size + 8], data[size + 8 :]
                if len(whole) < size + 8:
                    break
                method = struct.unpack_from(">I", whole, 7)[0] if kind == 1 else 0
                if number > self.still or not self.keep(channel, method):
                    passed += whole
                data = left
            rest = data
            return passed

        return through
