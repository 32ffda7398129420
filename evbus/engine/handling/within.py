"""A limit on how long a handler may take."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, NamedTuple

from evbus.errors import DispatchTimeout

__all__ = ["Limit", "within"]


class Limit(NamedTuple):
    """``seconds`` from when a message was handed over, until ``end`` by the loop's clock."""

    seconds: float
    end: float

    @classmethod
    def of(cls, seconds: Any) -> Limit:
        """Return the limit that begins now.

        :raises ValueError: ``seconds`` is no number above 0.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
            raise ValueError(
                f"timeout is a number of seconds above 0, or None for no limit, and not {seconds!r}"
            )
        return cls(seconds, asyncio.get_running_loop().time() + seconds)

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.end - asyncio.get_running_loop().time()


async def within(coroutine: Coroutine[Any, Any, Any], limit: Limit, message: str) -> Any:
    """Await ``coroutine``, and cancel it when the time is up.

    :raises DispatchTimeout: it was not done in time.
    """
    try:
        async with asyncio.timeout_at(limit.end) as timeout:
            return await coroutine
    except Exception as exc:
        if timeout.expired():
            raise DispatchTimeout(message, limit.seconds) from exc
        raise
