"""The handle of a bus in a program without an event loop: its functions wait instead of being awaited."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from evbus.engine.client.handle import Handle
from evbus.engine.kit.loop_thread import LoopThread
from evbus.errors import EvbusError

__all__ = ["SyncHandle", "at_once", "waiting"]

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def waiting(
    function: Callable[Concatenate[Any, _Given], Awaitable[_Result]],
) -> Callable[Concatenate[SyncHandle, _Given], _Result]:
    """Return a function of a handle as one that is called from other threads, and waits for the result."""

    @functools.wraps(function)
    def wait(handle: SyncHandle, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        __tracebackhide__ = True
        return handle._do(lambda bus: function(bus, *args, **kwargs))

    return wait


def at_once(
    function: Callable[Concatenate[Any, _Given], _Result],
) -> Callable[Concatenate[SyncHandle, _Given], _Result]:
    """Return a function of a handle, which any thread may call, as one of a bus that has to be there."""

    @functools.wraps(function)
    def call(handle: SyncHandle, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        __tracebackhide__ = True
        return function(handle._at_work()[0], *args, **kwargs)

    return call


def _in_the_loop(
    function: Callable[Concatenate[Any, _Given], _Result],
) -> Callable[Concatenate[SyncHandle, _Given], _Result]:
    """Return a plain function of a handle as one that has it called in the loop of the bus."""

    @functools.wraps(function)
    async def call(bus: Any, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        return function(bus, *args, **kwargs)

    return waiting(call)


class SyncHandle:
    """A :class:`Handle` for plain functions, from any thread but that of the bus."""

    def _at_work(self) -> tuple[Handle, LoopThread]:
        """Return the bus, and the thread that it runs in."""
        raise NotImplementedError

    def _do(self, function: Callable[[Handle], Awaitable[_Result]]) -> _Result:
        __tracebackhide__ = True
        handle, thread = self._at_work()
        return thread.do(lambda: function(handle))

    def _refuse_in_listener(self, handle: Handle, what: str) -> None:
        """Refuse what a listener would wait for its own end with."""
        for entry in handle.hub.event.SUBSCRIPTIONS:
            if entry.listening.waits():
                raise EvbusError(f"listener {entry.id} waits for its own end: {what} is for the others")

    def run(self, awaitable: Awaitable[_Result]) -> _Result:
        """Await something in the loop of the bus, such as a function of the application; return its result.

        Context variables of the caller are seen there.
        """
        __tracebackhide__ = True
        return self._do(lambda _: awaitable)

    def settle(self, timeout: float | None = None) -> None:
        """Return when everything that was put is delivered, and every listener here is done with it.

        What has been delivered to a broker, and has not come from there, is not waited for.

        :param timeout: seconds; default: as long as it takes.
        :raises SettleTimeout: it took longer; tells what is left.
        :raises EvbusError: a listener of this bus waits, which would be for its own end.
        """
        __tracebackhide__ = True
        self._refuse_in_listener(self._at_work()[0], "settle()")
        self._do(lambda handle: handle.settle(timeout))

    put = waiting(Handle.put)
    put_nowait = at_once(Handle.put_nowait)
    send = waiting(Handle.send)
    send_nowait = at_once(Handle.send_nowait)
    subscribe = _in_the_loop(Handle.subscribe)
    listen = _in_the_loop(Handle.listen)
    unsubscribe = waiting(Handle.unsubscribe)
    ready = waiting(Handle.ready)
