"""Await somebody's code with a deadline, telling its failures from our own cancellation."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, NamedTuple, NoReturn

from evbus.engine.kit.redact import problem_text
from evbus.errors import DeliveryError, DeliveryTimeout

__all__ = ["Deadline", "call", "ends", "failure_of", "rest", "running", "stray", "timeout_of"]

_STRAY = "it was cancelled from within; client libraries do that when they lose their connection"


def running() -> asyncio.Task[Any] | None:
    """Return the task that runs, None when there is none."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def failure_of(problem: BaseException, task: asyncio.Task[Any] | None) -> Exception:
    """Return the failure that somebody's code has ended with, whatever it raised.

    What is no failure of its own is raised again: the cancellation of its task, the end of its coroutine with
    the event loop, and ``KeyboardInterrupt``, which is the operator's.

    :param task: the task that the code ran in; None when it does not run any more.
    """
    if isinstance(problem, Exception):
        return problem
    if task is None or isinstance(problem, KeyboardInterrupt):
        raise problem
    if isinstance(problem, asyncio.CancelledError) and task.cancelling():
        raise problem
    return stray(problem)


def stray(problem: BaseException) -> DeliveryError:
    """Return the failure that something is which only looks as if it were to end more than its own code."""
    said = _STRAY
    if not isinstance(problem, asyncio.CancelledError):
        said = f"it raised {problem_text(problem)}"
    failure = DeliveryError(said)
    failure.__cause__ = problem
    return failure


def _fail(problem: BaseException) -> NoReturn:
    """Raise what a plugin has raised, or the failure that it is."""
    if isinstance(problem, (Exception, KeyboardInterrupt)):
        raise problem
    raise stray(problem) from problem


def ends(problem: BaseException, task: asyncio.Task[Any] | None) -> bool:
    """Return whether something ends more than the code that raised it: an interrupt, the end of the loop.

    :param task: the task that the code has run in, None when it is the present one.
    """
    if isinstance(problem, GeneratorExit):
        return task is not None and running() is not task
    return isinstance(problem, KeyboardInterrupt)


def timeout_of(cancelled: asyncio.CancelledError) -> DeliveryTimeout | None:
    """Return the deadline of a delivery by which something was cancelled, None when it was something else."""
    found = cancelled.args[0] if cancelled.args else None
    return found if isinstance(found, DeliveryTimeout) else None


@types.coroutine
def rest(step: Any, awaited: Any) -> Generator[Any, Any, Any]:
    """Await a coroutine, or the like, that was begun by hand and waits for ``awaited``."""
    while True:
        try:
            try:
                given = yield awaited
            except GeneratorExit:
                step.close()  # the loop has ended
                raise
            except BaseException as exc:
                awaited = step.throw(exc)
            else:
                awaited = step.send(given)
        except StopIteration as done:
            return done.value


async def call(coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
    """Await ``coroutine`` for at most ``seconds`` (0: for ever) and return its result.

    A ``CancelledError`` that the plugin raises by itself, or by cancelling its own task, as client
    libraries do when a connection dies, ``SystemExit`` and the like come out as :class:`DeliveryError`;
    only what others cancel, and ``KeyboardInterrupt``, stay what they are. Raises
    :class:`DeliveryTimeout` after ``seconds``.
    """
    deadline = Deadline(seconds)
    try:
        return await deadline.call(coroutine)
    finally:
        deadline.close()


@types.coroutine
def _resume(coroutine: Coroutine[Any, Any, Any], awaited: Any, entry: _Waiting) -> Generator[Any, Any, Any]:
    """Await a coroutine that was begun by hand and waits for ``awaited``."""
    step: Callable[[Any], Any]
    cancelling = entry.task.cancelling
    while True:
        try:
            value = yield awaited
        except GeneratorExit:
            coroutine.close()  # the loop has ended
            raise
        except BaseException as exc:
            step, value = coroutine.throw, exc
        else:
            step = coroutine.send
        before = cancelling()
        try:
            awaited = step(value)
        except StopIteration as done:
            return done.value
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            _fail(exc)
        finally:
            # Less: a timeout of its own took its cancellation back.
            entry.own = max(0, entry.own + cancelling() - before)


async def _forget(task: asyncio.Task[Any], own: int, before: int) -> None:
    """Take back what a plugin asked of the task that awaits it: ``own`` cancellations.

    :param before: how often others had cancelled the task when the plugin was called.
    """
    if own <= 0:
        return
    for _ in range(own):
        task.uncancel()
    try:
        await asyncio.sleep(0)  # one may be still to come
    except asyncio.CancelledError:
        if task.cancelling() > before:
            raise


class _Waiting:
    """A task that awaits a plugin, and until when.

    :ivar cancels: how often the task had been cancelled when that began.
    :ivar own: how often the plugin itself has cancelled the task since.
    """

    __slots__ = ("cancels", "expired", "own", "task", "when")

    def __init__(self, task: asyncio.Task[Any], cancels: int, when: float) -> None:
        self.task = task
        self.when = when
        self.cancels = cancels
        self.expired = False
        self.own = task.cancelling() - cancels

    def meant(self, problem: BaseException, seconds: float) -> BaseException:
        """Return what the plugin has ended with, given what it raised and who has cancelled its task."""
        others = self.task.cancelling() - self.cancels - self.own
        cancelled = isinstance(problem, asyncio.CancelledError)
        if not self.expired:
            return problem if others > 0 or not cancelled else stray(problem)
        if others > 1:
            # It was told of the deadline and of them at once, and may have made an error of that.
            return problem if cancelled else asyncio.CancelledError()
        return DeliveryTimeout(seconds) if cancelled or isinstance(problem, TimeoutError) else problem

    def expire(self, seconds: float) -> None:
        if not self.expired:
            self.expired = True
            self.task.cancel(DeliveryTimeout(seconds))


class _Watched(NamedTuple):
    """A future that somebody else sets, and until when."""

    answer: asyncio.Future[Any]
    when: float

    def expire(self, seconds: float) -> None:
        self.answer.cancel(DeliveryTimeout(seconds))


class Deadline:
    """The same as :func:`call` for many coroutines, each for at most ``seconds`` (0: for ever).

    One timer for all of them, looked at again when it rings, costs less than one for each.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # In the order of their deadlines, as all have the same time.
        self._waiting: dict[_Waiting | _Watched, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def call(self, coroutine: Coroutine[Any, Any, Any], task: asyncio.Task[Any] | None = None) -> Any:
        """Await ``coroutine``; see :func:`call`.

        :param task: the one that runs, which takes as long to find as a short plugin does its work.
        """
        task = task or asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        # Much of what plugins do ends without waiting for anything, and costs no timer.
        try:
            awaited = coroutine.send(None)
        except StopIteration as done:
            if task.cancelling() != before:
                await _forget(task, task.cancelling() - before, before)
            return done.value
        except BaseException as exc:
            await _forget(task, task.cancelling() - before, before)
            _fail(exc)
        loop = asyncio.get_running_loop()
        entry = _Waiting(task, before, loop.time() + self._seconds)
        self._waiting[entry] = None
        if self._timer is None and self._seconds:
            self._timer = loop.call_at(entry.when, self._look)
        try:
            return await _resume(coroutine, awaited, entry)
        except (asyncio.CancelledError, Exception) as exc:
            meant = entry.meant(exc, self._seconds)
            if meant is exc:
                raise
            raise meant from exc
        finally:
            del self._waiting[entry]
            if entry.expired:
                entry.task.uncancel()
            if entry.own:
                await _forget(entry.task, entry.own, entry.cancels)

    def watch(self, answer: asyncio.Future[Any]) -> None:
        """Cancel a future, with a :class:`DeliveryTimeout` as the message, when it takes too long."""
        if self._seconds and not answer.done():
            loop = asyncio.get_running_loop()
            entry = _Watched(answer, loop.time() + self._seconds)
            self._waiting[entry] = None
            answer.add_done_callback(lambda _: self._waiting.pop(entry, None))
            if self._timer is None:
                self._timer = loop.call_at(entry.when, self._look)

    def _look(self) -> None:
        """End what has taken too long, and look again when the next may have."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for entry in self._waiting:
            if entry.when > now:
                self._timer = loop.call_at(entry.when, self._look)
                return
            entry.expire(self._seconds)

    def close(self) -> None:
        """Forget the timer. Nothing may be awaited any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
