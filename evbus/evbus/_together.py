"""Many things at once that may take too long: senders that open, tasks that are to end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

from evbus.errors import ConfigError, ConnectFailed, Rejected
from evbus.redact import one_line, redact

from ._run import Connection

__all__ = ["open_all", "within"]

log = logging.getLogger("evbus.bus")


async def open_all(connections: Sequence[Connection], seconds: float) -> None:
    """Open every sender, ``seconds`` at most; what only time can mend is logged, and tried again later.

    :raises ConfigError: a profile is wrong.
    :raises ConnectFailed: a profile says not to wait for what it connects to.
    :raises Rejected: what it connects to does not take it.
    """
    results = await asyncio.gather(
        *(connection.sender.open(seconds) for connection in connections), return_exceptions=True
    )
    for connection, problem in zip(connections, results):  # noqa: B905 - one result each
        if isinstance(problem, (ConfigError, ConnectFailed, Rejected, asyncio.CancelledError)):
            raise problem
        if isinstance(problem, BaseException):
            reason = one_line(redact(str(problem) or type(problem).__name__, connection.lane.secrets))
            log.warning("lane %s: cannot be opened, and is tried again: %s", connection.lane.key, reason)


async def within(
    seconds: float, waiting: Iterable[Awaitable[Any]], hurry: asyncio.Future[None], moment: float
) -> None:
    """Wait for all for ``seconds``, or ``moment`` seconds once ``hurry`` is done; cancel the rest."""
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(one) for one in waiting]
    if not tasks:
        return
    together = asyncio.ensure_future(asyncio.wait(tasks))
    if not hurry.done():
        first: set[asyncio.Future[Any]] = {together, hurry}
        await asyncio.wait(first, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if hurry.done():
        await asyncio.wait({together}, timeout=moment)
    together.cancel()
    for task in tasks:
        if not task.done():
            task.cancel()
