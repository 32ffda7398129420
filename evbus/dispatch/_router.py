"""Routers: how a message gets to its handlers, and what comes of that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from evbus.errors import DispatchDeadlock, DispatcherStopped
from evbus.types import Envelope

from ._annotations import message_name
from ._binding import Binding
from ._core import Core, State
from ._fanout import Fanout
from ._frame import CURRENT, Frame
from ._lane import Lane, Queued, leads_back
from ._registry import Registry
from ._slots import Slots
from ._within import Limit, within

__all__ = ["Router"]


class Router(Registry):
    """The handlers of one sort of messages, and the messages on their way to them.

    Derive :class:`EventRouter` or :class:`RequestRouter` to put another in its place.
    """

    def __init__(self, core: Core, name: str) -> None:
        super().__init__(core, name)
        self.slots = Slots(core.freed)
        self.lanes: dict[Any, Lane] = {}
        self.handled = 0
        self.failed = 0
        # What is handled within another message needs no slot of its own: its root has one.
        self._nested = Slots(core.freed)
        self._queued = 0
        # Handlers that get one message at a time.
        self._alone: dict[Any, Lane] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} messages={len(self._bindings)} {self.slots!r}>"

    async def handle(
        self,
        message: Any,
        key: Any = None,
        wait_for_response: bool = False,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Hand a message to its handlers; see ``hub.dispatch.init.handle``."""
        kind = message if isinstance(message, (str, type)) else type(message)
        bindings = self._found.get(kind) or self.find(message)
        above = CURRENT.get()
        core = self.core
        if core.state is not State.RUNNING:
            core.refuse(above)
        if not bindings:
            self.unhandled(message)
            return None
        envelope = None
        if core.send is not None or headers is not None:
            envelope = core.envelope(message_name(kind), headers)
        limit = None if timeout is None else Limit.of(timeout)
        if not wait_for_response:
            if above is None and len(self.slots) + self._queued >= self.slots.backlog:
                await self.slots.room()
            self.hand_over(bindings, message, key, envelope, limit)
            return None
        if limit is not None:
            waiting = self._wait(bindings, message, key, above, envelope, limit)
            return await within(waiting, limit, message_name(kind))
        if key is not None or len(bindings) > 1:
            return await self._wait(bindings, message, key, above, envelope, None)
        frame = Frame(_root(above), None, _held(None, above), envelope, None)
        return await self._run(bindings[0], message, frame, above)

    def unhandled(self, message: Any) -> None:
        """Do what is to be done about a message that has no handler."""
        raise self.missing(message)

    async def _run(self, binding: Binding, message: Any, frame: Frame, above: Frame | None) -> Any:
        """Handle a message in the task of its caller."""
        if above is None:
            if not self.slots.try_enter():
                await self.slots.enter()
            frame.slots = self.slots
        try:
            return await self.perform(binding, message, frame)
        finally:
            if above is None:
                frame.leave()

    async def _wait(
        self,
        bindings: tuple[Binding, ...],
        message: Any,
        key: Any,
        above: Frame | None,
        envelope: Envelope | None,
        limit: Limit | None,
    ) -> Any:
        lane = None
        if key is not None:
            lane = self.lanes.get(key)
            if lane is None:
                lane = Lane(self.lanes, key)
            else:
                await self._turn(lane, message, above)
        if len(bindings) > 1:
            await self._run_all(bindings, message, key, above, lane, envelope, limit)
            return None
        frame = Frame(_root(above), key, _held(lane, above), envelope, limit)
        try:
            return await self._run(bindings[0], message, frame, above)
        finally:
            if lane is not None:
                lane.pass_on()

    async def _turn(self, lane: Lane, message: Any, above: Frame | None) -> None:
        """Wait for a turn in a lane that others hold."""
        if above is None:
            await lane.turn()
            return
        holds = above.holds
        if leads_back(lane, holds):
            raise self._deadlock(lane, message)
        waiting = []
        while holds is not None:
            waiting.append(holds[0])
            holds = holds[1]
        for hold in waiting:
            hold.waits.append(lane)
        root = above.above or above
        root.give_way()
        has_turn = False
        try:
            await lane.turn()
            has_turn = True
        finally:
            for hold in waiting:
                hold.waits.remove(lane)
            try:
                await root.go_on()
            except BaseException:
                if has_turn:
                    lane.pass_on()
                raise

    def _deadlock(self, lane: Lane, message: Any) -> DispatchDeadlock:
        name = self.name_of(message)
        return DispatchDeadlock(
            f"{self.name}: {name} with the key {lane.key!r} is to be handled within a handler that holds "
            "this key, or waits for one that does, so neither could ever end; hand it over without "
            "wait_for_response, or with another key"
        )

    async def _run_all(
        self,
        bindings: tuple[Binding, ...],
        message: Any,
        key: Any,
        above: Frame | None,
        lane: Lane | None,
        envelope: Envelope | None,
        limit: Limit | None,
    ) -> None:
        """Run several handlers at once and wait for all of them; raise what the first that failed raised."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_done() -> None:
            if lane is not None:
                lane.pass_on()
            if not done.done():
                done.set_result(None)

        # What is handled within another message needs no slot of its own: its root has one.
        slots = self.slots if above is None else self._nested
        taken = self.slots if above is None else None
        frame = (_root(above), key, _held(lane, above), envelope, limit, taken)
        job = Fanout(self, bindings, message, frame, copy_context(), on_done, waits=True)
        slots.submit(job)
        try:
            await done
        except BaseException:
            job.cancel()
            raise
        if job.error is not None:
            raise job.error

    def hand_over(
        self,
        bindings: tuple[Binding, ...],
        message: Any,
        key: Any,
        envelope: Envelope | None,
        limit: Limit | None,
    ) -> None:
        """Let workers handle a message, now or when it is its key's turn. Nobody waits for it."""
        if key is None:
            frame = (None, None, None, envelope, limit, self.slots)
            self.slots.submit(Fanout(self, bindings, message, frame, copy_context()))
            return
        begin = partial(self._begin, bindings, message, key, envelope, limit, copy_context())
        lane = self.lanes.get(key)
        if lane is None:
            begin(Lane(self.lanes, key))
        else:
            self._queued += 1
            lane.waiting.append(
                Queued(partial(self._turn_comes, begin, lane), partial(self._drop, bindings, message, key))
            )

    def _begin(
        self,
        bindings: tuple[Binding, ...],
        message: Any,
        key: Any,
        envelope: Envelope | None,
        limit: Limit | None,
        context: Context,
        lane: Lane,
    ) -> None:
        frame = (None, key, _held(lane, None), envelope, limit, self.slots)
        self.slots.submit(Fanout(self, bindings, message, frame, context, lane.pass_on))

    def _turn_comes(self, begin: Callable[[Lane], None], lane: Lane) -> None:
        self._queued -= 1
        begin(lane)

    def _drop(self, bindings: tuple[Binding, ...], message: Any, key: Any) -> None:
        self._queued -= 1
        for binding in bindings:
            self.report(binding, message, Frame(None, key, None, None, None), DispatcherStopped())

    async def perform(self, binding: Binding, message: Any, frame: Frame) -> Any:
        """Call a handler, with the interceptors around it, and send the events that it leaves behind."""
        token = CURRENT.set(frame)
        try:
            if self.core.around is None and not binding.alone:
                result = await binding.call(message)
            else:
                result = await self._guarded(binding, message, frame)
            events = frame.events
            if binding.leaves:
                events = await binding.left(result, events)
            self.handled += 1
            if events:
                self.emit(events, frame.key)
        except BaseException:
            self.failed += 1
            if binding.leaves:
                await binding.discard()
            raise
        finally:
            CURRENT.reset(token)
        return result

    async def _guarded(self, binding: Binding, message: Any, frame: Frame) -> Any:
        """Call a handler with interceptors around it, or one that gets one message at a time."""
        around = self.core.around
        if not binding.alone:
            lane = None
        elif (lane := self._alone.get(binding)) is None:
            lane = Lane(self._alone, binding)
        else:
            await self._turn(lane, message, frame)
        try:
            if lane is not None:
                frame.holds = (lane.hold, frame.holds)
            if around is None:
                return await binding.call(message)

            async def handle(envelope: Envelope) -> Any:
                frame.envelope = envelope
                return await binding.call(message)

            return await around(frame.envelope or self.core.envelope(binding.message_name, None), handle)
        finally:
            if lane is not None:
                lane.pass_on()

    @property
    def intercepted(self) -> bool:
        """Whether there are interceptors around handlers."""
        return self.core.around is not None

    def emit(self, events: list[Any], key: Any) -> None:
        """Send the events that a handler left behind."""
        self.core.emit(events, key)

    def report(self, binding: Binding, message: Any, frame: Frame, problem: BaseException) -> None:
        """Tell of a failure that nobody waits for."""
        self.core.report(self.name, binding, message, frame, problem)

    def snapshot(self) -> dict[str, int]:
        """Return the router's counters."""
        return {
            "handlers": sum(len(bound) for bound in self._bindings.values()),
            "handled": self.handled,
            "failed": self.failed,
            "running": self.slots.active,
            "queued": len(self.slots) + self._queued,
            "keys": len(self.lanes),
        }

    def idle(self, own: int) -> bool:
        """Return whether nothing waits, and no more than ``own`` handlers run."""
        return self.slots.active <= own and not len(self.slots) and not self._nested.active

    def drop(self, problem: Exception) -> None:
        """Give up what waits for a slot or for its key's turn."""
        for lane in list(self.lanes.values()):
            lane.drop(problem)
        self.slots.drop(problem)
        self._nested.drop(problem)

    async def cancel(self, seconds: float) -> None:
        """Cancel the handlers that workers run."""
        await asyncio.gather(self.slots.cancel(seconds), self._nested.cancel(seconds))


def _root(above: Frame | None) -> Frame | None:
    return None if above is None else above.above or above


def _held(lane: Lane | None, above: Frame | None) -> Any:
    holds = None if above is None else above.holds
    return holds if lane is None else (lane.hold, holds)
