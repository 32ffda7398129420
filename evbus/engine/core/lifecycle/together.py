"""Many at once: senders that open, and tasks that are to end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

from evbus.engine.core.lane.lane import Lane
from evbus.errors import ConfigError, ConnectFailed, Rejected

__all__ = ["open_all", "within"]


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
