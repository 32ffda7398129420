"""Await a plugin's coroutine with a deadline, telling its failures from our own cancellation."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Coroutine, Generator
from typing import Any

from evbus.errors import DeliveryError, DeliveryTimeout

__all__ = ["call"]

_STRAY = "the plugin was cancelled from within; a client library does that when it loses its connection"


if sys.version_info >= (3, 11):

    async def call(coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """Await ``coroutine`` for at most ``seconds`` (0: for ever) and return its result.

        A ``CancelledError`` that the plugin raises by itself, as client libraries do when a connection dies,
        comes out as :class:`DeliveryError`; only a cancellation of the calling task stays one. Raises
        :class:`DeliveryTimeout` after ``seconds``.
        """
        # Much of what plugins do ends without waiting for anything. That costs no timer: cancelled ones pile
        # up in the loop until they would have rung.
        try:
            awaited = coroutine.send(None)
        except StopIteration as done:
            return done.value
        except asyncio.CancelledError as exc:
            raise DeliveryError(_STRAY) from exc
        return await _wait(_resume(coroutine, awaited), seconds)

    @types.coroutine
    def _resume(coroutine: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Any]:
        """Await a coroutine that was begun by hand and waits for ``awaited``."""
        while True:
            try:
                try:
                    sent = yield awaited
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as exc:
                    awaited = coroutine.throw(exc)
                else:
                    awaited = coroutine.send(sent)
            except StopIteration as done:
                return done.value

    async def _wait(coroutine: Any, seconds: float) -> Any:
        deadline = asyncio.timeout(seconds or None)
        try:
            async with deadline:
                return await coroutine
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise DeliveryError(_STRAY) from exc
        except TimeoutError as exc:
            if deadline.expired():
                raise DeliveryTimeout(seconds) from exc
            raise

else:

    async def call(coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """Await ``coroutine`` for at most ``seconds``; see the version for Python 3.11.

        Python 3.10 does not tell who cancelled a task, so the plugin gets a task of its own.
        """
        task = asyncio.ensure_future(coroutine)
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds or None)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # looked at, or asyncio would log that nobody did
            raise
        if not done:
            task.cancel()
            await asyncio.wait({task})
            if task.cancelled() or task.exception() is not None:
                raise DeliveryTimeout(seconds)
        if task.cancelled():
            raise DeliveryError(_STRAY)
        return task.result()
