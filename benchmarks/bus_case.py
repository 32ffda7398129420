"""One measurement of one bus, in a process of its own: `python bus_case.py CASE N`.

The same file runs against evbus and against pop-evbus 7: a hub, the bus app-merged into it, contexts in
the shape that both know, events put through the hub with keyword arguments and read from
`hub.ingress.internal`. It prints one line of JSON with its results.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sides.common import Clock, run

PROFILE = "default"
KEY = "orders"
WARM_UP = 100


def patterns(count: int) -> list[str]:
    """Return ``count`` different globs, each of which matches PROFILE."""
    masks = itertools.product((False, True), repeat=len(PROFILE))
    globs = ("".join("?" if hidden else c for c, hidden in zip(PROFILE, mask, strict=True)) for mask in masks)
    return list(itertools.islice(globs, count))


def contexts(names: list[str]) -> dict[str, list[dict[str, dict[str, str]]]]:
    return {"internal": [{name: {"routing_key": KEY} for name in names}]}


def body(number: int) -> dict[str, Any]:
    return {"id": number, "state": "order placed"}


def new_hub() -> Any:
    """Return a hub as an application makes it: with the bus, its options and the log."""
    import pop.hub

    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="evbus")
    hub.pop.config.load(["evbus"], cli="evbus", parse_cli=False)
    return hub


def arguments(hub: Any) -> dict[str, str]:
    """Return what is said beside the body: pop-evbus 7 has no parameter for the routing key."""
    known = inspect.signature(hub.evbus.broker.put.func).parameters
    return {"profile": PROFILE} | ({"routing_key": KEY} if "routing_key" in known else {})


async def put_all(hub: Any, count: int) -> None:
    extra = arguments(hub)
    if "routing_key" in extra:
        for number in range(count):
            await hub.evbus.broker.put(routing_key=KEY, body=body(number), profile=PROFILE)
    else:
        for number in range(count):
            await hub.evbus.broker.put(body=body(number), profile=PROFILE)


async def get_all(hub: Any, count: int) -> None:
    queue = await hub.ingress.internal.get(routing_key=KEY)
    for _ in range(count):
        await queue.get()


async def with_bus(names: list[str], measure: Callable[[Any], Any]) -> dict[str, float]:
    """Start a bus with these profiles, warm it up, measure, and stop it."""
    hub = new_hub()
    await hub.evbus.broker.init()
    listener = asyncio.create_task(hub.evbus.init.start(contexts(names)))
    while not hub.evbus.STARTED:
        if listener.done():
            listener.result()  # why it did not start
        await asyncio.sleep(0)
    matching = sum(name[0] in "?d" for name in names)
    await asyncio.gather(put_all(hub, WARM_UP), get_all(hub, WARM_UP * matching))
    gc.collect()
    result = await measure(hub)
    await hub.evbus.init.stop()
    await listener
    return result


def throughput(matching: int, others: int = 0) -> Callable[[int], Any]:
    """Events put per second until the last of them is read from the last destination."""

    async def run(count: int) -> dict[str, float]:
        async def measure(hub: Any) -> dict[str, float]:
            clock = Clock()
            await asyncio.gather(put_all(hub, count), get_all(hub, count * matching))
            return clock.result(count)

        return await with_bus(patterns(matching) + [f"other-{i}" for i in range(others)], measure)

    return run


async def latency(count: int) -> dict[str, float]:
    """Microseconds from the call of put until the event is read, one event at a time."""

    async def measure(hub: Any) -> dict[str, float]:
        queue = await hub.ingress.internal.get(routing_key=KEY)
        extra = arguments(hub)
        taken = []
        clock = Clock()
        for number in range(count):
            started = time.perf_counter()
            await hub.evbus.broker.put(body=body(number), **extra)
            await queue.get()
            taken.append((time.perf_counter() - started) * 1e6)
        cpu = clock.result(count)["cpu"]
        return {"median": statistics.median(taken), "p99": statistics.quantiles(taken, n=100)[-1], "cpu": cpu}

    return await with_bus([PROFILE], measure)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def memory(count: int) -> dict[str, float]:
    """Resident bytes that each of ``count`` events costs, queued on a bus that is not started."""
    hub = new_hub()
    await hub.evbus.broker.init()
    await put_all(hub, WARM_UP)
    for _ in range(WARM_UP):
        await hub.evbus.broker.get()
    gc.collect()
    before = resident()
    await put_all(hub, count)
    gc.collect()
    return {"bytes": (resident() - before) / count}


async def bound(count: int) -> dict[str, float]:
    """Return what no bus can beat here: msgspec's encoder and one hop through an asyncio.Queue."""
    import msgspec

    queue: asyncio.Queue[bytes] = asyncio.Queue()
    encode = msgspec.json.Encoder().encode
    started = time.perf_counter()
    for number in range(count):
        await queue.put(encode(body(number)))
        await queue.get()
    return {"rate": count / (time.perf_counter() - started)}


CASES: dict[str, Callable[[int], Any]] = {
    "one": throughput(1),
    "ten": throughput(10),
    "hundred": throughput(100),
    "one-of-100": throughput(1, others=99),
    "latency": latency,
    "memory": memory,
    "bound": bound,
}

if __name__ == "__main__":
    print(json.dumps(run(CASES[sys.argv[1]](int(sys.argv[2])))))
