"""What is left in a loop that was closed before the bus was stopped."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from evbus.engine.core.lifecycle.unstopped import end_tasks, mark
from evbus.engine.kit.notifier import Notifier


async def _wait(ended: list[str]) -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        ended.append("beneath a bus")
        await asyncio.sleep(0)


def test_tasks_of_evbus_end_without_a_word_and_those_of_the_program_are_told_by_asyncio() -> None:
    ended: list[str] = []
    told: list[str] = []
    tasks: list[asyncio.Task[Any]] = []

    async def beneath() -> None:
        mark()
        tasks.append(asyncio.create_task(_wait(ended)))

    async def main() -> None:
        tasks.append(asyncio.create_task(asyncio.Event().wait(), name="of the program"))
        tasks.append(asyncio.create_task(Notifier().until(lambda: None)))
        await asyncio.create_task(beneath())
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["task"].get_name()))
    loop.run_until_complete(main())
    loop.close()
    end_tasks(loop)
    assert ended == ["beneath a bus"]
    tasks.clear()
    gc.collect()
    assert told == ["of the program"]
