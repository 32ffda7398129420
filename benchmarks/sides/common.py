"""What the scripts of all sides share; needs nothing but the standard library.

Each script measures one case of one side in a process of its own: `python SCRIPT CASE N URL QUEUE`.
The queue is there, durable and empty, or with N messages where the case consumes. It prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

IN_FLIGHT = 1_000
PREFETCH = 1_000
RATE = 500  # events per second where latency is measured
WARM_UP = 100  # events whose latency does not count
#: The variable that names another event loop than asyncio's: uvloop.
LOOP = "EVBUS_BENCH_LOOP"
LIMIT = 110  # seconds after which a script ends itself, also when nobody waits for it any more

Send = Callable[[int], Awaitable[object]]
Measure = Callable[[int, str, str], Any]


def body(number: int) -> dict[str, Any]:
    """Return a small event, which is 40 bytes of JSON whatever its number."""
    return {"id": 1_000_000 + number, "state": "order placed"}


def payload(number: int) -> bytes:
    return json.dumps(body(number)).encode()


class Clock:
    """Measures from its creation: events per second, and processor time of this process per event."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def result(self, count: int) -> dict[str, float]:
        """Return ``rate`` in events per second and ``cpu`` in microseconds per event."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {"rate": count / wall, "cpu": cpu / count * 1e6}


async def keep_in_flight(count: int, send: Send, window: int = IN_FLIGHT) -> None:
    """Await ``send(0)`` to ``send(count - 1)``, as many at a time as the window says.

    A worker for each place in the window costs less than a task for each event, and leaves no gaps between
    batches.
    """
    numbers: Iterator[int] = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await send(number)

    await asyncio.gather(*(work() for _ in range(min(window, count))))


async def at_rate(count: int, send: Callable[[int], None]) -> None:
    """Call ``send(0)`` to ``send(count - 1)``, RATE a second; who is late catches up."""
    begin = time.perf_counter()
    for number in range(count):
        wait = begin + number / RATE - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        send(number)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run this in the event loop that was asked for, and return its result."""
    factory: Any = None
    if os.environ.get(LOOP) == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return the median and the 99th percentile in milliseconds."""
    return {
        "median": statistics.median(seconds) * 1e3,
        "p99": statistics.quantiles(seconds, n=100)[-1] * 1e3,
    }


def main(cases: dict[str, Measure]) -> None:
    """Run the case that the command line names."""
    case, count, url, queue = sys.argv[1:]
    signal.alarm(LIMIT)
    result = cases[case](int(count), url, queue)
    print(json.dumps(run(result) if inspect.isawaitable(result) else result))
