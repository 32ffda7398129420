"""The bus of a test that is a plain function: it runs in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evbus.engine.client.handle import Handle
from evbus.engine.client.sync import SyncHandle
from evbus.engine.kit.loop_thread import LoopThread
from evbus.testing._bus import Bus
from evbus.testing._failures import Failure
from evbus.testing._sent import Sent
from evbus.testing._watch import Dead

__all__ = ["SyncBus"]


class SyncBus(SyncHandle):
    """A :class:`Bus` whose functions wait instead of being awaited; for plain tests.

    :ivar hub: its hub. What is put with ``hub.evbus.broker.put_nowait`` may come from any thread; what has to
        be awaited goes through :meth:`run`.
    """

    def __init__(self, made: Bus) -> None:
        self.hub = made.hub
        self._bus = made
        self._thread = LoopThread("evbus of a test")

    def __repr__(self) -> str:
        return f"<Sync{repr(self._bus)[1:]}"

    def _at_work(self) -> tuple[Handle, LoopThread]:
        return self._bus, self._thread

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
        return self._thread.do(lambda: self._bus.expect(event, where, timeout=timeout, count=count))

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
        return self._thread.do(
            lambda: self._bus.handled(event, where, listener=listener, timeout=timeout, count=count)
        )

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
            self._thread.do(self._bus.start)
        except BaseException:
            self._thread.end()
            raise

    def finish(self) -> None:
        """As ``Bus.finish``, and end the thread."""
        __tracebackhide__ = True
        try:
            self._thread.do(self._bus.finish)
        finally:
            self._thread.end()

    def abandon(self) -> None:
        """As ``Bus.abandon``, and end the thread."""
        try:
            self._thread.do(self._bus.abandon)
        finally:
            self._thread.end()
