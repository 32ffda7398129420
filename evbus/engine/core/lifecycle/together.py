"""Many at once: senders that open, tasks that are to end, and who waits for the start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from evbus.engine.core.lane.lane import Lane
from evbus.engine.core.queue import resolve
from evbus.errors import ConfigError, ConnectFailed, Rejected

__all__ = ["Joiners", "open_all", "within"]


class Joiners:
    """Those who wait for the bus to be started, each in a loop of its own."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    async def join(self) -> None:
        """Wait for :meth:`wake`."""
        joiner: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(joiner)
        try:
            await joiner
        finally:
            with suppress(ValueError):
                self._waiting.remove(joiner)

    def wake(self) -> None:
        """Let all go on."""
        waiting, self._waiting = self._waiting, []
        for joiner in waiting:
            # The loop of a joiner may have ended.
            with suppress(RuntimeError):
                joiner.get_loop().call_soon_threadsafe(resolve, joiner)


async def open_all(lanes: Sequence[Lane], seconds: float) -> None:
    """Open every sender, ``seconds`` at most; what only time can mend is logged, and tried again later.

    :raises ConfigError: a profile is wrong.
    :raises ConnectFailed: a profile says not to wait for what it connects to.
    :raises Rejected: what it connects to does not take it.
    """
    results = await asyncio.gather(*(lane.sender.open(seconds) for lane in lanes), return_exceptions=True)
    for lane, problem in zip(lanes, results):  # noqa: B905 - one result each
        if isinstance(problem, (ConfigError, ConnectFailed, Rejected, asyncio.CancelledError)):
            raise problem
        if isinstance(problem, BaseException):
            lane.fails(problem, "cannot be opened, and")


async def within(
    seconds: float, waiting: Iterable[Awaitable[Any]], cut_short: asyncio.Future[None], moment: float
) -> None:
    """Wait for all for ``seconds``, or ``moment`` seconds once ``cut_short`` is done; cancel the rest."""
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(one) for one in waiting]
    if not tasks:
        return
    together = asyncio.ensure_future(asyncio.wait(tasks))
    if not cut_short.done():
        first: set[asyncio.Future[Any]] = {together, cut_short}
        await asyncio.wait(first, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if cut_short.done():
        await asyncio.wait({together}, timeout=moment)
    together.cancel()
    for task in tasks:
        if not task.done():
            task.cancel()
