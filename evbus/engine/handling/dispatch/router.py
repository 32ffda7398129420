"""Routers: how a message gets to its handlers, and what comes of that."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Mapping
from contextvars import Context, copy_context
from functools import partial
from typing import Any, TypeVar

from evbus.engine.handling.annotations import message_name
from evbus.engine.handling.binding import Binding, HandlerBinding
from evbus.engine.handling.dispatch.core import Core, DispatcherState
from evbus.engine.handling.dispatch.fanout import Fanout
from evbus.engine.handling.frame import CURRENT, Invocation
from evbus.engine.handling.key_lock import KeyLock, find, held, leads_back
from evbus.engine.handling.pool import WorkerPool
from evbus.engine.handling.providers import name_of
from evbus.engine.handling.within import Limit, within
from evbus.engine.kit.waiting import failure_of, running
from evbus.errors import DispatchDeadlock, DispatcherStopped, HandlerDoesNotExist, RouterFrozen, nearest
from evbus.types import Envelope

__all__ = ["REMEMBERED", "DispatchRouter"]


#: Kinds of messages whose handlers are remembered.
REMEMBERED = 10_000

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Message = type | str


class DispatchRouter:
    """The handlers of one sort of messages, and the messages on their way to them.

    Derive :class:`EventRouter` or :class:`RequestRouter` to put another in its place.

    :ivar name: that of the router on the hub.
    """

    def __init__(self, core: Core, name: str) -> None:
        self.core = core
        self.name = name
        self._bindings: dict[_Message, list[Binding]] = {}
        self._found: dict[_Message, tuple[Binding, ...]] = {}
        self.pool = WorkerPool(core.freed)
        self.locks: dict[Any, KeyLock] = {}
        self.handled = 0
        self.failed = 0
        # What is handled within another message needs no slot of its own: its root has one.
        self._nested = WorkerPool(core.freed)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} messages={len(self._bindings)} {self.pool!r}>"

    # Binding

    def bind(
        self,
        message: Any,
        handler: Any,
        argname: str | None = None,
        response_event: Any = None,
        **initkwargs: Any,
    ) -> Binding:
        """Let ``handler`` handle ``message``.

        :param message: a class, whose instances and those of its subclasses are meant, or a string.
        :param handler: an ``async def`` function, or an object or class with ``handle`` or an asynchronous
            ``__call__``; a class is built with ``initkwargs``.
        :param argname: the parameter that takes the message, where that is not clear.
        :param response_event: a class, or several: a result of it is sent on as an event.
        :param initkwargs: what else the handler takes: values, ``Singleton[...]``, ``Factory[...]``.
        :raises HandlerError: the handler cannot be bound; says why, and what would be right.
        """
        self.check_open(message, name_of(handler))
        binding = HandlerBinding(
            message,
            handler,
            injector=self.core.injector,
            the_hub=self.core.the_hub,
            argname=argname,
            response_event=response_event,
            given=initkwargs,
        )
        self.add(binding)
        return binding

    def check_open(self, message: Any, handler: str) -> None:
        """Refuse a handler once the dispatcher is started.

        :raises RouterFrozen: it is.
        """
        if self.core.frozen:
            raise RouterFrozen(
                "the dispatcher is started and its routers are frozen; bind before the start",
                message=message_name(message),
                handler=handler,
            )

    def register(
        self, message: Any, argname: str | None = None, response_event: Any = None, **initkwargs: Any
    ) -> Callable[[_Function], _Function]:
        """Return a decorator that binds a function or class and leaves it as it is; see :meth:`bind`."""

        def decorate(handler: _Function) -> _Function:
            self.bind(message, handler, argname, response_event, **initkwargs)
            return handler

        return decorate

    def add(self, binding: Binding) -> None:
        """Add a binding, at any time.

        :raises HandlerExists: there is one in its place.
        :raises HandlerSignatureError: the dispatcher runs, and something that the handler takes is provided
            by nobody.
        """
        self._check_room(binding, self._bindings.get(binding.message, []))
        if self.core.state in (DispatcherState.RUNNING, DispatcherState.STOPPING):
            binding.complete()
        self._bindings.setdefault(binding.message, []).append(binding)
        self._found.clear()
        self.core.routes.clear()

    def remove(self, binding: Binding) -> bool:
        """Take a binding away, at any time; messages on their way to it still arrive."""
        bound = self._bindings.get(binding.message, [])
        if binding not in bound:
            return False
        bound.remove(binding)
        if not bound:
            del self._bindings[binding.message]
        self._found.clear()
        self.core.routes.clear()
        return True

    def bindings(self) -> list[Binding]:
        """Return all bindings, in the order in which their messages were first bound."""
        return [binding for bound in self._bindings.values() for binding in bound]

    def _check_room(self, binding: Binding, bound: list[Binding]) -> None:
        raise NotImplementedError

    # Finding

    def find(self, message: Any) -> tuple[Binding, ...]:
        """Return the bindings of a message: those of its own class first, then those of its bases."""
        kind = message if isinstance(message, (str, type)) else type(message)
        found = self._found.get(kind)
        if found is None:
            found = self._select(kind)
            if found:
                if len(self._found) >= REMEMBERED:
                    self._found.clear()
                self._found[kind] = found
        return found

    def _select(self, kind: _Message) -> tuple[Binding, ...]:
        raise NotImplementedError

    def _by_kind(self, kind: _Message) -> list[list[Binding]]:
        """Return lists of bindings, the most specific first."""
        kinds: list[Any] = [kind, str, object] if isinstance(kind, str) else list(inspect.getmro(kind))
        return [self._bindings[each] for each in kinds if each in self._bindings]

    def missing(self, message: Any) -> HandlerDoesNotExist:
        """Return the error that says that a message has no handler."""
        name = self.name_of(message)
        known = [message_name(each) for each in self._bindings]
        return HandlerDoesNotExist(f"{self.name}: there is no handler for {name}{nearest(name, known)}")

    @staticmethod
    def name_of(message: Any) -> str:
        """Return the name of a message in sentences."""
        return message_name(message if isinstance(message, (str, type)) else type(message))

    # Handling

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
        if above is not None and (above.above or above).pool is None:
            above = None  # this task was begun by a handler, and has outlived it
        core = self.core
        if core.state is not DispatcherState.RUNNING:
            core.refuse(above)
        if not bindings:
            self.unhandled(message)
            return None
        envelope = None
        if core.send is not None or headers is not None:
            envelope = core.envelope(message_name(kind), headers, sends=not bindings[0].forwarded)
        limit = None if timeout is None else Limit.of(timeout)
        if not wait_for_response:
            while above is None and self.pool.full():
                await self.pool.room()
                core.refuse_unless_running()
            self.hand_over(bindings, message, key, envelope, limit)
            return None
        if limit is not None:
            waiting = self._wait(bindings, message, key, above, envelope, limit)
            return await within(waiting, limit, message_name(kind))
        if key is not None or len(bindings) > 1:
            return await self._wait(bindings, message, key, above, envelope, None)
        frame = Invocation(_root(above), None, _held(None, above), envelope, None)
        return await self._run(bindings[0], message, frame)

    def unhandled(self, message: Any) -> None:
        """Do what is to be done about a message that has no handler."""
        raise self.missing(message)

    async def _run(self, binding: Binding, message: Any, frame: Invocation) -> Any:
        """Handle a message in the task of its caller."""
        root = frame.above
        if root is not None:
            root.below += 1
        else:
            if not self.pool.try_enter():
                await self.pool.enter()
            frame.pool = self.pool
        try:
            return await self.perform(binding, message, frame)
        finally:
            frame.ended = True
            if root is not None:
                root.done_below()
            else:
                frame.leave()

    async def _wait(
        self,
        bindings: tuple[Binding, ...],
        message: Any,
        key: Any,
        above: Invocation | None,
        envelope: Envelope | None,
        limit: Limit | None,
    ) -> Any:
        root = _root(above)
        if root is not None:
            root.below += 1
        lock = None
        try:
            if key is not None:
                lock = find(self.locks, key)
                if lock is None:
                    lock = KeyLock(self.locks, key)
                else:
                    await self._turn(lock, message, above)
            if len(bindings) > 1:
                await self._run_all(bindings, message, key, above, lock, envelope, limit)
                return None
            frame = Invocation(root, key, _held(lock, above), envelope, limit)
            return await self._run_one(bindings[0], message, frame, lock)
        finally:
            if root is not None:
                root.done_below()

    async def _run_one(self, binding: Binding, message: Any, frame: Invocation, lock: KeyLock | None) -> Any:
        try:
            return await self._run(binding, message, frame)
        finally:
            if lock is not None:
                lock.release()
                self.core.freed()

    async def _turn(self, lock: KeyLock, message: Any, above: Invocation | None) -> None:
        """Wait for a lock that others hold."""
        if above is None:
            try:
                await lock.acquire()
            except BaseException:
                self.core.freed()
                raise
        else:
            await self._turn_within(lock, message, above)
        if self.core.state is DispatcherState.STOPPED:
            lock.release()
            raise DispatcherStopped

    async def _turn_within(self, lock: KeyLock, message: Any, above: Invocation) -> None:
        holds = above.holds
        if leads_back(lock, holds):
            raise self._deadlock(lock, message)
        waiting = list(held(holds))
        for hold in waiting:
            hold.waits.append(lock)
        root = above.above or above
        root.give_way()
        try:
            await lock.acquire()
        except BaseException:
            root.retake()
            raise
        finally:
            for hold in waiting:
                hold.waits.remove(lock)
        try:
            await root.go_on()
        except BaseException:
            lock.release()
            raise

    def _deadlock(self, lock: KeyLock, message: Any) -> DispatchDeadlock:
        name = self.name_of(message)
        if lock.of is self.core.alone:
            return DispatchDeadlock(
                f"{self.name}: {name} is to be handled by an object that keeps its events in itself, and so "
                "gets one message at a time, within a handler that waits for that; hand it over without "
                "wait_for_response, or derive the handler's class from AbstractHandler"
            )
        return DispatchDeadlock(
            f"{self.name}: {name} with the key {lock.key!r} is to be handled within a handler that holds "
            "this key, or waits for one that does, so neither could ever end; hand it over without "
            "wait_for_response, or with another key"
        )

    async def _run_all(
        self,
        bindings: tuple[Binding, ...],
        message: Any,
        key: Any,
        above: Invocation | None,
        lock: KeyLock | None,
        envelope: Envelope | None,
        limit: Limit | None,
    ) -> None:
        """Run several handlers at once and wait for all of them; raise what the first that failed raised."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        root = _root(above)

        def on_done() -> None:
            if lock is not None:
                lock.release()
            if root is not None:
                root.done_below()
            self.core.freed()
            if not done.done():
                done.set_result(None)

        # What is handled within another message needs no slot of its own: its root has one.
        pool, taken = (self.pool, self.pool) if root is None else (self._nested, None)
        frame = (root, key, _held(lock, above), envelope, limit, taken)
        job = Fanout(self, bindings, message, frame, copy_context(), on_done, waits=True)
        if root is not None:
            root.below += 1
        pool.submit(job)
        try:
            await done
        except asyncio.CancelledError:
            done = asyncio.get_running_loop().create_future()
            job.cancel()
            if not job.ended:
                await done
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
            frame = (None, None, None, envelope, limit, self.pool)
            self.pool.submit(Fanout(self, bindings, message, frame, copy_context()))
            return
        begin = partial(self._begin, bindings, message, key, envelope, limit, copy_context())
        lock = find(self.locks, key)
        if lock is None:
            begin(KeyLock(self.locks, key))
        else:
            self.pool.behind += 1
            lock.waiting.append(
                (partial(self._turn_comes, begin, lock), partial(self._drop, bindings, message, key))
            )

    def _begin(
        self,
        bindings: tuple[Binding, ...],
        message: Any,
        key: Any,
        envelope: Envelope | None,
        limit: Limit | None,
        context: Context,
        lock: KeyLock,
    ) -> None:
        frame = (None, key, _held(lock, None), envelope, limit, self.pool)
        self.pool.submit(Fanout(self, bindings, message, frame, context, lock.release))

    def _turn_comes(self, begin: Callable[[KeyLock], None], lock: KeyLock) -> None:
        self.pool.behind -= 1
        begin(lock)

    def _drop(self, bindings: tuple[Binding, ...], message: Any, key: Any) -> None:
        self.pool.behind -= 1
        self.lost(bindings[0])
        for binding in bindings:
            self.report(binding, message, Invocation(None, key, None, None, None), DispatcherStopped())

    async def perform(self, binding: Binding, message: Any, frame: Invocation) -> Any:
        """Call a handler, with the interceptors around it, and send the events that it leaves behind."""
        token = CURRENT.set(frame)
        try:
            if self.core.around is None and not binding.leaves:
                result = await binding.call(message)
            else:
                result = await self._guarded(binding, message, frame)
            self.handled += 1
            if frame.events:
                events, frame.events = frame.events, None
                if frame.inside is None:
                    self.emit(events, frame.key)
                else:
                    frame.inside.run(self.emit, events, frame.key)
        except BaseException as exc:
            self.failed += 1
            if isinstance(exc, (Exception, GeneratorExit)):
                raise
            # Whoever waits is not to end with it, or to think that it was cancelled.
            raise failure_of(exc, running()) from exc
        finally:
            CURRENT.reset(token)
        return result

    async def _guarded(self, binding: Binding, message: Any, frame: Invocation) -> Any:
        """Call a handler when it is its turn, where it gets one message at a time."""
        if binding.alone is None:
            return await self._called(binding, message, frame)
        lock = self.core.alone.get(binding.alone)
        if lock is None:
            lock = KeyLock(self.core.alone, binding.alone)
        else:
            await self._turn(lock, message, frame)
        above, frame.holds = frame.holds, (lock.hold, frame.holds)
        try:
            return await self._called(binding, message, frame)
        finally:
            frame.holds = above
            lock.release()

    async def _called(self, binding: Binding, message: Any, frame: Invocation) -> Any:
        """Call a handler with the interceptors around it; what it leaves behind is in the frame then."""
        around = None if binding.forwarded else self.core.around
        try:
            if around is None:
                result = await binding.call(message)
            else:
                frame.inside = None

                async def handle(envelope: Envelope) -> Any:
                    frame.envelope = envelope
                    result = await binding.call(message)
                    # Its events belong to what the interceptors have set, such as a session or a trace.
                    frame.inside = copy_context()
                    return result

                envelope = frame.envelope or self.core.envelope(binding.message_name, None)
                result = await around(envelope, handle)
            if binding.leaves:
                frame.events = await binding.left(result, frame)
        except BaseException:
            if binding.leaves:
                await binding.discard()
            raise
        return result

    @property
    def intercepted(self) -> bool:
        """Whether there are interceptors around handlers."""
        return self.core.around is not None

    def emit(self, events: list[Any], key: Any) -> None:
        """Send the events that a handler left behind."""
        self.core.emit(events, key)

    def report(self, binding: Binding, message: Any, frame: Invocation, problem: BaseException) -> bool:
        """Tell of a failure that nobody waits for; return whether it comes of a stop."""
        return self.core.report(self.name, binding, message, frame, problem)

    def lost(self, binding: Binding) -> None:
        """Count a message that a stop gave up."""
        self.core.undelivered[binding.message_name] += 1

    def snapshot(self) -> dict[str, int]:
        """Return the router's counters."""
        return {
            "handlers": sum(len(bound) for bound in self._bindings.values()),
            "handled": self.handled,
            "failed": self.failed,
            "running": self.pool.active,
            "queued": len(self.pool) + self.pool.behind,
            "keys": len(self.locks),
        }

    def idle(self, own: set[int]) -> bool:
        """Return whether nothing runs or waits, but for what waits for a key that one of ``own`` holds.

        :param own: the ids of holds.
        """
        if self.pool.active or len(self.pool):
            return False
        return len(self.locks) <= len(own) and all(id(lock.hold) in own for lock in self.locks.values())

    def drop(self) -> None:
        """Give up what waits for a slot or for its key's turn."""
        for lock in list(self.locks.values()):
            lock.drop(DispatcherStopped)
        self.pool.drop(DispatcherStopped)
        self._nested.drop(DispatcherStopped)

    async def cancel(self, seconds: float, spared: Collection[Any]) -> None:
        """Cancel the handlers that workers run, but for those of some workers."""
        await asyncio.gather(self.pool.cancel(seconds, spared), self._nested.cancel(seconds, spared))


def _root(above: Invocation | None) -> Invocation | None:
    return None if above is None else above.above or above


def _held(lock: KeyLock | None, above: Invocation | None) -> Any:
    holds = None if above is None else above.holds
    return holds if lock is None else (lock.hold, holds)
