"""One connection to a broker as long as it lives, as far as protocols do not differ."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, cast

from evbus.engine.kit.redact import one_line
from evbus.errors import DeliveryError

__all__ = ["BrokerSession"]

#: Bytes that may wait in the transport before a sender has to wait.
HIGH_WATER = 256 * 1024

_Opened = TypeVar("_Opened")


class _Waiter(Protocol):
    """Somebody who waits for receipts."""

    def settle(self, index: int, outcome: DeliveryError | None) -> None:
        """Take the outcome of one of the frames that were sent."""


class BrokerSession(asyncio.Protocol, ABC, Generic[_Opened]):
    """A connection as long as it lives; a :class:`evbus.engine.wire.base.supervisor.LiveSession`.

    The session of a protocol brings ``data_received``, ``flush`` and ``close``, and what it loses in
    ``_ended``.

    :ivar blocked: always ``""``, where a protocol does not tell: a broker that takes nothing is silent.
    :ivar opened: what the broker tells of itself, once it has taken the login.
    :ivar receipts: what was sent and has no outcome yet, by number: who waits, and for which of theirs.
    :ivar next_number: the number of what is sent next.
    """

    blocked = ""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self.opened: asyncio.Future[_Opened] = self._loop.create_future()
        self.receipts: dict[int, tuple[_Waiter, int]] = {}
        self.next_number = 1
        self._transport: asyncio.Transport | None = None
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._room: list[asyncio.Future[None]] = []
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, changed: Callable[[], None]) -> None:
        """Do nothing: ``blocked`` never changes."""

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's is none by its class.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(HIGH_WATER)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits."""
        self._broke(f"the connection broke: {exc}" if exc else "the broker closed the connection")
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        """Send no more: the broker does not read."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self._paused = False
        self.wake()

    # What was sent

    def expect(self, waiting: _Waiter, index: int) -> int:
        """Return the number of what is sent next, :attr:`next_number`, whose outcome ``waiting`` is told."""
        number = self.next_number
        self.next_number += 1
        self.receipts[number] = (waiting, index)
        return number

    def full(self, window: int) -> bool:
        """Return whether a sender has to wait, as ``window`` of what was sent have no outcome."""
        return (self._paused or len(self.receipts) >= window) and not self.lost.done()

    def room(self) -> asyncio.Future[None]:
        """Return a future, done when an outcome comes, the broker reads again, or the session is lost."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._room.append(future)
        return future

    def wake(self) -> None:
        """Let those look again who wait for room."""
        waiting, self._room = self._room, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    @abstractmethod
    def flush(self) -> None:
        """Have written what was settled."""

    # The end

    def _broke(self, reason: str) -> None:
        """The other side has ended it, and has not said why."""
        self.fail(reason)

    @abstractmethod
    def _ended(self, reason: str, outcome: DeliveryError | None) -> None:
        """Tell all who wait; ``outcome`` is that of what is in flight, if there is a special one."""

    def fail(self, reason: str, outcome: DeliveryError | None = None) -> None:
        """End the session; only the first time counts."""
        if self.lost.done():
            return
        reason = one_line(reason)
        self.lost.set_result(reason)
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(reason))
            self.opened.exception()  # looked at, or asyncio would log that nobody did
        if self._timer is not None:
            self._timer.cancel()
        self._ended(reason, outcome)
        self.wake()
        if self._transport is not None:
            # abort() and not close(): what waits in its buffer would keep it open towards a frozen broker.
            self._transport.abort()

    def abort(self) -> None:
        """End it without a word."""
        self.fail("it was closed")

    @abstractmethod
    async def close(self) -> None:
        """Say goodbye, wait for the answer, and then by :meth:`_over` for the end of the socket."""

    async def _over(self) -> None:
        """End it, and return when its socket is closed."""
        self.abort()
        if self._transport is not None:
            await self._closed
