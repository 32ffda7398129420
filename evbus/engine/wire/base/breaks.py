"""Notice that what a consumer is to be sent may be what ends its connection."""

from __future__ import annotations

__all__ = ["BREAKS", "Breaks"]

#: What is said then, of a connection and a queue.
BREAKS = (
    "%s: the connection breaks again and again before anything of %s is settled; its first message may be "
    "one that the broker cannot say in this protocol, and then has to be taken away by another client"
)
#: In a row, each after less than so many seconds.
MOST, SHORT = 3, 10.0


class Breaks:
    """Counts breaks that follow each other with nothing settled in between."""

    def __init__(self) -> None:
        self._breaks = 0

    def count(self, *, settled: bool, lived: float) -> bool:
        """Take note of one; return whether it is the one by which to tell, which is once in a row.

        :param settled: whether anything was settled before it.
        :param lived: seconds since the consumer was there.
        """
        self._breaks = 0 if settled or lived >= SHORT else self._breaks + 1
        return self._breaks == MOST
