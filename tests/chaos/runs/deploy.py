"""Services that are replaced one after the other while they are called."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

from tests.channel.processes import WAIT, Process, processes
from tests.channel.shop import Shop
from tests.chaos._calls import Calls
from tests.chaos._run import Run
from tests.chaos._transport import Broker
from tests.evbus.kit import new_hub


def deploy(
    node: Broker,
    folder: Path,
    *,
    rate: int = 500,
    calls: int = 15_000,
    channel: str = "dispatch-msgpack",
) -> Run:
    """Three servers end and start again, in turn, under steady calls: none fails, none runs twice."""
    run = Run("deploy: services replaced under calls", channel=channel, rate=rate, calls=calls)
    folder.mkdir(parents=True)
    with processes(folder, 3) as made, contextlib.ExitStack() as stack:
        steady, replaced = asyncio.run(_called(made, stack, folder, rate, calls, channel))
        took = sorted(one.took for one in steady.ended)
        problems = [f"{type(one.problem).__name__}: {one.problem}" for one in steady.failed()]
        run.same("failed", len(problems))
        run.note(replaced=replaced, p99_ms=round(took[len(took) * 99 // 100] * 1000, 1))
        run.note(problems=sorted(set(problems))[:5])
        run.hold("each_was_replaced", replaced, replaced >= 3, "3 or more")
        ran = sum((one.runs() for one in made), Counter[int]())
        run.same("run_twice", sum(count > 1 for count in ran.values()))
        run.same("not_run", calls - len(ran))
    return run


async def _called(
    made: list[Process],
    stack: contextlib.ExitStack,
    folder: Path,
    rate: int,
    calls: int,
    channel: str,
) -> tuple[Calls, int]:
    """Return the calls, and how often a server was replaced."""
    hub: Any = new_hub()
    where = {"static": {"shop": {channel: [one.url for one in made]}}}
    await hub.service.init.start(
        settings={"registry": where, "channels": {channel: {"breaker": {"pause": 1}}}}
    )
    shop = hub.service.init.get(Shop, channel=channel)
    steady = Calls(shop.take, rate, WAIT)
    done, replaced = asyncio.Event(), 0

    async def replace() -> None:
        nonlocal replaced
        running = list(made)
        while not done.is_set():
            old = running.pop(0)
            await asyncio.to_thread(old.end)
            new = await asyncio.to_thread(Process, folder / f"again-{replaced}", old.port)
            stack.callback(new.end)
            made.append(new)
            running.append(new)
            replaced += 1

    replacing = asyncio.create_task(replace())
    await steady.go(calls)
    done.set()
    await replacing
    await hub.service.init.stop()
    return steady, replaced
