"""The bus of a test that is a plain function: it runs in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar

from ._bus import Bus
from ._failures import Failure
from ._sent import Sent
from ._watch import Dead

__all__ = ["SyncBus"]

_Result = TypeVar("_Result")


class SyncBus:
    """A :class:`Bus` whose functions wait instead of being awaited; for plain tests.

    :ivar hub: its hub. What is put with ``hub.evbus.broker.put_nowait`` may come from any thread; what has to
        be awaited goes through :meth:`run`.
    """

    def __init__(self, made: Bus) -> None:
        self.hub = made.hub
        self._bus = made
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="evbus of a test", daemon=True)

    def __repr__(self) -> str:
        return f"<Sync{repr(self._bus)[1:]}"

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def run(self, awaitable: Awaitable[_Result]) -> _Result:
        """Await something in the loop of the bus, such as a function of the application; return its result.

        Context variables of the caller are seen there.
        """
        __tracebackhide__ = True
        return self._do(lambda: awaitable)

    def _do(self, function: Callable[[], Awaitable[_Result]]) -> _Result:
        __tracebackhide__ = True
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "this is called in the loop of the bus, which it would wait for; await it there"
            )
        done: Future[_Result] = Future()

        async def do() -> None:
            __tracebackhide__ = True
            try:
                result = await function()
            except BaseException as exc:
                done.set_exception(exc)
            else:
                done.set_result(result)

        def begin() -> None:
            task = self._loop.create_task(do())
            done.add_done_callback(lambda _: task)  # the loop itself keeps a task no longer than it waits

        self._loop.call_soon_threadsafe(begin, context=copy_context())
        problem = done.exception()
        if problem is not None:
            raise problem
        return done.result()

    # What an application does

    def send(self, event: Any, headers: Mapping[str, str] | None = None, profile: str = "default") -> None:
        """Send a typed event; see ``hub.event.init.send``."""
        self._do(lambda: self._bus.send(event, headers, profile))

    def put(
        self,
        routing_key: str | None = None,
        body: Any = None,
        profile: str = "default",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Put an event on the bus; see ``hub.evbus.broker.put``."""
        self._do(lambda: self._bus.put(routing_key, body, profile, headers))

    def put_nowait(
        self,
        routing_key: str | None = None,
        body: Any = None,
        profile: str = "default",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Put an event on the bus; see ``hub.evbus.broker.put_nowait``."""
        self._bus.put_nowait(routing_key, body, profile, headers)

    def subscribe(self, event: Any, callback: Callable[..., Any], name: str = "", **options: Any) -> str:
        """Let a function or class listen to an event; see ``hub.event.init.subscribe``."""

        async def subscribe() -> str:
            return self._bus.subscribe(event, callback, name, **options)

        return self._do(subscribe)

    def unsubscribe(self, id: str) -> bool:  # noqa: A002 - what it is
        """End a subscription; see ``hub.event.init.unsubscribe``."""
        return self._do(lambda: self._bus.unsubscribe(id))

    # What happened

    @property
    def recorded(self) -> list[Sent]:
        """As :attr:`Bus.recorded`."""
        return self._bus.recorded

    def sent(self, event: Any = None, where: Callable[[Any], bool] | None = None) -> list[Any]:
        """As :meth:`Bus.sent`."""
        return self._bus.sent(event, where)

    @property
    def dead(self) -> list[Dead]:
        """As :attr:`Bus.dead`."""
        return self._bus.dead

    def expect(
        self,
        event: Any,
        where: Callable[[Any], bool] | None = None,
        *,
        timeout: float = 1.0,
        count: int = 1,
    ) -> Any:
        """As :meth:`Bus.expect`."""
        __tracebackhide__ = True
        return self._do(lambda: self._bus.expect(event, where, timeout=timeout, count=count))

    def handled(
        self,
        event: Any,
        where: Callable[[Any], bool] | None = None,
        *,
        listener: str = "",
        timeout: float = 1.0,
        count: int = 1,
    ) -> Any:
        """As :meth:`Bus.handled`."""
        __tracebackhide__ = True
        return self._do(
            lambda: self._bus.handled(event, where, listener=listener, timeout=timeout, count=count)
        )

    def settle(self, timeout: float | None = None) -> None:
        """As :meth:`Bus.settle`."""
        __tracebackhide__ = True
        self._do(lambda: self._bus.settle(timeout))

    def fail(
        self,
        destination: str = "",
        *,
        listener: str = "",
        times: int | None = 1,
        error: Exception | None = None,
    ) -> Failure:
        """As :meth:`Bus.fail`."""
        return self._bus.fail(destination, listener=listener, times=times, error=error)

    # Its life

    def start(self) -> None:
        """Start the loop's thread, and the bus in it."""
        self._thread.start()
        try:
            self._do(self._bus.start)
        except BaseException:
            self._end()
            raise

    def finish(self) -> None:
        """As ``Bus.finish``, and end the thread."""
        __tracebackhide__ = True
        try:
            self._do(self._bus.finish)
        finally:
            self._end()

    def abandon(self) -> None:
        """As ``Bus.abandon``, and end the thread."""
        try:
            self._do(self._bus.abandon)
        finally:
            self._end()

    def _end(self) -> None:
        self._do(self._cancel_all)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel_all(self) -> None:
        """End the tasks that are left, as ``asyncio.run`` does."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()
