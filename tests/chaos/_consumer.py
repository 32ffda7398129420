"""A consumer that is none of evbus's: ``python -m tests.chaos._consumer URL QUEUE...`` until its stdin ends.

Then it goes on until nothing more comes.

Prints a line "ready", then "queue, when it was put, seconds since then, body" for each message of the program
under test, whose header ``t`` holds the time.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import aio_pika

from tests.chaos._process import LIMIT, ROOT, environment
from tests.servers._wait import until

PREFETCH = 1000
QUIET = 2.0  # seconds
READY = "ready\n"


class Arrival(NamedTuple):
    """A message; times are of ``time.monotonic()``, which all processes of a machine share."""

    queue: str
    put_at: float
    took: float
    body: bytes


class Consumer:
    """The process, seen from outside."""

    def __init__(self, folder: Path, url: str, queues: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._output = folder / "arrivals"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos._consumer", url, *queues],
                stdin=subprocess.PIPE,
                stdout=output,
                cwd=ROOT,
                env=environment(folder),
            )

    def __enter__(self) -> Self:
        until(lambda: READY in self._output.read_text(), LIMIT, "the start of the consumer")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(LIMIT)
        finally:
            self._process.kill()
            self._process.wait()

    def arrivals(self) -> list[Arrival]:
        """Return what has arrived, once it has ended."""
        found = [line.split(" ", 3) for line in self._output.read_text().splitlines()[1:]]
        return [Arrival(queue, float(at), float(took), body.encode()) for queue, at, took, body in found]


async def main(url: str, *queues: str) -> None:
    noted = 0
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(PREFETCH)
        for name in queues:
            queue = await channel.get_queue(name)

            async def note(message: aio_pika.abc.AbstractIncomingMessage, name: str = name) -> None:
                nonlocal noted
                noted += 1
                put_at = float(str(message.headers["t"]))
                sys.stdout.write(
                    f"{name} {put_at!r} {time.monotonic() - put_at:.6f} {message.body.decode()}\n"
                )

            await queue.consume(note, no_ack=True)
        sys.stdout.write(READY)
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        seen = -1
        while seen != noted:  # a busy machine has brought here what was not read yet
            seen = noted
            await asyncio.sleep(QUIET)
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
