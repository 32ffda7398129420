"""Signals for a running bus: Ctrl-C and SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from evbus.engine.core.lifecycle.run import Report
from evbus.engine.kit.redact import one_line

__all__ = ["STOPPED", "Control", "handled"]

#: The exit code after the second signal.
STOPPED = 130
#: That of a process that was told to drain, and did not end by itself.
UNDELIVERED = 1
#: Seconds that a stop has beyond those for delivering, and after a second signal; a dead store that is being
#: written has longer.
OVERTIME = 3.8
LAST_CALL = 0.8
#: Seconds that a loop has to show that it is not blocked.
TURN = 0.1
DRAINING = b"\nevbus: delivering what is there; a second signal stops at once\n"


def _nothing() -> None: ...


class Control:
    """What stops a bus in two steps, and a part of the task that runs it, which ends with the first.

    The part is entered with ``async with``, several times if need be, one after the other. It is cancelled
    where it waits, and the task goes on behind it.

    :param limit: makes a stop that is under way end in time, whatever is delivered.
    :param cut_short: makes a stop that is under way, or to come, deliver no more.
    :param insist: let the second step cancel the part once more.
    :ivar left: whether the part was told to be left.
    :ivar at_once: whether nothing more is to be delivered.
    :ivar report: after the end: what could not be delivered.
    """

    def __init__(
        self,
        limit: Callable[[], None] = _nothing,
        cut_short: Callable[[], None] = _nothing,
        *,
        insist: bool = False,
    ) -> None:
        self.left = False
        self.at_once = False
        self.report: Report = Report({}, "", 0.0)
        self._limit = limit
        self._cut_short = cut_short
        self._insist = insist
        self._task: asyncio.Task[Any] | None = None
        self._before = 0
        self._cancelled = 0

    def stop(self) -> None:
        """Take nothing more in, and drain."""
        self._limit()
        self.leave()

    def stop_at_once(self) -> None:
        """Deliver no more, and stop."""
        self.at_once = True
        self._cut_short()
        if self._insist or not self.left:
            self.leave()

    def leave(self) -> None:
        """Let the part end."""
        self.left = True
        if self._task is not None:
            self._cancelled += 1
            self._task.cancel()

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._before, self._cancelled = self._task.cancelling(), 0
        if self.left:
            self.leave()

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if task is None or not self._cancelled:
            return False
        if kind is None:
            # It ended by itself: what it was cancelled with may still be to come.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        for _ in range(self._cancelled):
            task.uncancel()
        others = task.cancelling() > self._before
        if kind is None and others:
            raise asyncio.CancelledError
        return kind is not None and issubclass(kind, asyncio.CancelledError) and not others


class _Watch:
    """A thread that is told of signals, whatever the loop does, and that ends a process which does not end.

    :param seconds: that a stop may take to deliver what is there.
    :param record: records what is left, from another thread; gets whether the loop is blocked, and returns
        what is to be said.
    """

    def __init__(
        self, control: Control, seconds: float, record: Callable[[bool], str], *, quiet: bool
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._control = control
        self._seconds = seconds
        self._record = record
        self._quiet = quiet
        self._seen = 0
        self._end: float | None = None
        # A signal is written to it by Python itself, in whatever state the main thread is.
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)

    def start(self) -> int:
        """Begin; return the descriptor that signals are to be written to."""
        threading.Thread(target=self._run, name="evbus signals", daemon=True).start()
        return self._theirs.fileno()

    def catch(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal as Python's handlers do, unless it was written to the descriptor already.

        There is one such descriptor in a process, and a plugin's ``loop.add_signal_handler`` takes it.
        """
        # To ask for it is to set it. Ours is set, as a signal that comes between the two calls would be lost.
        written_to = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        if written_to != self._theirs.fileno():
            signal.set_wakeup_fd(written_to, warn_on_full_buffer=False)
            self._theirs.send(bytes((number,)))

    def close(self) -> None:
        """End: the process does so by itself."""
        self._theirs.close()

    def _run(self) -> None:
        with self._ours:
            while True:
                left = None if self._end is None else max(0.0, self._end - time.monotonic())
                self._ours.settimeout(left)
                try:
                    numbers = self._ours.recv(64)
                except OSError:
                    self._end = None
                    threading.Thread(target=self._force, name="evbus last call", daemon=True).start()
                    continue
                if not numbers:
                    return
                for number in numbers:
                    if number in _NUMBERS:
                        self._caught()

    def _caught(self) -> None:
        self._seen += 1
        if self._seen == 1:
            if not self._quiet:
                _say(DRAINING)
            self._later(self._control.stop)
            self._end = time.monotonic() + self._seconds + OVERTIME
        elif self._seen == 2:
            self._later(self._control.stop_at_once)
            self._end = time.monotonic() + LAST_CALL
        else:
            os._exit(STOPPED)

    def _later(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(call)

    def _force(self) -> None:
        """End the process, with what is left recorded if at all possible."""
        turned = threading.Event()
        self._later(turned.set)
        blocked = not turned.wait(TURN)
        try:
            said = self._record(blocked)
        except Exception as exc:
            said = f"what was not delivered is lost: {type(exc).__name__}: {exc}"
        where = f"; the event loop is blocked{_place()}" if blocked else ""
        _say(f"\nevbus: {said}\nevbus: the process did not end by itself{where}\n".encode(errors="replace"))
        os._exit(STOPPED if self._seen > 1 else UNDELIVERED)


_NUMBERS = (signal.SIGINT, signal.SIGTERM)


def _say(message: bytes) -> None:
    # Not through sys.stderr, in the middle of whose work the main thread may be.
    with contextlib.suppress(OSError):
        os.write(2, message)


def _place() -> str:
    """Return the innermost line of the main thread."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return f" in {one_line(frame.f_code.co_filename)}:{frame.f_lineno}" if frame is not None else ""


@contextlib.contextmanager
def handled(
    control: Control, seconds: float, record: Callable[[bool], str], *, quiet: bool
) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM stop, the second cut that short, and the third end the process.

    The process ends ``seconds`` and a moment after the first one, and soon after the second one, whatever a
    plugin does to the loop.

    :param seconds: that a stop may take to deliver what is there.
    :param record: called in another thread, when the process has not ended by then, with whether the loop is
        blocked: records what is left, and returns what is to be said.
    """
    watch = _Watch(control, seconds, record, quiet=quiet)
    # Not loop.add_signal_handler: its handlers wait for a loop that a plugin may block.
    descriptor = signal.set_wakeup_fd(watch.start(), warn_on_full_buffer=False)
    before = [signal.signal(number, watch.catch) for number in _NUMBERS]
    try:
        yield
    finally:
        for number, handler in zip(_NUMBERS, before):  # noqa: B905 - one each
            signal.signal(number, handler)
        signal.set_wakeup_fd(descriptor)
        watch.close()
