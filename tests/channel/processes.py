"""Processes that serve the shop, to be killed and replaced, and many calls at once."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["WAIT", "Process", "each", "processes", "replaced"]

WAIT = 60.0  # seconds; nothing takes that long unless something is wrong
ROOT = Path(__file__).parent.parent.parent


class Process:
    """A process with a server of the shop.

    :param options: with which its services are started; default: an HTTP server at ``port``.
    """

    def __init__(self, noted: Path, port: int = 0, options: Mapping[str, Any] | None = None) -> None:
        self.noted = noted
        self._ended = False
        command = [sys.executable, "-m", "tests.channel._shop_process", str(noted)]
        command.append(json.dumps({"port": port} if options is None else options))
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self._process.kill()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """End in order, and wait for that."""
        if not self._ended:
            self._ended = True
            self._process.communicate(timeout=WAIT)

    def runs(self) -> collections.Counter[int]:
        """Return how often each number was taken."""
        return collections.Counter(map(int, self.noted.read_text().split()))


@contextlib.contextmanager
def processes(folder: Path, count: int, options: Mapping[str, Any] | None = None) -> Any:
    """Start some, and end them."""
    made = [Process(folder / str(number), options=options) for number in range(count)]
    try:
        yield made
    finally:
        for one in made:
            one.kill()
            one.end()


async def replaced(
    shop: Any, running: list[Process], again: Callable[[int, Process], Process], in_flight: int
) -> None:
    """Call all the time, end one process after the other and start another in its place; no call may fail.

    :param again: starts what takes the place of one, by its number.
    """
    done, count = asyncio.Event(), 0

    async def work() -> None:
        nonlocal count
        while not done.is_set():
            count += 1
            number = count
            assert await shop.take(number) == number

    async def called(one: Process) -> None:
        while len(one.noted.read_text()) < 400:  # noqa: ASYNC110 - what it waits for is elsewhere
            await asyncio.sleep(0.01)

    async with asyncio.timeout(WAIT), asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())
        for number, one in enumerate(list(running)):
            await called(one)
            await asyncio.to_thread(one.end)
            running.append(await asyncio.to_thread(again, number, one))
            await called(running[-1])
        done.set()
    ran = sum((one.runs() for one in running), collections.Counter[int]())
    assert ran == collections.Counter(range(1, count + 1))


async def each(call: Any, count: int, in_flight: int = 32) -> dict[int, Any]:
    """Call with each number, so many at once; return what came of each."""
    found: dict[int, Any] = {}
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            try:
                found[number] = await call(number)
            except Exception as exc:
                found[number] = exc

    async with asyncio.timeout(WAIT):
        await asyncio.gather(*(work() for _ in range(in_flight)))
    return found
