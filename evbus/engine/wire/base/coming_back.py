"""Holds events that reach no queue, for as long as queues may be about to come back."""

from __future__ import annotations

import asyncio
from typing import Any

from evbus.engine.wire.base import supervisor
from evbus.errors import Rejected

__all__ = ["ComingBack", "Unroutable"]


class Unroutable(Rejected):
    """The event reached no queue, or its queue or exchange is not there."""


class ComingBack:
    """The routing keys whose queues are waited for, shortly after a connection or a consumer came back.

    True while there are any.
    """

    def __init__(self, connection: supervisor.Connection[Any]) -> None:
        self._connection = connection
        # When an event of the key reached nothing for the first time.
        self._first: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._first)

    def arrived(self, key: str) -> None:
        """Note that an event of a routing key has reached a queue."""
        self._first.pop(key, None)

    def missed(self, key: str) -> float:
        """Note that an event of a routing key has reached none.

        Returns the seconds for which it is to be sent again, 0 when it is not.
        """
        now = asyncio.get_running_loop().time()
        first = self._first.setdefault(key, now)
        left = min(self._connection.settling, first + supervisor.SETTLING - now)
        if left > 0:
            return left
        del self._first[key]
        return 0.0

    def clear(self) -> None:
        """Forget all keys: the connection that their events were sent over is gone."""
        self._first.clear()
