"""The message that is being handled, known to whatever a handler calls through a context variable."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from contextvars import Context, ContextVar
from typing import Any

import msgspec

from evbus.engine.handling.pool import WorkerPool
from evbus.engine.handling.within import Limit
from evbus.types import Envelope

__all__ = ["CURRENT", "Invocation", "resume"]


class Invocation(msgspec.Struct, eq=False):
    """One message in one handler.

    :ivar above: the root: the message within which this is handled, that is itself not within another; None
        for a root.
    :ivar key: what the message was given as its key.
    :ivar holds: the locks held here and above: ``(hold, holds above)``.
    :ivar envelope: the headers of the message, where there are interceptors or it came from outside.
    :ivar limit: how long it may take, None for as long as it wants.
    :ivar pool: for a root: the pool of which it has a slot, None when it needs none any more.
    :ivar events: what the handler wants to be sent when it has succeeded.
    :ivar blocked: for a root: how many calls below it wait for a lock.
    :ivar away: for a root: the slot is given to others, because of such a call.
    :ivar below: for a root: how many calls below it are handled, or will be.
    :ivar ended: its handlers have ended.
    :ivar task: the worker that runs its handler, when that did not end at once; those that do share a frame.
    :ivar inside: the context within the interceptors, to send the events in.
    """

    above: Invocation | None
    key: Any
    holds: Any
    envelope: Envelope | None
    limit: Limit | None
    pool: WorkerPool | None = None
    events: list[Any] | None = None
    blocked: int = 0
    away: bool = False
    below: int = 0
    ended: bool = False
    task: asyncio.Task[Any] | None = None
    inside: Context | None = None

    def leave(self) -> None:
        """End a root whose caller took the slot: give it back, unless it is given away or needed below.

        Tasks that outlive the handler may have something handled still, and that has the slot then.
        """
        if self.below:
            return
        pool, self.pool = self.pool, None
        if pool is not None and not self.away:
            pool.leave()

    def end(self) -> None:
        """End a root that a worker runs, and that keeps a slot for what it does next.

        That may be one more than there are; the worker sees to that.
        """
        pool = self.pool
        if pool is None:
            return
        if self.below:
            pool.take()
            return
        if self.away:
            pool.take()
        self.pool = None

    def done_below(self) -> None:
        """Be told that a call below has ended."""
        self.below -= 1
        if self.ended:
            self.leave()

    def give_way(self) -> None:
        """Let others have the slot while a call below waits for a lock: its holder may need one to go on."""
        self.blocked += 1
        if self.pool is not None and not self.away:
            self.away = True
            self.pool.leave()

    async def go_on(self) -> None:
        """Take the slot again, once no call below waits."""
        self.blocked -= 1
        pool = self.pool
        if pool is None or not self.away or self.blocked:
            return
        try:
            await pool.enter()
        except BaseException:
            self._take()
            raise
        if self._wants_it():
            self.away = False
        else:
            pool.leave()

    def retake(self) -> None:
        """Take the slot again without waiting: who was cancelled must not wait, and is about to end."""
        self.blocked -= 1
        self._take()

    def _take(self) -> None:
        pool = self.pool
        if pool is not None and self._wants_it():
            self.away = False
            pool.take()

    def _wants_it(self) -> bool:
        """Return whether a slot that was waited for is still wanted: others went on meanwhile."""
        return self.pool is not None and self.away and not self.blocked


#: The innermost message that is being handled.
CURRENT: ContextVar[Invocation | None] = ContextVar("evbus_dispatch", default=None)


@types.coroutine
def resume(context: Context, coroutine: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Any]:
    """Await a coroutine that was begun by hand in a context of its own, and that waits for ``awaited``."""
    while True:
        try:
            try:
                given = yield awaited
            except GeneratorExit:
                context.run(coroutine.close)
                raise
            except BaseException as exc:
                awaited = context.run(coroutine.throw, exc)
            else:
                awaited = context.run(coroutine.send, given)
        except StopIteration as done:
            return done.value
