"""The process under test: a bus that puts events as it is told, and writes down what put accepted.

``python -m tests.chaos._program SETTINGS`` reads a JSON file with ``run`` (the run's name), ``profiles``,
``options``, ``every`` (seconds between two lines that tell its state) and ``journal``, the file that gets a
line "number key profile routing_key" for each event that put returned for. Orders come as lines of JSON on
standard input, whose end stops the bus, and are done one after the other:

- ``{"do": "put", "count": n, "rate": r, "profile": p, "routing_keys": [k], "size": bytes, "stamp": false}``:
  ``rate`` events a second, 0 for as fast as possible, with these routing keys by turns; ``stamp`` adds a
  header ``t`` with the time.
- ``{"do": "threads", "threads": n, "count": n, "pause": s, "profile": p}``: so many each, by ``put_nowait``.
- ``{"do": "listen", "event": name}``: a listener that counts what it handles, as ``heard``.
- ``{"do": "figures"}``: percentiles of the time that the puts since the last such order took.
"""

from __future__ import annotations

import array
import asyncio
import json
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from evbus.api import BusHandle, bus
from tests.chaos._events import KEYS, body_of

TEXT = {"content-type": "text/plain"}
#: The profile, and the routing key, of the events whose way through the process is timed.
WAKE = "wake"
CATCH_UP = 0.02  # seconds that a producer with a rate may sleep at least


class Program:
    """Do what the orders say."""

    def __init__(self, settings: dict[str, Any], handle: BusHandle, journal: int) -> None:
        self.handle = handle
        self._run: str = settings["run"]
        self._every: float = settings["every"]
        self._journal = journal
        self._number = 0
        self._done = 0
        self._figured = 0
        self._took = array.array("d")
        self._woken = array.array("d")
        self._figures: dict[str, Any] = {}
        self._heard: set[str] = set()
        self._output = sys.stdout

    async def main(self) -> None:
        orders: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        reader = threading.Thread(target=_read, args=(loop, orders), daemon=True)
        reader.start()
        background = [asyncio.ensure_future(self._tell()), asyncio.ensure_future(self._wake())]
        try:
            while (order := await orders.get()) is not None:
                await getattr(self, f"do_{order.pop('do')}")(**order)
                self._done += 1
        finally:
            for task in background:
                task.cancel()
            await asyncio.wait(background)
        reader.join()

    async def do_put(
        self,
        count: int,
        rate: float = 0,
        profile: str = "default",
        routing_keys: Sequence[str] = ("chaos",),
        size: int = 0,
        stamp: bool = False,
    ) -> None:
        put, sent = self.handle.put, dict(TEXT)
        begun = time.monotonic()
        for index in range(count):
            number, key = self._number, self._number % KEYS
            self._number += 1
            before = time.monotonic()
            if stamp:
                sent["t"] = repr(before)
            routing_key = routing_keys[index % len(routing_keys)]
            await put(routing_key, body_of(self._run, number, key, size), profile, sent)
            self._took.append(time.monotonic() - before)
            self._accept(number, key, profile, routing_key)
            ahead = begun + (index + 1) / rate - time.monotonic() if rate else 0
            if ahead > CATCH_UP:
                await asyncio.sleep(ahead)

    async def do_threads(self, threads: int, count: int, pause: float = 0, profile: str = "default") -> None:
        base = self._number
        self._number += threads * count

        def work(thread: int) -> None:
            dice = random.Random(thread)  # noqa: S311 - no secret
            for index in range(count):
                if profile == WAKE:
                    self.handle.put_nowait(WAKE, repr(time.monotonic()).encode(), WAKE, TEXT)
                else:
                    number = base + thread * count + index
                    self.handle.put_nowait("chaos", body_of(self._run, number, thread), profile, TEXT)
                    self._accept(number, thread, profile, "chaos")
                if pause:
                    time.sleep(dice.uniform(0, 2 * pause))

        with ThreadPoolExecutor(threads) as pool:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(pool, work, thread) for thread in range(threads)))

    async def do_listen(self, event: str) -> None:
        async def on(event: str) -> None:
            self._heard.add(event)

        self.handle.hub.event.init.subscribe(event, on, name="chaos")
        await self.handle.hub.event.init.ready()

    def _accept(self, *event: object) -> None:
        os.write(self._journal, (" ".join(map(str, event)) + "\n").encode())

    async def do_figures(self) -> None:
        took, self._took = sorted(self._took), array.array("d")
        woken, self._woken = sorted(self._woken), array.array("d")
        self._figured += 1
        self._figures = {"number": self._figured, "put": _percentiles(took), "wake": _percentiles(woken)}

    async def _wake(self) -> None:
        """Take what an internal profile is given, and note how long that was under way."""
        queue = await self.handle.hub.ingress.internal.get(WAKE)
        while True:
            body = await queue.get()
            self._woken.append(time.monotonic() - float(body))

    async def _tell(self) -> None:
        while True:
            self.tell()
            await asyncio.sleep(self._every)

    def tell(self) -> None:
        workers = [task for task in asyncio.all_tasks() if task.get_name().startswith("evbus lane ")]
        state = {
            "at": time.monotonic(),
            "put": self._number,
            "done": self._done,
            "heard": len(self._heard),
            "workers": len(workers),
            "figures": self._figures,
            **self.handle.snapshot(),
        }
        self._output.write(json.dumps(state) + "\n")
        self._output.flush()


def _read(loop: asyncio.AbstractEventLoop, orders: asyncio.Queue[dict[str, Any] | None]) -> None:
    for line in sys.stdin:
        loop.call_soon_threadsafe(orders.put_nowait, json.loads(line))
    loop.call_soon_threadsafe(orders.put_nowait, None)


def _percentiles(ordered: Sequence[float]) -> dict[str, float]:
    """Return milliseconds."""
    if not ordered:
        return {}
    last = len(ordered) - 1
    found = {name: ordered[round(last * part)] for name, part in (("p50", 0.5), ("p99", 0.99), ("max", 1))}
    return {"count": len(ordered), **{name: round(value * 1000, 3) for name, value in found.items()}}


async def main(settings: dict[str, Any]) -> None:
    journal = os.open(settings["journal"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        async with bus(settings["profiles"], **settings["options"]) as handle:
            program = Program(settings, handle, journal)
            await program.main()
        program.tell()
    finally:
        os.close(journal)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
