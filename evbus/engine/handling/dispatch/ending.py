"""The end of a dispatcher: what is there is handled, and the rest is given up."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, NamedTuple

from evbus.engine.handling.dispatch.core import HOLDER, Core, DispatcherState
from evbus.engine.handling.dispatch.key_lock import held
from evbus.engine.handling.dispatch.router import DispatchRouter
from evbus.engine.handling.dispatch.signals import Signals
from evbus.engine.handling.frame import CURRENT, Invocation
from evbus.errors import DispatcherStopped

__all__ = ["DispatchReport", "Ending"]

log = logging.getLogger("evbus.dispatch")

#: Seconds that cancelled handlers have to end.
GRACE = 5.0


class DispatchReport(NamedTuple):
    """A report of a stop: by message, how many were not handled, and the seconds that it took."""

    unhandled: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        """Say it in a sentence."""
        if not self.unhandled:
            return f"every message was handled ({self.seconds:.1f} s)"
        said = ", ".join(f"{count} of {name}" for name, count in sorted(self.unhandled.items()))
        return f"not handled when the dispatcher was stopped: {said} ({self.seconds:.1f} s)"


class Ending:
    """Stops three routers: waits for the messages that are there, and gives up the rest.

    :ivar intakes: tasks that take messages from outside, cancelled before the rest is handled.
    :ivar report: of the last stop.
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self.core.on_free = self._freed
        self.intakes: set[asyncio.Task[Any]] = set()
        self.report = DispatchReport({}, 0.0)
        self._idle: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        # What handlers that stop the dispatcher are handling: nobody can wait for these.
        self._stopping: list[Invocation] = []
        self._cut_short = False
        self._signals = Signals(self._on_signal)
        self._awaiting: set[asyncio.Future[None]] = set()

    @property
    def routers(self) -> tuple[DispatchRouter, ...]:
        """The routers."""
        raise NotImplementedError

    async def stop(self, timeout: float = 30.0) -> DispatchReport:
        """Take no new messages, handle those that are there, and close what was made for the handlers.

        What is not handled after ``timeout`` seconds is cancelled or given up, and reported. Handlers may go
        on sending messages until then. Called by a handler, it waits for all but that one. Cancelled, it
        gives up at once.
        """
        frame = CURRENT.get()
        if frame is None:
            return await self._stop(timeout)
        # Others may need the slot to end.
        root = frame.above or frame
        root.give_way()
        self._stopping.append(frame)
        self._freed()
        try:
            return await self._stop(timeout)
        finally:
            self._stopping.remove(frame)
            root.retake()

    async def _stop(self, timeout: float) -> DispatchReport:
        core = self.core
        if self._ended is not None:
            await asyncio.shield(self._ended)
            return self.report
        if core.state is not DispatcherState.RUNNING:
            await core.injector.release(HOLDER)
            return self.report
        began = time.monotonic()
        ended = self._ended = asyncio.get_running_loop().create_future()
        self._tell_awaiting()
        try:
            await self._end(timeout)
        finally:
            self.report = DispatchReport(dict(core.undelivered), time.monotonic() - began)
            if self.report.unhandled:
                log.error("%s", self.report)
            self._ended = None
            ended.set_result(None)
        return self.report

    async def _end(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        try:
            await self._take_nothing_more(until)
            self.core.state = DispatcherState.STOPPING
            await self._wait(set(), until)
        finally:
            self.core.state = DispatcherState.STOPPED
            await self._give_up()
            await self.core.injector.release(HOLDER)

    async def _take_nothing_more(self, until: float) -> None:
        """End the intakes; each waits for what it took to be handled, unless it is cancelled once more."""
        tasks = self.intakes - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        try:
            while tasks and not self._cut_short and time.monotonic() < until:
                tasks -= await self._wait(tasks, until)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=GRACE)

    async def _wait(self, tasks: set[asyncio.Task[Any]], until: float) -> set[asyncio.Future[Any]]:
        """Wait for the first of some tasks, without any until all is idle, or until the stop is cut short."""
        if self._cut_short or (not tasks and self._is_idle()):
            return set()
        self._idle = asyncio.get_running_loop().create_future()
        try:
            done: set[asyncio.Future[Any]]
            done, _ = await asyncio.wait(
                {*tasks, self._idle},
                timeout=max(until - time.monotonic(), 0),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            self._idle = None
        return done

    def _is_idle(self) -> bool:
        own = {id(hold) for frame in self._stopping for hold in held(frame.holds)}
        alone = self.core.alone.values()
        return all(router.idle(own) for router in self.routers) and all(
            id(lock.hold) in own for lock in alone
        )

    def _freed(self) -> None:
        if self._idle is not None and not self._idle.done() and self._is_idle():
            self._idle.set_result(None)

    async def _give_up(self) -> None:
        """Drop what waits, if only for a handler that stops the dispatcher, and cancel what runs."""
        for router in self.routers:
            router.drop()
        for lock in list(self.core.alone.values()):
            lock.drop(DispatcherStopped)
        if self._is_idle():
            return
        spared = {asyncio.current_task()}
        for frame in self._stopping:
            spared |= {frame.task, (frame.above or frame).task}
        await asyncio.gather(*(router.cancel(GRACE, spared) for router in self.routers))
        left = sum(router.pool.active for router in self.routers)
        if left:
            log.error(
                "handlers that still run, as they cannot be cancelled or somebody awaits them: %d", left
            )

    def hurry(self) -> None:
        """Let a stop that is under way wait no longer."""
        self._cut_short = True
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def wait_for_shutdown(self, timeout: float = 30.0) -> DispatchReport:
        """Wait for SIGINT or SIGTERM, or for somebody else to stop the dispatcher; then :meth:`stop`.

        A second signal waits for nothing more.

        :raises DispatchError: this is not the main thread, which alone gets signals.
        """
        if self.core.state in (DispatcherState.NEW, DispatcherState.STOPPED):
            self.core.refuse(None)
        with self._signals:
            if self._ended is None:
                await self._signalled()
            return await self.stop(timeout)

    async def _signalled(self) -> None:
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaiting.add(told)
        try:
            await told
        finally:
            self._awaiting.discard(told)

    def _tell_awaiting(self) -> bool:
        """Tell those who wait for a signal; return whether there was one who did not know."""
        told = [one for one in self._awaiting if not one.done()]
        for one in told:
            one.set_result(None)
        return bool(told)

    def _on_signal(self) -> None:
        if not self._tell_awaiting():
            self.hurry()
