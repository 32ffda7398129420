"""What Ctrl-C, SIGTERM and a reader that goes away do to a running bus."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any

__all__ = ["STOPPED", "Control", "handled", "hang_up", "reader_left"]

#: The exit code after the second signal.
STOPPED = 130
#: Seconds that the process lives on after the second signal; a dead store that is being written has longer.
LAST_CALL = 0.9
LAST_WRITE = 10.0
DRAINING = b"\nevbus: delivering what is there; a second signal stops at once\n"


class Control:
    """Stop a bus in two steps.

    :param hurry: makes a stop that is under way, or to come, deliver no more.
    :ivar stopping: set when the bus is to drain.
    :ivar hurried: whether it is to stop at once.
    """

    def __init__(self, hurry: Callable[[], None]) -> None:
        self.stopping = asyncio.Event()
        self.hurried = False
        self._hurry = hurry

    def stop(self) -> None:
        """Take nothing more in, and drain."""
        self.stopping.set()

    def hurry(self) -> None:
        """Stop at once."""
        self.hurried = True
        self.stopping.set()
        self._hurry()

    async def until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Await ``work``, or cancel it when it is time to stop."""
        task: asyncio.Future[Any] = asyncio.ensure_future(work)
        stop: asyncio.Future[Any] = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            task.cancel()
            await asyncio.wait({task, stop})
        if not task.cancelled():
            task.result()

    async def joined(self, listener: asyncio.Future[None], join: Coroutine[Any, Any, None]) -> bool:
        """Wait until the bus is started; False when it was stopped before, and the start cancelled.

        Raises what ``join`` raises; what runs already is then to be stopped.
        """
        joining: asyncio.Future[Any] = asyncio.ensure_future(join)
        stop: asyncio.Future[Any] = asyncio.ensure_future(self.stopping.wait())
        await asyncio.wait({joining, listener, stop}, return_when=asyncio.FIRST_COMPLETED)
        started = joining.done() and not joining.exception()
        stop.cancel()
        if started:
            await asyncio.wait({stop})
            return True
        if joining.done() and not joining.cancelled() and not self.stopping.is_set():
            await asyncio.wait({stop})
            joining.result()
        joining.cancel()
        if not listener.done():
            listener.cancel()
        await asyncio.wait({joining, listener, stop})
        if not listener.cancelled():
            listener.result()
        return False


@contextlib.contextmanager
def handled(control: Control, busy: Callable[[], bool], *, quiet: bool) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM stop, the second hurry, and the third end the process.

    The process ends soon after the second one, whatever a plugin does to the loop, but not while ``busy()``
    says that events are still written to the disk.
    """
    loop = asyncio.get_running_loop()
    seen = 0

    def caught(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            if not quiet:
                # Not through sys.stderr, in the middle of whose work a signal may come.
                with contextlib.suppress(OSError):
                    os.write(2, DRAINING)
            loop.call_soon_threadsafe(control.stop)
        elif seen == 2:
            loop.call_soon_threadsafe(control.hurry)
            threading.Thread(target=_last_call, args=(busy,), name="evbus last call", daemon=True).start()
        else:
            os._exit(STOPPED)

    # Not loop.add_signal_handler: its handlers wait for a loop that a plugin may block.
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, caught) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before):  # noqa: B905 - one each
            signal.signal(number, handler)


def _last_call(busy: Callable[[], bool]) -> None:
    begun = time.monotonic()
    time.sleep(LAST_CALL)
    while busy() and time.monotonic() - begun < LAST_WRITE:
        time.sleep(0.05)
    os._exit(STOPPED)


def reader_left() -> bool:
    """Return whether standard output is a pipe that nobody reads any more."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return False  # there is no standard output, or it is no file


def hang_up() -> None:
    """Let everything that is still printed go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
