"""Services for programs that are no POP project, with an event loop or without one."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TypeVar

from evbus.engine.kit.loop_thread import LoopThread
from evbus.errors import ServiceError

__all__ = ["ServicesHandle", "ServicesRun"]

_Interface = TypeVar("_Interface")
_Result = TypeVar("_Result")


class ServicesHandle:
    """Services that run. ``hub`` is their hub, where everything else is found."""

    def __init__(self, the_hub: Any, thread: LoopThread | None) -> None:
        self.hub = the_hub
        self._thread = thread

    def __repr__(self) -> str:
        return repr(self.hub.service.SERVICES)

    @property
    def port(self) -> int | None:
        """The port of the HTTP server, None without one."""
        port: int | None = self.report()["port"]
        return port

    def proxy(
        self, interface: Callable[..., _Interface], channel: str = "", component: str = ""
    ) -> _Interface:
        """Return a proxy of an interface; see ``hub.service.init.get``."""
        # As Callable, since type checkers refuse abstract classes for type[_Interface].
        found: _Interface = self.hub.service.init.get(interface, channel, component)
        return found

    def within(self, seconds: float) -> AbstractContextManager[None]:
        """Return a context: calls that are made in it end so many seconds after its beginning."""
        found: AbstractContextManager[None] = self.hub.service.init.within(seconds)
        return found

    def token(self, value: str) -> AbstractContextManager[None]:
        """Return a context: calls that are made in it say by a bearer token who they are."""
        found: AbstractContextManager[None] = self.hub.service.init.token(value)
        return found

    def report(self) -> dict[str, Any]:
        """Return what runs here, and what is known of others, in plain values."""
        found: dict[str, Any] = self.hub.service.init.report()
        return found

    def run(self, awaitable: Awaitable[_Result]) -> _Result:
        """Await something in the loop of the services, such as a call; for programs without an event loop.

        :raises ServiceError: they were started with ``async with``; await it.
        """
        if self._thread is None:
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            raise ServiceError("these services run in a loop of the program: await it there")

        async def done() -> _Result:
            return await awaitable

        return self._thread.do(done)


class ServicesRun:
    """Services that ``async with`` or ``with`` starts, and stops at the end.

    :param make: makes the hub.
    :param options: those of ``hub.service.init.start``.
    """

    def __init__(self, make: Callable[[], Any], options: Mapping[str, Any]) -> None:
        self._make = make
        self._options = options
        self._hub: Any = None
        self._thread: LoopThread | None = None

    def __getattr__(self, name: str) -> Any:
        if hasattr(ServicesHandle, name) and not name.startswith("_"):
            raise AttributeError(
                f"services(...) are not started yet, and have no {name}: write `async with services(...) as "
                f"running:`, and running.{name}"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    async def __aenter__(self) -> ServicesHandle:
        self._hub = self._make()
        await self._start()
        return ServicesHandle(self._hub, None)

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    def __enter__(self) -> ServicesHandle:
        self._hub = self._make()
        self._thread = thread = LoopThread("evbus-services")
        thread.start()
        try:
            thread.do(self._start)
        except BaseException:
            thread.end()
            raise
        return ServicesHandle(self._hub, thread)

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None
        try:
            self._thread.do(self._stop)
        finally:
            self._thread.end()

    async def _start(self) -> None:
        await self._hub.service.init.start(**self._options)

    async def _stop(self) -> None:
        await self._hub.service.init.stop()
