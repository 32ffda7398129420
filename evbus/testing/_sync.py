"""The bus of a test that is a plain function: it runs in a thread of its own."""

from __future__ import annotations

from evbus.engine.client.handle import Handle
from evbus.engine.client.sync import SyncHandle, at_once, waiting
from evbus.engine.kit.loop_thread import LoopThread
from evbus.testing._bus import Bus
from evbus.testing._watch import Dead, Sent

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

    @property
    def dead(self) -> list[Dead]:
        """As :attr:`Bus.dead`."""
        return self._bus.dead

    sent = at_once(Bus.sent)
    expect = waiting(Bus.expect)
    handled = waiting(Bus.handled)
    fail = at_once(Bus.fail)

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
