"""Processes that serve the shop, to be killed and replaced, and many calls at once."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["WAIT", "Process", "each", "processes"]

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
