"""A listener at work: events come in, are handled, tried again, and settled."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import operator
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from evbus._backoff import backoff
from evbus.dispatch._within import Limit, within
from evbus.errors import DispatchTimeout, PayloadError, Rejected
from evbus.evbus._pipeline import Around
from evbus.evbus._teller import Teller
from evbus.redact import problem_text
from evbus.types import Delivery, Envelope

from ._declare import EventSpec, ListenerSpec
from ._keys import Keys
from ._listener import Listener
from ._reader import Reader
from ._workers import Workers

__all__ = ["Dead", "Listening"]

log = logging.getLogger("evbus.event")

#: Seconds that each step of an end has at the least.
MOMENT = 0.1
#: Seconds that the record of a dead event may take that is under way when its listener ends.
RECORDING = 0.5


class Dead(NamedTuple):
    """An event that a listener gave up."""

    envelope: Envelope
    listener: str
    reason: Exception
    attempts: int


# As with deliveries: an event knows nothing of the work that it is.
class _Work(msgspec.Struct, eq=False, gc=False):
    """A delivery on its way to a listener.

    :ivar event: what it says, once that is read.
    :ivar envelope: what it was read of, after the interceptors.
    """

    delivery: Delivery
    spec: EventSpec
    event: Any = None
    envelope: Envelope | None = None
    attempts: int = 0


class Listening:
    """One listener's deliveries, from wherever they come.

    :ivar receiver: what it shares its events by: its group, or its name.
    :param dead: records an event that was given up; returns whether the record is on the disk.
    """

    def __init__(
        self, spec: ListenerSpec, listener: Listener, reader: Reader, dead: Callable[[Dead], Awaitable[bool]]
    ) -> None:
        self.listener = listener
        self.spec = spec
        self.receiver = spec.group or listener.name
        self._around: Around | None = None
        self._closing = False
        self._reader = reader
        self._dead = dead
        self._call = listener.call
        # Nothing to do beside reading the event and calling the listener.
        self._plain = spec.key is None and spec.timeout is None and not listener.takes_envelope
        self._key = operator.attrgetter(spec.key) if isinstance(spec.key, str) else spec.key
        self._workers: Workers[_Work] = Workers(self._handle, spec.concurrency, f"listener {listener.name}")
        self._keys = Keys(self._workers)
        self._teller = None if spec.on_error is None else Teller(_told(spec.on_error), lambda: None)
        self._counts: Counter[str] = Counter()
        self._handled = 0
        #: How often those were tried that its end has cut short, by the identity of their envelopes.
        self.tried: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Listening {self.listener.name} {self.snapshot()}>"

    @property
    def idle(self) -> bool:
        """Whether it has nothing to handle, and nobody to tell of what it gave up."""
        return self._workers.idle and (self._teller is None or not self._teller.busy)

    def begin(self, around: Around | None) -> None:
        """Be told that deliveries will come.

        :param around: the interceptors around each handling.
        """
        self._around = around
        self._closing = False
        self.tried = {}
        self._workers.begin()

    def within(self) -> bool:
        """Return whether it is this listener that calls."""
        task = asyncio.current_task()
        return task in self._workers or (self._teller is not None and task in self._teller)

    def take(self, delivery: Delivery, spec: EventSpec) -> None:
        """Handle a delivery when it is its turn; it is settled after that."""
        self._workers.submit(_Work(delivery, spec))

    def take_all(self, deliveries: list[Delivery], spec: EventSpec) -> None:
        """Handle deliveries in their order; see :meth:`take`."""
        self._workers.submit_all([_Work(delivery, spec) for delivery in deliveries])

    async def _handle(self, work: _Work) -> None:
        try:
            if self._around is None and self._plain:
                work.event = event = self._reader.read(work.spec, work.delivery.envelope)
                work.attempts = 1
                try:
                    await self._call(event)
                except Exception as exc:
                    await self._again(work, exc)
            elif self._around is None:
                await self._in_turn(work, work.delivery.envelope)
            else:
                await self._intercepted(work, self._around)
        except Exception as exc:
            await self._give_up(work, exc)
        except (SystemExit, KeyboardInterrupt, GeneratorExit):
            work.delivery.reject(requeue=True)
            raise
        except BaseException as exc:
            self._cancelled(work, exc)
        else:
            self._handled += 1
            work.delivery.ack()

    async def _intercepted(self, work: _Work, around: Around) -> None:
        async def handle(envelope: Envelope) -> Any:
            return await self._in_turn(work, envelope)

        await around(work.delivery.envelope, handle, self.receiver)

    async def _in_turn(self, work: _Work, envelope: Envelope) -> Any:
        """Call the listener when it is the turn of the event's key."""
        work.envelope = envelope
        work.event = event = self._reader.read(work.spec, envelope)
        if self._key is None:
            return await self._attempts(work)
        key = self._key(event)
        await self._keys.turn(key)
        try:
            return await self._attempts(work)
        finally:
            self._keys.pass_on(key)

    async def _attempts(self, work: _Work) -> Any:
        work.attempts = 1
        try:
            return await self._attempt(work)
        except Exception as exc:
            return await self._again(work, exc)

    async def _attempt(self, work: _Work) -> Any:
        threads = self.listener.threads
        event = (work.event, work.envelope) if self.listener.takes_envelope else (work.event,)
        timeout = self.spec.timeout
        if timeout is None:
            return await self._call(*event)
        try:
            return await within(_awaited(self._call(*event)), Limit.of(timeout), work.spec.name)
        except DispatchTimeout:
            if threads is not None:
                threads.replace()
            raise

    async def _again(self, work: _Work, problem: Exception) -> Any:
        """Call the listener again, as often as its retries say; raise what it failed with last."""
        retry = self.spec.retry
        while not isinstance(problem, Rejected) and (not retry.attempts or work.attempts < retry.attempts):
            self._counts["retried"] += 1
            log.warning(
                "listener %s: %s fails and is tried again: %s",
                self.listener.name,
                work.spec.name,
                problem_text(problem),
            )
            await asyncio.sleep(backoff(work.attempts, retry.min, retry.max))
            work.attempts += 1
            try:
                return await self._attempt(work)
            except Exception as exc:
                problem = exc
        raise problem

    async def _give_up(self, work: _Work, problem: Exception) -> None:
        if isinstance(problem, PayloadError):
            self._counts["unreadable"] += 1
        self._counts["dead"] += 1
        dead = Dead(work.delivery.envelope, self.listener.name, problem, work.attempts)
        recording = asyncio.ensure_future(self._dead(dead))
        try:
            recorded = await asyncio.shield(recording)
        except asyncio.CancelledError:
            # By the listener's end. While the disk takes nothing, it comes again, and may be kept as well.
            done, _ = await asyncio.wait({recording}, timeout=RECORDING)
            recording.cancel()
            work.delivery.reject(requeue=not (done and not recording.exception() and recording.result()))
            raise
        except Exception as exc:
            recorded = False
            log.debug("listener %s: %r", self.listener.name, exc)
        if recorded:
            work.delivery.reject()
        else:
            log.error("listener %s: a dead event cannot be recorded, and stays where it is", dead.listener)
        if self._teller is not None:
            self._teller.tell({"event": work.event, "exception": problem})

    def _cancelled(self, work: _Work, problem: BaseException) -> None:
        """Let a delivery come again whose handling was cancelled, by the listener's end or by itself."""
        worker: Any = asyncio.current_task()
        again = functools.partial(work.delivery.reject, requeue=True)
        if self._closing:
            self.tried[id(work.delivery.envelope)] = work.attempts
            again()
        else:
            self._counts["cancelled"] += 1
            log.warning(
                "listener %s: the handling of %s was cancelled%s; it is delivered again",
                self.listener.name,
                work.spec.name,
                "" if isinstance(problem, asyncio.CancelledError) else f" by {type(problem).__name__}",
            )
            # One that always is would be handled again and again without a pause. What is not settled by the
            # end goes back as well.
            retry = self.spec.retry
            pause = backoff((work.delivery.delivery_count or 0) + 1, retry.min, retry.max)
            asyncio.get_running_loop().call_later(pause, again)
        if worker.cancelling():
            raise asyncio.CancelledError

    def give_back(self) -> None:
        """Let what was not begun go back to where it came from."""
        # The last goes first, so that a source that puts them in front has them in order.
        for work in reversed(self._workers.take_back()):
            work.delivery.reject(requeue=True)

    async def quiet(self, seconds: float) -> bool:
        """Return when nothing is left to handle, or after ``seconds``: whether it is so."""
        return await self._workers.quiet(seconds)

    async def close(self, seconds: float) -> None:
        """Cancel what is being handled; it goes back to where it came from, with what was not begun.

        :param seconds: that all of this may take.
        """
        self._closing = True
        self.give_back()
        end = time.monotonic() + seconds
        await self._workers.cancel(seconds)
        if self.listener.threads is not None:
            await self.listener.threads.close(max(MOMENT, end - time.monotonic()))
        if self._teller is not None:
            await self._teller.wait(max(MOMENT, end - time.monotonic()))
            await self._teller.close(MOMENT)

    def left(self, count: int) -> None:
        """Count events as dead that were left when the bus was stopped."""
        self._counts["dead"] += count

    def snapshot(self) -> dict[str, int]:
        """Return the counters."""
        return {
            "handled": self._handled,
            **{name: self._counts[name] for name in ("retried", "dead", "unreadable", "cancelled")},
            "running": self._workers.running,
            "queued": len(self._workers),
            "keys": len(self._keys),
        }


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _told(on_error: Callable[..., Any]) -> Callable[[dict[str, Any]], Any]:
    if inspect.iscoroutinefunction(on_error):

        async def tell(data: dict[str, Any]) -> None:
            await on_error(data["event"], data["exception"])

        return tell
    return lambda data: on_error(data["event"], data["exception"])
