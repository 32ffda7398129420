"""What becomes of events that were given up: another profile, the dead store, the error callback."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from evbus._call import call
from evbus.types import Envelope

from ._broker import IN_CALLBACK
from ._dead import DeadStore
from ._lane import Dead, Lane
from ._queue import Queue
from ._route import Router

__all__ = ["DeadLetters"]

log = logging.getLogger("evbus.bus")

#: Dead events that the error callback has not been told of yet, at most.
MAX_UNTOLD = 10_000


class DeadLetters:
    """Record dead events, for one run of the bus.

    :param queue: the bus's queue: its lock guards the lanes.
    :param store: takes what no profile gets.
    :param on_error: the error callback, plain or async, or None.
    :param contexts: what the callback is told the profiles are.
    :param on_told: called when the callback has been told of every dead event.
    :ivar router: finds the lanes of a dead letter profile; without it all goes to the store.
    """

    def __init__(
        self,
        queue: Queue,
        store: DeadStore,
        on_error: Callable[[dict[str, Any]], Any] | None,
        contexts: Any,
        on_told: Callable[[], None],
    ) -> None:
        self.router: Router | None = None
        self._queue = queue
        self._store = store
        self._on_error = on_error
        self._contexts = contexts
        self._on_told = on_told
        self._untold: deque[dict[str, Any]] = deque()
        self._teller: asyncio.Task[None] | None = None
        self._skipped = 0

    @property
    def telling(self) -> bool:
        """Whether the error callback is still being told."""
        return self._teller is not None

    def bury(self, lane: Lane, dead: list[Dead]) -> None:
        """Send events to their dead letter profile or to the dead store, and tell the error callback."""
        for entry in dead:
            reason = lane.reason(entry.reason)
            log.error("lane %s: an event is dead after %d attempts: %s", lane.key, entry.attempts, reason)
            try:
                if not self._send(lane, entry, reason):
                    self.keep(lane, entry.event, reason, entry.attempts)
            except Exception:
                log.exception("lane %s: a dead event could not be recorded", lane.key)
            self._tell(lane, entry)

    def _send(self, lane: Lane, entry: Dead, reason: str) -> bool:
        profile = lane.delivery.dead_letter
        # A dead letter that dies is not sent round again.
        if profile is None or self.router is None or "evbus-dead-lane" in entry.event.headers:
            return False
        headers = {
            **entry.event.headers,
            "evbus-dead-lane": str(lane.key),
            "evbus-dead-profile": entry.event.profile,
            "evbus-dead-reason": reason,
            "evbus-dead-attempts": str(entry.attempts),
        }
        letter = entry.event.replace(profile=profile, headers=headers)
        lanes = self.router.lanes(profile)
        if lane.tracker is not None:
            lane.tracker.follow(entry.event, letter, len(lanes))
            for target in lanes:
                target.tracker = lane.tracker
        with self._queue.lock:
            ready = [target for target in lanes if target.offer([letter], len(letter.body))]
        for target in ready:
            target.deliver_now()
        return bool(lanes)

    def keep(self, lane: Lane, event: Envelope, reason: str, attempts: int) -> None:
        """Write an event to the dead store."""
        key = lane.key
        self._store.add(
            event,
            lane=str(key),
            plugin=key.plugin,
            provider=key.provider,
            profile=key.profile,
            reason=reason,
            attempts=attempts,
        )

    def _tell(self, lane: Lane, entry: Dead) -> None:
        if self._on_error is None:
            return
        if len(self._untold) >= MAX_UNTOLD:
            if not self._skipped:
                log.warning("the function named by error_callback_ref is too slow: it is not told of all")
            self._skipped += 1
            return
        self._untold.append(
            {
                "exception": entry.reason,
                "plugin": lane.key.plugin,
                "profile": entry.event.profile,
                "body": entry.event.body,
                "context": self._contexts,
            }
        )
        if self._teller is None:
            loop = asyncio.get_running_loop()
            self._teller = loop.create_task(self._tell_all(self._on_error), name="evbus error callback")

    async def _tell_all(self, on_error: Callable[[dict[str, Any]], Any]) -> None:
        IN_CALLBACK.set(True)
        try:
            while self._untold:
                try:
                    await call(_tell_one(on_error, self._untold.popleft()), 0)
                except Exception:
                    log.exception("the function named by error_callback_ref failed")
        finally:
            self._teller = None
        self._on_told()

    async def close(self, patience: float) -> None:
        """Stop telling; flush and close the store. A callback has ``patience`` seconds to end."""
        teller = self._teller
        left = len(self._untold) + self._skipped
        if teller is not None:
            left += 1
            teller.cancel()
            await asyncio.wait({teller}, timeout=patience)
        self._untold.clear()
        if left:
            log.warning("the function named by error_callback_ref was not told of %d dead events", left)
        await self._store.close()


async def _tell_one(on_error: Callable[[dict[str, Any]], Any], data: dict[str, Any]) -> None:
    if inspect.iscoroutinefunction(getattr(on_error, "func", on_error)):
        await on_error(data)
        return
    result = await asyncio.to_thread(on_error, data)
    if inspect.isawaitable(result):
        await result
