"""The consumer of one event from one profile, for a listener."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import msgspec.structs

from evbus.engine.core.intake.bridge import Bridge
from evbus.engine.core.intake.sources import EventSource
from evbus.engine.handling.events.declare import EventSpec
from evbus.engine.handling.events.listening import Listening
from evbus.engine.kit.backoff import backoff
from evbus.engine.kit.failure import about
from evbus.engine.kit.redact import said
from evbus.errors import ConfigError, ConnectFailed, EvbusError
from evbus.types import Delivery, Origin, Subscription

__all__ = ["EventConsumer"]

log = logging.getLogger("evbus.event")

#: Seconds between two attempts to take from a source that fails.
PAUSE = (0.5, 30.0)
#: Seconds for which a source works that fails anew, and not again.
LONG = 60.0
#: Seconds that a start waits for a consumer that is there, or refused, at once as a rule.
PATIENCE = 10.0


class EventConsumer:
    """Takes deliveries of one event from one source and hands them to a listener; asks again after a failure.

    :param patience: seconds that what was taken may take when it ends.
    :ivar local: the messages are in this process, and nothing has to be asked for.
    """

    def __init__(
        self, source: EventSource, event: EventSpec, listening: Listening, name: str, patience: float
    ) -> None:
        self.local = source.attach is not None
        self._source = source
        self._event = event
        self._listening = listening
        self._name = name
        self._patience = patience
        self._member: Any = None
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._cut_short = asyncio.Event()
        self._closed = False
        self._origin: Origin | None = None
        self._wanted: Subscription | None = None
        self._began = 0.0
        self._failures = 0
        self._again: asyncio.TimerHandle | None = None
        # Lets the lanes go on that wait for it.
        self._release: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<EventConsumer {self._source.name} {self._event.name} of {self._name}>"

    @property
    def ready(self) -> bool:
        """Whether the listener gets what is sent now, as far as the source says."""
        if self._task is None:
            return self._member is not None
        return not self._task.done() and (self._ready.is_set() or not self._source.announces)

    def start(self, wanted: Subscription) -> None:
        """Begin to take; what this process sends from now on waits for it, a few seconds at most."""
        if self._source.attach is not None:
            self._member = self._source.attach(wanted, self._take_all)
            return
        self._wanted = msgspec.structs.replace(wanted, on_ready=self._on_ready)
        if self._source.expect is not None:
            self._release = self._source.expect(self)
        self._begin()

    def _on_ready(self) -> None:
        self._ready.set()
        self._come()

    def _come(self) -> None:
        """Let nobody wait for it any more."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def _begin(self) -> None:
        assert self._wanted is not None
        loop = asyncio.get_running_loop()
        self._again, self._began = None, loop.time()
        bridge = Bridge(self._source.consume(self._wanted), self._take, self._settled)
        self._task = loop.create_task(bridge.run(0, self._patience), name=f"evbus {self._name}")
        self._task.add_done_callback(self._ended)

    async def _settled(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._cut_short.wait(), seconds)

    def _take(self, delivery: Delivery) -> None:
        origin = delivery.origin
        if origin is not self._origin:
            self._origin = origin
            if origin is not None:
                origin.watch(self._listening.lost)
        if self._closed:
            delivery.give_back()
        else:
            self._listening.take(delivery, self._event, outside=True)

    def _take_all(self, deliveries: list[Delivery]) -> None:
        self._listening.take_all(deliveries, self._event)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._come()
        if task.cancelled() or self._closed:
            return
        problem = task.exception()
        what = (self._name, self._event.name, self._source.name)
        if problem is None:
            log.error("%s: takes nothing more of %s from %s: its source ended", *what)
        elif isinstance(problem, (ConfigError, ConnectFailed)) or (
            self._source.announces and not self._ready.is_set() and not self._failures
        ):
            reason = said(problem)
            log.error("%s: takes nothing more of %s from %s: %s%s", *what, reason, _details(problem, reason))
            log.debug("%s: takes nothing more of %s from %s", *what, exc_info=problem)
        else:
            self._resume(what, problem)

    def _resume(self, what: tuple[str, str, str], problem: BaseException) -> None:
        """Ask the source again that has failed, after a pause; what it had not been told of comes again."""
        loop = asyncio.get_running_loop()
        self._ready.clear()
        self._failures = 1 if loop.time() - self._began > LONG else self._failures + 1
        if self._failures == 1:
            reason = said(problem)
            details = _details(problem, reason)
            log.warning("%s: %s from %s is interrupted, and is asked for again: %s%s", *what, reason, details)
        self._again = loop.call_later(backoff(self._failures, *PAUSE), self._begin)

    async def wait_ready(self) -> None:
        """Return once it is ready, or it takes too long; raise what the source refused with."""
        if self._task is None:
            return
        if self._source.announces and not self._ready.is_set():
            waiting = asyncio.ensure_future(self._ready.wait())
            try:
                await asyncio.wait(
                    {waiting, self._task}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                waiting.cancel()
        if self._task.done() and not self._task.cancelled() and self._again is None:
            self._task.result()

    @property
    def waiting(self) -> int:
        """Events in this process that the listener has not got yet."""
        return 0 if self._member is None else int(self._member.waiting)

    def pause(self) -> None:
        """Take nothing more."""
        if self._again is not None:
            self._again.cancel()
        if self._member is not None:
            self._member.pause()
        if self._task is not None and not self._closed:
            # Once: a second time would end its waiting for what is not settled.
            self._task.cancel()
        self._closed = True

    def cut_short(self) -> None:
        """Wait no longer for what was taken; it stays with its source."""
        self._cut_short.set()

    def abandon(self) -> None:
        """Take nothing, without waiting for anything."""
        self._closed = True
        self._come()
        if self._again is not None:
            self._again.cancel()
        if self._member is not None:
            self._member.end()
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Take nothing more; what is not settled in time stays with its source."""
        self.pause()
        if self._member is not None:
            self._member.end()
        if self._task is not None:
            await asyncio.wait({self._task})
            if not self._task.cancelled():
                self._task.exception()  # said when it ended


def _details(problem: BaseException, reason: str) -> str:
    """Return the place where a source has failed; errors of evbus itself say what is wrong."""
    return "" if isinstance(problem, EvbusError) else about(problem, reason)
