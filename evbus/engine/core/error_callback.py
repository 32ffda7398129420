"""The error callback, told of one thing after another, and never waited for."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from evbus.engine.core.broker import IN_CALLBACK
from evbus.engine.core.observe import Observer, Where
from evbus.engine.kit.thread import WorkerThread
from evbus.engine.kit.waiting import call
from evbus.errors import BusStopped, DeliveryError
from evbus.types import Envelope

__all__ = ["ErrorCallback"]

log = logging.getLogger("evbus.bus")

#: What the callback has not been told of yet, at most.
MAX_UNTOLD = 10_000


class ErrorCallback(Observer):
    """Tell the function that ``error_callback_ref`` names; a plain one runs in a thread.

    As an observer it tells of the events that a bus gives up.

    The thread keeps no process from ending, whatever the function does.

    :param on_error: the function, plain or async.
    :param on_told: called when it has been told of everything.
    :param contexts: what it is told the profiles are.
    """

    def __init__(
        self, on_error: Callable[[dict[str, Any]], Any], on_told: Callable[[], None], contexts: Any = None
    ) -> None:
        self._on_error = on_error
        self._on_told = on_told
        self._contexts = contexts
        self._untold: deque[dict[str, Any]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._skipped = 0
        self._in_vain = False
        # The task that calls the function now.
        self._calling: asyncio.Task[Any] | None = None

    def __contains__(self, task: object) -> bool:
        """Return whether this task calls the function now."""
        return task is self._calling and task is not None

    @property
    def busy(self) -> bool:
        """Whether it is still being told."""
        return self._task is not None

    def dead(self, event: object, where: Where, reason: str, attempts: int, problem: BaseException) -> None:
        """Tell it of an event that was given up."""
        if isinstance(event, Envelope):
            self.tell(
                {
                    "exception": problem,
                    "plugin": where if isinstance(where, str) else where[0],
                    "profile": event.profile,
                    "body": event.body,
                    "context": self._contexts,
                }
            )

    def left(self, event: Envelope, where: Where, reason: str) -> None:
        """Tell it of an event that a stop has left."""
        self.dead(event, where, reason, 0, DeliveryError(reason))

    def tell(self, data: dict[str, Any]) -> None:
        """Tell it of something, behind what it is to be told already."""
        if len(self._untold) >= MAX_UNTOLD:
            if not self._skipped:
                log.warning("the function named by error_callback_ref is too slow: it is not told of all")
            self._skipped += 1
            return
        self._untold.append(data)
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._tell_all(), name="evbus error callback")

    async def _tell_all(self) -> None:
        IN_CALLBACK.set(True)
        try:
            while self._untold:
                await self._tell_those_there()
        finally:
            self._task = None
        self._on_told()

    async def _tell_those_there(self) -> None:
        worker = WorkerThread("evbus error callback")
        try:
            while self._untold:
                try:
                    await call(self._tell_one(worker, self._untold.popleft()), 0)
                except BusStopped:
                    # Of all that a stop gives up: that is one thing, and no fault of the function.
                    if not self._in_vain:
                        log.warning(
                            "the function named by error_callback_ref puts events, and the bus, which stops, "
                            "takes none any more"
                        )
                    self._in_vain = True
                except Exception:
                    log.exception("the function named by error_callback_ref failed")
            await worker.close()
        finally:
            worker.stop()

    async def _tell_one(self, worker: WorkerThread, data: dict[str, Any]) -> None:
        on_error = self._on_error
        self._calling = asyncio.current_task()
        try:
            if inspect.iscoroutinefunction(getattr(on_error, "func", on_error)):
                await on_error(data)
                return
            result = await worker.run(copy_context().run, on_error, data)
            if inspect.isawaitable(result):
                await result
        finally:
            self._calling = None

    async def wait(self, patience: float | None) -> None:
        """Return when it has been told of everything, at the latest after ``patience`` seconds if given."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=patience)

    async def close(self, patience: float) -> None:
        """Stop telling, and warn of what it was not told. A call has ``patience`` seconds to end."""
        task = self._task
        left = len(self._untold) + self._skipped
        if task is not None:
            left += 1
            task.cancel()
            await asyncio.wait({task}, timeout=patience)
        self._untold.clear()
        if left:
            log.warning("the function named by error_callback_ref was not told of %d failures", left)
