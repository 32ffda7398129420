"""A listener at work: events come in, are handled, tried again, and settled."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import logging
import operator
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from evbus.engine.codec.wrapped import named, opened, unwrapped
from evbus.engine.core.broker import HANDLING
from evbus.engine.core.error_callback import ErrorCallback
from evbus.engine.core.intake.bridge import Bridged
from evbus.engine.core.observe import Observers, Told
from evbus.engine.core.pipeline import Around
from evbus.engine.handling.events.batches import Batches
from evbus.engine.handling.events.contexts import unspoilt
from evbus.engine.handling.events.declare import EventListenerDescriptor, EventSpec, ListenerSpec
from evbus.engine.handling.events.listener import Listener
from evbus.engine.handling.events.reader import Reader
from evbus.engine.handling.events.threads import Run, Unfinished
from evbus.engine.handling.events.workers import Workers
from evbus.engine.handling.scheduler import SLICE
from evbus.engine.handling.within import Limit, within
from evbus.engine.kit.backoff import backoff
from evbus.engine.kit.failure import about, trace, which
from evbus.engine.kit.redact import problem_text
from evbus.engine.kit.waiting import failure_of
from evbus.engine.kit.weight import UNBOUNDED
from evbus.errors import DispatchError, DispatchTimeout, PayloadError, PayloadTooLarge, is_rejected
from evbus.types import Delivery, Envelope, Origin, ack_all, too_often

__all__ = ["Listening"]

log = logging.getLogger("evbus.event")

#: By its name: a bridge counts what it has handed on, and does more than the base.
_DROP = operator.methodcaller("drop")

_ELSEWHERE = "it is delivered again, perhaps to another process"

#: Seconds that each step of an end has at the least.
MOMENT = 0.1
#: Seconds that the record of a dead event may take that is under way when its listener ends.
RECORDING = 0.5
#: Dead events whose records may be under way while others are handled.
RECORDED = 200


class _GivenUp(NamedTuple):
    """An event that a listener gave up."""

    envelope: Envelope
    listener: str
    reason: Exception
    attempts: int


# As with deliveries: an event knows nothing of the work that it is.
class _Work(msgspec.Struct, eq=False, gc=False):
    """A delivery on its way to a listener.

    :ivar outside: it came from another process, which has it still.
    :ivar event: what it says, once that is read.
    :ivar envelope: what it was read of, after the interceptors.
    :ivar refused: why it is not read at all.
    :ivar cuts: how often its worker was cancelled while it had it.
    """

    delivery: Delivery
    spec: EventSpec
    outside: bool = False
    event: Any = None
    envelope: Envelope | None = None
    attempts: int = 0
    refused: Exception | None = None
    cuts: int = 0


#: A delivery stands for itself until there is something to remember about its handling.
_Job = Delivery | _Work


class Listening:
    """One listener's deliveries, from wherever they come.

    :ivar receiver: what it shares its events by: its group, or its name.
    :param dead: records an event that was given up; returns whether the record is on the disk.
    """

    def __init__(
        self,
        spec: ListenerSpec,
        listener: Listener,
        reader: Reader,
        dead: Callable[[_GivenUp], Awaitable[bool]],
    ) -> None:
        self.listener = listener
        self.spec = spec
        self.receiver = spec.group or listener.name
        self._around: Around | None = None
        self._closing = False
        self._reader = reader
        self._dead = dead
        self._received: Told | None = None
        self._retried: Told | None = None
        self._call = listener.call
        self._key = operator.attrgetter(spec.key) if isinstance(spec.key, str) else spec.key
        self._workers: Workers[Any] = Workers(
            self._way(), spec.concurrency * (spec.batch or 1), f"listener {listener.name}"
        )
        self._batches: Batches[_Work] | None = None
        self._try = self._attempt
        if spec.batch:
            self._batches = Batches(
                self._attempt_all,
                self._failed_all,
                lambda: self._workers.coming,
                size=spec.batch,
                wait=spec.batch_wait,
                limit=spec.concurrency,
            )
            self._try = self._attempt_with_others
        self._error_callback = (
            None if spec.on_error is None else ErrorCallback(_told(spec.on_error), lambda: None)
        )
        self._counts: Counter[str] = Counter()
        self._handled = 0
        #: How often those were tried that its end has cut short, by the identity of their envelopes.
        self.tried: dict[int, int] = {}
        self._accepted = 0
        self._recording = 0
        self._max_body = UNBOUNDED
        self._most = spec.max_deliveries
        self._descriptors: dict[EventSpec, EventListenerDescriptor] = {}
        # Whether deliveries may stand for themselves, and the event of those that do: the first that came.
        self._in_rows = self._workers.handle == self._handle_row
        self._first: Any = None

    def __repr__(self) -> str:
        return f"<Listening {self.listener.name} {self.snapshot()}>"

    @property
    def idle(self) -> bool:
        """Whether it has nothing to handle, and nobody to tell of what it gave up."""
        return self._workers.idle and (self._error_callback is None or not self._error_callback.busy)

    def observe(self, observers: Observers) -> None:
        """Tell these observers of what it gets and does from now on."""
        self._received, self._retried = observers.received, observers.retried
        self._call = observers.around(self, self.listener.call)

    def begin(self, around: Around | None, max_body: int = UNBOUNDED) -> None:
        """Be told that deliveries will come.

        :param around: the interceptors around each handling.
        :param max_body: bytes that a body from outside this process may have.
        """
        self._around = around
        self._max_body = max_body
        self._closing = False
        self.tried = {}
        self._workers.begin()
        self._workers.handle = self._way()
        self._in_rows = self._workers.handle == self._handle_row
        if self._batches is not None:
            self._batches.begin()

    def _way(self) -> Callable[[Any], Awaitable[int | None]]:
        """Return what handles an event, and those behind it where nothing has to be done beside that."""
        spec, listener = self.spec, self.listener
        if spec.key is not None or spec.batch:
            return self._handle
        if listener.threads is not None:
            return self._handle_run
        plain = self._around is None and spec.timeout is None and not listener.takes_envelope
        return self._handle_row if plain else self._handle

    def within(self) -> bool:
        """Return whether it is this listener that calls."""
        task = asyncio.current_task()
        return task in self._workers or (self._error_callback is not None and task in self._error_callback)

    def waits(self) -> bool:
        """Return whether this listener calls, itself, or in a thread or a task that it has begun."""
        return HANDLING.get() in self._workers

    def take(self, delivery: Delivery, spec: EventSpec, *, outside: bool = False) -> None:
        """Handle a delivery when it is its turn; it is settled after that.

        :param outside: it came from another process, which has it still.
        """
        refused: Exception | None = None
        size = len(delivery.envelope.body)
        if outside and size > self._max_body:
            refused = PayloadTooLarge(size, self._max_body)
        elif outside and self._most:
            refused = too_often(delivery, self._most)
        alone = refused is None and self._alone(spec) and outside == isinstance(delivery, Bridged)
        self._accepted += 1
        if self._received is not None:
            self._received(self, [delivery])
        self._workers.submit(delivery if alone else _Work(delivery, spec, outside, refused=refused))

    def take_all(self, deliveries: list[Delivery], spec: EventSpec) -> None:
        """Handle deliveries of this process in their order; see :meth:`take`."""
        self._accepted += len(deliveries)
        if self._received is not None:
            self._received(self, deliveries)
        alone = self._alone(spec)
        self._workers.submit_all(deliveries if alone else map(_Work, deliveries, itertools.repeat(spec)))

    def _alone(self, spec: EventSpec) -> bool:
        """Return whether deliveries of an event stand for themselves."""
        if not self._in_rows:
            return False
        self._first = self._first or spec
        return spec is self._first

    def _work(self, job: _Job) -> _Work:
        """Return what remembers the handling of a delivery."""
        if isinstance(job, _Work):
            return job
        return _Work(job, self._first, isinstance(job, Bridged))

    async def _handle_row(self, job: Any) -> int:
        """Handle an event, and those that wait behind it, as long as all goes well; return how many.

        They are settled together when that ends, and at the latest with the next turn of the loop.
        """
        workers, reader = self._workers, self._reader
        ready, (context, clean) = workers.ready, workers.contexts()
        handled: list[Delivery] = []
        there: Unfinished | None = None
        left = SLICE
        spec, headers, read = reader.last

        def settle() -> None:
            if handled:
                deliveries = handled.copy()
                handled.clear()
                self._settle(deliveries)

        try:
            for left in range(SLICE - 1, -1, -1):
                delivery, wanted = job, self._first
                if type(job) is _Work:
                    if job.refused is not None or job.attempts:
                        break
                    delivery, wanted = job.delivery, job.spec
                envelope = delivery.envelope
                called = False
                try:
                    if envelope.headers is headers and wanted is spec:
                        # As the one before: headers that are shared never change.
                        try:
                            event = read(envelope.body)
                        except ValueError:
                            event = reader.read(wanted, envelope)
                    else:
                        event = reader.read(wanted, envelope)
                        spec, headers, read = reader.last
                    called = True
                    await self._call(event)
                except BaseException as exc:
                    job = self._work(job)
                    if called:
                        job.event, job.attempts = event, 1
                    there = Unfinished(job, exc)
                    break
                # It is the first, or the loop had its turn meanwhile.
                begins = not handled
                handled.append(delivery)
                if (
                    not (ready and left)
                    or (begins and workers.active > workers.limit)
                    or (context != clean and not unspoilt(context, clean))
                ):
                    return SLICE - left
                if begins:
                    asyncio.get_running_loop().call_soon(settle)
                job = ready.popleft()
        finally:
            settle()
        await self._handle(job, there)
        return SLICE - left

    async def _handle_run(self, work: _Work) -> int | None:
        """Handle an event, and in the same thread those that wait behind it, as long as all goes well."""
        threads, call = self.listener.threads, self.listener.plain()
        watched = self._around is not None or self._call is not self.listener.call
        if threads is None or call is None or watched:
            return await self._handle(work)
        timeout, there = self.spec.timeout, functools.partial(self._attempt_there, call)
        run = Run(work, self._workers.ready, there, self._done, timeout)
        try:
            unfinished = await threads.do(run)
        except Exception:
            # There is no thread for it, and no attempt was made.
            run.future.cancel()
            return await self._handle(work)
        except BaseException as exc:
            left, task = run.leave(), self._workers.current()
            if timeout is None or not run.expired or task is None or task.cancelling():
                if left is None:
                    raise
                await self._failed(left, exc)
                return None
            if left is not None:
                threads.replace()
                late = Unfinished(left, DispatchTimeout(left.spec.name, timeout))
                # Its thread may not have got round to calling the listener.
                await self._handle(left, late if left.attempts else None)
            return None
        if unfinished is not None:
            await self._handle(unfinished.work, unfinished)
        return None

    def _attempt_there(self, call: Callable[..., Any], work: _Work) -> Any:
        """Call the listener in its thread, for the first time."""
        if work.refused is not None:
            raise work.refused
        envelope = work.delivery.envelope
        if not self.listener.takes_envelope:
            work.event = event = self._reader.read(work.spec, envelope)
            work.attempts += 1
            return call(event)
        work.envelope = envelope = unwrapped(named(envelope))
        work.event = event = self._reader.read(work.spec, envelope)
        work.attempts += 1
        return call(event, envelope)

    async def _finish(self, work: _Work, there: Unfinished) -> Any:
        """Go on with what was begun in a thread."""
        if there.problem is not None:
            if not work.attempts:
                raise there.problem  # it was not read
            return await self._again(work, self._failure(there.problem))
        try:
            if self.spec.timeout is None:
                return await there.result
            left = there.began + self.spec.timeout - time.monotonic()
            limit = Limit(self.spec.timeout, asyncio.get_running_loop().time() + left)
            return await within(_awaited(there.result), limit, work.spec.name)
        except BaseException as exc:
            return await self._again(work, self._failure(exc))

    async def _handle(self, job: _Job, there: Unfinished | None = None) -> int | None:
        """Handle an event, or go on with it.

        :param there: how it was begun in a thread.
        """
        work = self._work(job)
        try:
            if there is not None:
                await self._finish(work, there)
            elif work.refused is not None:
                raise work.refused
            elif self._around is None:
                await self._in_turn(work, named(work.delivery.envelope))
            else:
                await self._intercepted(work, self._around)
        except BaseException as exc:
            await self._failed(work, exc)
        else:
            self._handled += 1
            work.delivery.ack()
            if work.attempts > 1:
                self._say_attempts(work)
        return None

    def _done(self, works: list[_Work]) -> None:
        """Settle what was handled in a thread."""
        self._settle([work.delivery for work in works])
        for work in works:
            if work.attempts > 1:
                self._say_attempts(work)

    def _settle(self, deliveries: list[Delivery]) -> None:
        self._handled += len(deliveries)
        ack_all(deliveries)

    def _say_attempts(self, work: _Work) -> None:
        # At the level of the failures before it.
        log.warning(
            "listener %s: %s is handled, at attempt %d (%s)",
            self.listener.name,
            work.spec.name,
            work.attempts,
            which(work.delivery.envelope),
        )

    def _failure(self, problem: BaseException) -> Exception:
        """Return why a listener has failed; raise what is no failure of its own."""
        return failure_of(problem, self._workers.current())

    async def _intercepted(self, work: _Work, around: Around) -> None:
        async def handle(envelope: Envelope) -> Any:
            return await self._in_turn(work, envelope)

        await around(opened(work.delivery.envelope), handle, self.receiver, self._descriptor(work.spec))

    def _descriptor(self, event: EventSpec) -> EventListenerDescriptor:
        found = self._descriptors.get(event)
        if found is None:
            spec = self.spec
            found = EventListenerDescriptor(self.listener.name, event, self.receiver, spec.per_process)
            self._descriptors[event] = found
        return found

    async def _in_turn(self, work: _Work, envelope: Envelope) -> Any:
        """Call the listener when it is the turn of the event's key."""
        envelope = unwrapped(envelope)
        work.envelope = envelope
        work.event = event = self._reader.read(work.spec, envelope)
        if self._key is None:
            return await self._attempts(work)
        key = self._key(event)
        await self._workers.acquire(key, work)
        try:
            return await self._attempts(work)
        finally:
            self._workers.release(key)

    async def _attempts(self, work: _Work) -> Any:
        work.attempts += 1
        try:
            return await self._try(work)
        except BaseException as exc:
            return await self._again(work, self._failure(exc))

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

    async def _attempt_with_others(self, work: _Work) -> None:
        assert self._batches is not None
        await self._batches.handle(work, alone=work.attempts > 1)
        if work.delivery.settled:
            raise asyncio.CancelledError(_ELSEWHERE)

    async def _attempt_all(self, works: list[_Work]) -> None:
        here = [work for work in works if not self._gone(work)]
        if here:
            first = here[0]
            try:
                await self._attempt(_Work(first.delivery, first.spec, event=[work.event for work in here]))
            except Exception:
                raise
            except BaseException as exc:
                # Of all of them: whose task it is raised in does not matter.
                raise self._failure(exc) from exc

    def _failed_all(self, works: list[_Work], problem: Exception) -> None:
        reason = problem_text(problem)
        log.warning(
            "listener %s: a batch of %d events of %s fails, and they are tried one by one: %s%s",
            self.listener.name,
            len(works),
            works[0].spec.name,
            reason,
            about(problem, reason),
        )

    async def _again(self, work: _Work, problem: Exception) -> Any:
        """Call the listener again, as often as its retries say; raise what it failed with last."""
        retry = self.spec.retry
        while (
            not work.delivery.settled
            and not is_rejected(problem)
            and self._workers.current() is not None
            and (not retry.attempts or work.attempts < retry.attempts)
        ):
            self._counts["retried"] += 1
            if self._retried is not None:
                self._retried(f"listener {self.listener.name}", problem, 1)
            reason = problem_text(problem)
            log.warning(
                "listener %s: %s fails and is tried again: %s%s",
                self.listener.name,
                work.spec.name,
                reason,
                about(problem, reason, work.delivery.envelope),
            )
            if log.isEnabledFor(logging.DEBUG):
                log.debug("listener %s: %s fails\n%s", self.listener.name, work.spec.name, trace(problem))
            await asyncio.sleep(backoff(work.attempts, retry.min, retry.max))
            if self._gone(work):
                raise asyncio.CancelledError(_ELSEWHERE)
            work.attempts += 1
            try:
                return await self._try(work)
            except BaseException as exc:
                problem = self._failure(exc)
        raise problem

    def _gone(self, work: _Work) -> bool:
        """Drop a delivery that cannot be settled any more; return whether it is one."""
        if work.delivery.gone:
            self._leave(work, _DROP)
        return work.delivery.gone

    async def _failed(self, work: _Work, problem: BaseException) -> None:
        """Give up an event whose listener has failed for the last time; what was cut short is tried again."""
        if self._workers.current() is None and isinstance(problem, (Exception, asyncio.CancelledError)):
            self._leave(work, Delivery.give_back)  # a stop, which waited no longer, has told of it
            return
        try:
            failure = self._failure(problem)
        except asyncio.CancelledError:
            if not self._goes_on(work):
                await self._give_up(work, DispatchError("the task that handles it was cancelled"))
            raise
        except BaseException:
            # The program ends, or the event loop has.
            self._leave(work, Delivery.give_back)
            raise
        if not work.delivery.settled:
            await self._give_up(work, failure)

    def _goes_on(self, work: _Work) -> bool:
        """Try a delivery again whose worker was cancelled; return False if that was its last try.

        The worker does as it was told and ends, or the end of an event loop would wait for it: another one
        makes the next try.
        """
        if self._closing:
            self.tried[id(work.delivery.envelope)] = work.attempts
            self._leave(work, Delivery.give_back)
        if work.delivery.settled:
            return True
        self._counts["cancelled"] += 1
        # An interceptor may have been cancelled before its listener was called.
        work.cuts += 1
        work.attempts = max(work.attempts, work.cuts)
        retry = self.spec.retry
        if retry.attempts and work.attempts >= retry.attempts:
            return False
        self._counts["retried"] += 1
        log.warning(
            "listener %s: the handling of %s was cancelled, and is tried again",
            self.listener.name,
            work.spec.name,
        )
        self._workers.submit_later(work, backoff(work.attempts, retry.min, retry.max))
        return True

    def _leave(self, work: _Work, settle: Callable[[Delivery], None]) -> None:
        """Leave a delivery to its source: it counts as never accepted."""
        if not work.delivery.settled:
            self._accepted -= 1
            settle(work.delivery)

    async def _give_up(self, work: _Work, problem: Exception) -> None:
        if isinstance(problem, PayloadError):
            self._counts["unreadable"] += 1
        self._counts["dead"] += 1
        dead = _GivenUp(work.delivery.envelope, self.listener.name, problem, work.attempts)
        if self._recording >= RECORDED:
            await self._record(work, dead)
            return
        # Others are handled meanwhile: the records of a run of dead events are written together.
        self._recording += 1
        self._workers.leave()
        try:
            await self._record(work, dead)
        finally:
            self._recording -= 1
            self._workers.take()

    async def _record(self, work: _Work, dead: _GivenUp) -> None:
        """Settle a delivery that was given up, once the record of that is on the disk."""
        recording = asyncio.ensure_future(self._dead(dead))
        try:
            recorded = await asyncio.shield(recording)
        except asyncio.CancelledError:
            # By the listener's end. While the disk takes nothing, it comes again, and may be kept as well.
            try:
                done, _ = await asyncio.wait({recording}, timeout=RECORDING)
            finally:
                recording.cancel()
            if done and not recording.exception() and recording.result():
                work.delivery.reject()
            else:
                self._counts["dead"] -= 1
                self._leave(work, Delivery.give_back)
            raise
        except Exception as exc:
            recorded = False
            log.debug("listener %s: %r", self.listener.name, exc)
        if recorded:
            work.delivery.reject()
        else:
            log.error("listener %s: a dead event cannot be recorded, and stays where it is", dead.listener)
        if self._error_callback is not None:
            self._error_callback.tell({"event": work.event, "exception": dead.reason})

    def lost(self, origin: Origin) -> None:
        """Drop what came over something that has ended, unless the listener was called: it comes again."""
        for job in self._workers.withdraw(lambda job: self._work(job).delivery.origin is origin):
            self._leave(self._work(job), _DROP)

    def give_back(self, *, outside: bool = False) -> None:
        """Let what the listener was not called with go back to where it came from.

        :param outside: only what came from another process.
        """
        if self._batches is not None:
            self._batches.flush()
        # The last goes first, so that a source that puts them in front has them in order.
        for job in reversed(self._workers.withdraw(lambda job: self._work(job).outside or not outside)):
            work = self._work(job)
            if work.attempts:
                self.tried[id(work.delivery.envelope)] = work.attempts
            self._leave(work, Delivery.give_back)

    def abandon(self) -> None:
        """Let all of it go back, what is being handled as well if that is cancelled."""
        self._closing = True
        self.give_back()

    async def wait_idle(self, seconds: float) -> bool:
        """Return when nothing is left to handle, or after ``seconds``: whether it is so."""
        return await self._workers.wait_idle(seconds)

    async def close(self, seconds: float) -> None:
        """Cancel what is being handled; it goes back to where it came from, with what was not begun.

        :param seconds: that all of this may take.
        """
        self.abandon()
        end = time.monotonic() + seconds
        await self._workers.cancel(seconds)
        if self.listener.threads is not None:
            await self.listener.threads.close(max(MOMENT, end - time.monotonic()))
        if self._error_callback is not None:
            await self._error_callback.wait(max(MOMENT, end - time.monotonic()))
            await self._error_callback.close(MOMENT)

    def left(self, count: int) -> None:
        """Count events as dead that were left when the bus was stopped."""
        self._accepted += count
        self._counts["dead"] += count

    def snapshot(self, waiting: int = 0) -> dict[str, int]:
        """Return the counters: ``accepted = delivered + dead + dropped + queued + in_flight``.

        :param waiting: events in this process that its workers have not got yet.
        """
        accepted, dead, queued = (
            self._accepted + waiting,
            self._counts["dead"],
            self._workers.waiting + waiting,
        )
        threads = self.listener.threads
        return {
            "accepted": accepted,
            "delivered": self._handled,
            "handled": self._handled,
            **{name: self._counts[name] for name in ("retried", "dead", "unreadable", "cancelled")},
            "dropped": 0,
            "in_flight": accepted - self._handled - dead - queued,
            "running": self._workers.active,
            "queued": queued,
            "hanging": 0 if threads is None else threads.hanging,
            "keys": len(self._workers.locks),
        }


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _told(on_error: Callable[..., Any]) -> Callable[[dict[str, Any]], Any]:
    if inspect.iscoroutinefunction(on_error):

        async def tell(data: dict[str, Any]) -> None:
            await on_error(data["event"], data["exception"])

        return tell
    return lambda data: on_error(data["event"], data["exception"])
