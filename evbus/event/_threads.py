"""Threads for listeners that are plain functions, so that they do not block the loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

__all__ = ["Threads"]

log = logging.getLogger("evbus.event")


class Threads:
    """The threads of one listener, begun when it is first called: no other listener waits for them.

    :param limit: the most at once.
    :param name: what the listener is called.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._pool: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"<Threads {self._name} limit={self._limit}>"

    async def run(self, call: Callable[..., Any], *event: Any) -> Any:
        """Call a function in a thread, in a copy of the present context."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._limit, f"evbus listener {self._name}")
        loop, context = asyncio.get_running_loop(), copy_context()
        return await loop.run_in_executor(self._pool, context.run, _called, call, *event)

    def replace(self) -> None:
        """Leave the threads alone, one of which does not end, and begin others with the next call."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)
            log.warning("listener %s: a plain function goes on in its thread after its timeout", self._name)

    async def close(self, seconds: float) -> None:
        """End the threads; one that still runs after ``seconds`` is left alone, as nothing can end it."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        pool.shutdown(wait=False, cancel_futures=True)
        ended = asyncio.ensure_future(asyncio.to_thread(pool.shutdown))
        await asyncio.wait({ended}, timeout=seconds)
        if not ended.done():
            log.warning("listener %s: a plain function still runs in its thread", self._name)


def _called(call: Callable[..., Any], *event: Any) -> Any:
    try:
        return call(*event)
    except StopIteration as exc:
        # A future cannot hold it: nobody would ever hear of it.
        raise RuntimeError("the listener raised StopIteration") from exc
