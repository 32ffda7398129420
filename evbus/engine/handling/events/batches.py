"""Batches: what comes for a listener is gathered, handled by one call, and by one each when that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ["Batches"]

_Work = TypeVar("_Work")


class _Gathered(Generic[_Work]):
    """The events of a batch that is being gathered.

    :ivar turns: of all but the first: whether the batch was handled, else each is handled by itself.
    :ivar awaited: done when others are not waited for any more.
    """

    def __init__(self, first: _Work) -> None:
        self.works = [first]
        self.turns: list[asyncio.Future[bool]] = []
        self.awaited: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def flush(self) -> None:
        if not self.awaited.done():
            self.awaited.set_result(None)

    def release(self, handled: bool) -> None:
        for turn in self.turns:
            if not turn.done():
                turn.set_result(handled)


class Batches(Generic[_Work]):
    """Gathers works, each of which waits in a task of its own; that of the first calls for all of them.

    :param call: handles several works by one call.
    :param failed: is told of several whose call has failed.
    :param coming: returns whether more are there, and about to be handled.
    :param size: the most works of a batch.
    :param wait: seconds that the first waits for others, beside those that are there.
    :param limit: calls at once.
    """

    def __init__(
        self,
        call: Callable[[list[_Work]], Awaitable[None]],
        failed: Callable[[list[_Work], Exception], None],
        coming: Callable[[], bool],
        *,
        size: int,
        wait: float,
        limit: int,
    ) -> None:
        self._call = call
        self._failed = failed
        self._coming = coming
        self._size = size
        self._wait = wait
        self._limit = limit
        self.begin()

    def __repr__(self) -> str:
        return f"<Batches gathered={len(self._open.works) if self._open else 0} of {self._size}>"

    def begin(self) -> None:
        """Forget what an event loop that has ended left behind."""
        self._open: _Gathered[_Work] | None = None
        self._slots = asyncio.Semaphore(self._limit)
        self._flushed = False

    def flush(self) -> None:
        """Wait no more for others; those that are there are still gathered."""
        self._flushed = True
        if self._open is not None:
            self._open.flush()

    async def handle(self, work: _Work, *, alone: bool) -> None:
        """Handle a work with others, or ``alone``; raise what it fails with by itself."""
        if alone:
            await self._alone(work)
            return
        batch = self._open
        if batch is None:
            batch = self._open = _Gathered(work)
            if self._size == 1:
                self._close(batch)
            await self._lead(batch)
            return
        turn = asyncio.get_running_loop().create_future()
        batch.works.append(work)
        batch.turns.append(turn)
        if len(batch.works) >= self._size:
            self._close(batch)
        if not await turn:
            await self._alone(work)

    def _close(self, batch: _Gathered[_Work]) -> None:
        if self._open is batch:
            self._open = None
        batch.flush()

    async def _lead(self, batch: _Gathered[_Work]) -> None:
        try:
            if not self._flushed:
                await asyncio.wait({batch.awaited}, timeout=self._wait)
            coming = True
            while coming and self._open is batch:
                coming = self._coming()
                await asyncio.sleep(0)  # whoever has begun comes with it
            async with self._slots:
                # What came while other calls were under way is part of it.
                self._close(batch)
                await self._call(batch.works)
        except BaseException as exc:
            self._close(batch)
            batch.release(handled=False)
            if len(batch.works) == 1 or not isinstance(exc, Exception):
                raise
            self._failed(batch.works, exc)
        else:
            batch.release(handled=True)
            return
        await self._alone(batch.works[0])

    async def _alone(self, work: _Work) -> None:
        async with self._slots:
            await self._call([work])
