"""One measurement of one dispatcher, in a process of its own: `python dispatch_case.py SIDE CASE N`.

The same code runs against evbus, through the hub, and against iambus: both have events, commands and queries
with `register`, `bind` and `handle`. It prints one line of JSON with its results.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sides.common import Clock

HANDLERS = 100
IN_FLIGHT = 100
WARM_UP = 1000


@dataclass
class OrderPlaced:
    """An event with one handler."""

    number: int


@dataclass
class Audited:
    """An event with many."""

    number: int


@dataclass
class PlaceOrder:
    """A command."""

    number: int


@dataclass
class GetOrder:
    """A query."""

    number: int


class Handled:
    """What handlers count, and who waits for it."""

    def __init__(self) -> None:
        self.count = 0
        self.wanted = 0
        self.done: asyncio.Future[None] | None = None

    def expect(self, wanted: int) -> asyncio.Future[None]:
        """Return what is done when so many are handled."""
        self.count, self.wanted = 0, wanted
        self.done = asyncio.get_running_loop().create_future()
        return self.done

    def one(self) -> None:
        """Count one."""
        self.count += 1
        if self.count == self.wanted and self.done is not None:
            self.done.set_result(None)


HANDLED = Handled()


def evbus_dispatcher() -> Any:
    import pop.hub

    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="evbus", pypath="evbus.evbus")
    return hub.dispatch


def iambus_dispatcher() -> Any:
    from iambus import Dispatcher

    return Dispatcher(listen_for_signals=False)


def bound(side: str) -> Any:
    """Return the dispatcher of a side, with its handlers."""
    dispatcher = {"evbus": evbus_dispatcher, "iambus": iambus_dispatcher}[side]()

    @dispatcher.events.register(OrderPlaced)
    async def on_order(event: OrderPlaced) -> None:
        HANDLED.one()

    def make() -> Callable[[Audited], Awaitable[None]]:
        async def on_audited(event: Audited) -> None:
            HANDLED.one()

        return on_audited

    for _ in range(HANDLERS):
        dispatcher.events.bind(Audited, make())

    @dispatcher.commands.register(PlaceOrder)
    async def place(command: PlaceOrder) -> int:
        return command.number + 1

    @dispatcher.queries.register(GetOrder)
    async def get(query: GetOrder) -> int:
        return query.number + 1

    return dispatcher


async def handed_over(dispatcher: Any, kind: type, count: int, handlers: int = 1) -> dict[str, float]:
    """Hand so many events over, until the last is handled."""
    done = HANDLED.expect(count * handlers)
    clock = Clock()
    for number in range(count):
        await dispatcher.events.handle(kind(number))
    await done
    return clock.result(count)


async def events(dispatcher: Any, count: int) -> dict[str, float]:
    await handed_over(dispatcher, OrderPlaced, WARM_UP)
    return await handed_over(dispatcher, OrderPlaced, count)


async def hundred(dispatcher: Any, count: int) -> dict[str, float]:
    await handed_over(dispatcher, Audited, 10, HANDLERS)
    return await handed_over(dispatcher, Audited, count, HANDLERS)


async def asked(router: Any, kind: type, count: int) -> None:
    for number in range(count):
        assert await router.handle(kind(number), wait_for_response=True) == number + 1


def awaited(name: str, kind: type, in_flight: int) -> Callable[[Any, int], Awaitable[dict[str, float]]]:
    """Messages a second whose answer is awaited, one after another or so many at once."""

    async def run(dispatcher: Any, count: int) -> dict[str, float]:
        router = getattr(dispatcher, name)
        await asked(router, kind, WARM_UP)
        clock = Clock()
        await asyncio.gather(*(asked(router, kind, count // in_flight) for _ in range(in_flight)))
        return clock.result(count)

    return run


async def events_awaited(dispatcher: Any, count: int) -> dict[str, float]:
    taken = []
    clock = Clock()
    for number in range(WARM_UP + count):
        if number == WARM_UP:
            clock = Clock()
        started = time.perf_counter()
        await dispatcher.events.handle(OrderPlaced(number), wait_for_response=True)
        taken.append(time.perf_counter() - started)
    taken = taken[WARM_UP:]
    p99 = statistics.quantiles(taken, n=100)[-1] * 1e6
    return {"rate": count / sum(taken), "p99": p99, "cpu": clock.result(count)["cpu"]}


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def keys(dispatcher: Any, count: int) -> dict[str, float]:
    """Resident bytes that each of so many different keys leaves behind, and the tasks that are left."""
    for _ in range(3):
        await handed_over(dispatcher, OrderPlaced, 20_000)
    gc.collect()
    before, tasks = resident(), len(asyncio.all_tasks())
    done = HANDLED.expect(count)
    for number in range(count):
        await dispatcher.events.handle(OrderPlaced(number), key=f"customer-{number}")
    await done
    await asyncio.sleep(0)
    gc.collect()
    return {"bytes": (resident() - before) / count, "tasks": len(asyncio.all_tasks()) - tasks}


CASES: dict[str, Callable[[Any, int], Awaitable[dict[str, float]]]] = {
    "events": events,
    "events-awaited": events_awaited,
    "hundred": hundred,
    "commands": awaited("commands", PlaceOrder, 1),
    "commands-100": awaited("commands", PlaceOrder, IN_FLIGHT),
    "queries": awaited("queries", GetOrder, 1),
    "queries-100": awaited("queries", GetOrder, IN_FLIGHT),
    "keys": keys,
}


async def main(side: str, case: str, count: int) -> dict[str, float]:
    dispatcher = bound(side)
    dispatcher.start()
    return await CASES[case](dispatcher, count)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
