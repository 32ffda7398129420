"""A listener at work: events come in, are handled, tried again, and settled."""

from __future__ import annotations

import asyncio
import inspect
import logging
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

from evbus._backoff import backoff
from evbus.dispatch._binding import Binding
from evbus.dispatch._core import Core
from evbus.dispatch._frame import CURRENT, Frame
from evbus.dispatch._router import Router
from evbus.dispatch._within import Limit, within
from evbus.errors import PayloadError, Rejected
from evbus.evbus._teller import Teller
from evbus.types import Delivery, Envelope

from ._declare import EventSpec, ListenerSpec
from ._listener import Listener
from ._reader import Reader

__all__ = ["Dead", "Listening"]

log = logging.getLogger("evbus.event")


class Dead(NamedTuple):
    """An event that a listener gave up."""

    envelope: Envelope
    listener: str
    reason: Exception
    attempts: int


class _Work:
    """A delivery on its way to a listener.

    :ivar event: what it says, once that is read of ``envelope``.
    """

    __slots__ = ("attempts", "delivery", "envelope", "event", "spec")

    def __init__(self, delivery: Delivery, spec: EventSpec) -> None:
        self.delivery = delivery
        self.spec = spec
        self.event: Any = None
        self.envelope: Envelope | None = None
        self.attempts = 0


class Listening:
    """One listener's deliveries, from wherever they come.

    :param dead: records an event that was given up.
    """

    def __init__(
        self,
        core: Core,
        spec: ListenerSpec,
        listener: Listener,
        reader: Reader,
        event_of: Callable[[str], EventSpec | None],
        dead: Callable[[Dead], None],
    ) -> None:
        self.listener = listener
        self.spec = spec
        self._reader = reader
        self._event_of = event_of
        self._dead = dead
        self._key = operator.attrgetter(spec.key) if isinstance(spec.key, str) else spec.key
        self._router = _ListenerRouter(core, f"listener {listener.name}", self._settle)
        self._router.slots.bound(spec.concurrency, 0)
        self._binding = Binding(spec.event, listener, self._handle, listener.full_name)
        self._teller = None if spec.on_error is None else Teller(_told(spec.on_error), lambda: None)

    def __repr__(self) -> str:
        return f"<Listening {self.listener.name} {self._router.snapshot()}>"

    def take(self, delivery: Delivery, spec: EventSpec) -> None:
        """Handle a delivery when it is its turn; it is settled after that."""
        work = _Work(delivery, spec)
        key = None if self._key is None else self._key_of(work)
        self._router.hand_over((self._binding,), work, key, delivery.envelope, None)

    def _key_of(self, work: _Work) -> Any:
        """Return the key of an event that can be read already, before the interceptors."""
        try:
            event = self._read(work, work.delivery.envelope)
        except PayloadError:
            return None
        assert self._key is not None
        return self._key(event)

    def _read(self, work: _Work, envelope: Envelope) -> Any:
        if work.envelope is not envelope:
            work.event = self._reader.read(self._spec_of(work, envelope), envelope)
            work.envelope = envelope
        return work.event

    def _spec_of(self, work: _Work, envelope: Envelope) -> EventSpec:
        said = envelope.headers.get("evbus-message")
        if said is None or said == work.spec.name:
            return work.spec
        found = self._event_of(said)
        if found is None:
            raise Rejected(f"there is no event {said!r} here")
        return found

    async def _handle(self, work: _Work) -> Any:
        """Call the listener, as often as its retries say."""
        frame = CURRENT.get()
        envelope = (
            frame.envelope if frame is not None and frame.envelope is not None else work.delivery.envelope
        )
        event = self._read(work, envelope)
        retry, timeout = self.spec.retry, self.spec.timeout
        while True:
            work.attempts += 1
            try:
                if timeout is None:
                    return await self.listener.call(event)
                return await within(_awaited(self.listener.call(event)), Limit.of(timeout), work.spec.name)
            except Rejected:
                raise
            except Exception as exc:
                if retry.attempts and work.attempts >= retry.attempts:
                    raise
                log.warning(
                    "listener %s: %s fails and is tried again: %r", self.listener.name, work.spec.name, exc
                )
                await asyncio.sleep(backoff(work.attempts, retry.min, retry.max))

    def _settle(self, work: _Work, problem: BaseException | None) -> None:
        if problem is None:
            work.delivery.ack()
        elif isinstance(problem, Exception):
            self._dead(Dead(work.delivery.envelope, self.listener.name, problem, work.attempts))
            work.delivery.reject()
            if self._teller is not None:
                self._teller.tell({"event": work.event, "exception": problem})
        else:
            work.delivery.reject(requeue=True)

    async def close(self, seconds: float) -> None:
        """Cancel what is being handled; it goes back to where it came from."""
        self._router.drop(asyncio.CancelledError())  # type: ignore[arg-type]
        await self._router.cancel(seconds)
        if self._teller is not None:
            await self._teller.wait(seconds)
            await self._teller.close(seconds)

    def snapshot(self) -> dict[str, int]:
        """Return the counters."""
        return self._router.snapshot()


class _ListenerRouter(Router):
    """A router with one handler, whose messages are settled when it is done with them."""

    def __init__(self, core: Core, name: str, settle: Callable[[_Work, BaseException | None], None]) -> None:
        super().__init__(core, name)
        self._settle = settle

    @property
    def intercepted(self) -> bool:
        """Always: each message goes through :meth:`perform`."""
        return True

    async def perform(self, binding: Binding, message: Any, frame: Frame) -> Any:
        """Handle a delivery and settle it."""
        try:
            result = await super().perform(binding, message, frame)
        except BaseException as exc:
            self._settle(message, exc)
            raise
        self._settle(message, None)
        return result


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _told(on_error: Callable[..., Any]) -> Callable[[dict[str, Any]], Any]:
    if inspect.iscoroutinefunction(on_error):

        async def tell(data: dict[str, Any]) -> None:
            await on_error(data["event"], data["exception"])

        return tell
    return lambda data: on_error(data["event"], data["exception"])
