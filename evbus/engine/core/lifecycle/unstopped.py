"""The tasks of a bus whose event loop was closed before it was stopped."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import warnings
from contextvars import Context, ContextVar
from typing import Any

from evbus.engine.kit.owner import PACKAGE

__all__ = ["end_tasks", "mark"]

_PACKAGE = f"{PACKAGE}/"
_beneath: ContextVar[object] = ContextVar("evbus_beneath_a_bus", default=False)


def mark() -> None:
    """Let the tasks that are made in this context, those of client libraries too, be known as the bus's."""
    _beneath.set(True)


def end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """End what evbus has left in a closed loop: asyncio would tell of each task, when it is collected.

    Tasks of the application are not touched.
    """
    with warnings.catch_warnings():
        # What an ending was about to await, which nothing can in a closed loop, is never awaited.
        warnings.simplefilter("ignore", RuntimeWarning)
        for task in asyncio.all_tasks(loop):
            coroutine = task.get_coro()
            code = getattr(coroutine, "cr_code", None)
            if _is_marked(task) or (code is not None and code.co_filename.startswith(_PACKAGE)):
                task._log_destroy_pending = False  # type: ignore[attr-defined] # as asyncio.gather does
                # Not every awaitable of a task can be closed.
                with contextlib.suppress(Exception):
                    coroutine.close()


def _is_marked(task: asyncio.Task[Any]) -> bool:
    if sys.version_info >= (3, 12):
        return bool(task.get_context().get(_beneath))
    # Before Python 3.12 a task does not tell its context.
    return any(isinstance(one, Context) and one.get(_beneath) for one in gc.get_referents(task))
