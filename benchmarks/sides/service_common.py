"""How the sides of the benchmark of services measure their calls."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

WARM_UP = 100  # calls
ANSWER = "hello world"
#: What calls are answered with: a greeting, or the name of a tree.
ANSWERS = (ANSWER, "at 5")
#: What a server without a port says when it serves.
READY = "serving"


def measure(call: Callable[[], Awaitable[object]], calls: int, in_flight: int) -> None:
    """Make so many calls, so many at once, and print the rate and the processor time of this process."""
    asyncio.run(measured(call, calls, in_flight))


def tree(make: Callable[[str, int, list[Any]], Any], levels: int = 5) -> Any:
    """Return a tree with two branches at each node, of which 31 nodes are 1 KiB on the wire.

    :param make: makes a node of its name, its number and the nodes below.
    """
    below = [tree(make, levels - 1) for _ in range(2)] if levels > 1 else []
    return make(f"at {levels}", levels, below)


async def measured(call: Callable[[], Awaitable[object]], calls: int, in_flight: int) -> None:
    async def work(count: int) -> None:
        for _ in range(count):
            answer = await call()
            assert (answer if isinstance(answer, str) else answer.name.lower()) in ANSWERS

    async def run(count: int) -> None:
        await asyncio.gather(*(work(count // in_flight) for _ in range(in_flight)))

    await run(max(in_flight, WARM_UP))
    began, cpu = time.perf_counter(), time.process_time()
    await run(calls)
    tell(calls // in_flight * in_flight, began, cpu)


async def measured_stream(stream: Callable[[], AsyncIterator[object]], items: int) -> None:
    """Read a stream of so many items twice, and print how the second went."""
    for _ in range(2):
        began, cpu, count = time.perf_counter(), time.process_time(), 0
        async for _item in stream():
            count += 1
        assert count == items
    tell(items, began, cpu)


def measure_plain(call: Callable[[], object], calls: int) -> None:
    """The same for a plain function."""
    for _ in range(WARM_UP):
        assert call() == ANSWER
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        assert call() == ANSWER
    tell(calls, began, cpu)


def tell(calls: int, began: float, cpu: float) -> None:
    """Print what was measured."""
    taken = time.perf_counter() - began
    print(json.dumps({"rate": calls / taken, "cpu": (time.process_time() - cpu) / calls * 1e6}), flush=True)
