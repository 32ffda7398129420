"""Threads for listeners that are plain functions, so that they do not block the loop."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from evbus._worker import Worker
from evbus.errors import DispatchError

__all__ = ["HANGING", "Threads"]

log = logging.getLogger("evbus.event")

#: Threads of one listener that may go on with what was given up; as many as it has at once if that is more.
HANGING = 32


class Threads:
    """The threads of one listener, begun when it is first called: no other listener waits for them.

    They keep no process from ending: one that hangs can be left alone, and cannot be ended. So they are
    bounded: while too many hang, what needs a further one fails.

    :param limit: the most at once; the listener calls no more.
    :param name: what the listener is called.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._numbers = itertools.count()
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        # Those whose function was given up and goes on, unless it has ended since.
        self._left: set[Worker] = set()
        self._most = max(HANGING, limit)
        self._full = False
        self._ending: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Threads {self._name} limit={self._limit}>"

    @property
    def hanging(self) -> int:
        """How many go on with what was given up."""
        if self._left:
            self._left = {worker for worker in self._left if worker.alive}
        return len(self._left)

    async def run(self, call: Callable[..., Any], *event: Any) -> Any:
        """Call a function in a thread, in a copy of the present context.

        :raises DispatchError: too many threads hang.
        """
        if self._idle:
            worker = self._idle.pop()
        else:
            self._refuse_full()
            worker = Worker(f"evbus listener {self._name}_{next(self._numbers)}")
        self._busy.add(worker)
        try:
            result = await worker.run(copy_context().run, _called, call, *event)
        except asyncio.CancelledError:
            # The function goes on. Its thread ends with it, and others are there for what comes next.
            self._busy.discard(worker)
            self._left.add(worker)
            self._end(worker)
            raise
        except BaseException:
            self._free(worker)
            raise
        self._free(worker)
        return result

    def _refuse_full(self) -> None:
        if len(self._left) < self._most or self.hanging < self._most:
            self._full = False
            return
        said = (
            f"listener {self._name}: {self._most} of its threads go on after their timeouts, and it gets no "
            "more until one of them ends"
        )
        if not self._full:
            self._full = True
            log.error("%s; a plain function that waits needs a timeout of its own", said)
        raise DispatchError(said)

    def _end(self, worker: Worker) -> None:
        ending = asyncio.ensure_future(worker.close())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _free(self, worker: Worker) -> None:
        if worker in self._busy:
            self._busy.discard(worker)
            self._idle.append(worker)

    def replace(self) -> None:
        """Tell that a function goes on, of which nobody waits for the end any more."""
        log.warning("listener %s: a plain function goes on in its thread after its timeout", self._name)

    async def close(self, seconds: float) -> None:
        """End the threads; one that still runs after ``seconds`` is left alone, as nothing can end it."""
        for worker in (*self._idle, *self._busy):
            self._end(worker)
        self._idle.clear()
        self._busy.clear()
        if not self._ending:
            return
        _, left = await asyncio.wait(set(self._ending), timeout=seconds)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
            log.warning("listener %s: a plain function still runs in its thread", self._name)


def _called(call: Callable[..., Any], *event: Any) -> Any:
    try:
        return call(*event)
    except (StopIteration, KeyboardInterrupt) as exc:
        # A future cannot hold the one, of which nobody would ever hear; and it is in the main thread that the
        # other is the operator's.
        raise RuntimeError(f"the listener raised {type(exc).__name__}") from exc
