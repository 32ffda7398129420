"""Where there is no room: in the bus, on the disk, in a thread."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from evbus.evbus import _dead_letters
from tests.evbus.kit import WAIT
from tests.evbus.rig import until
from tests.event.kit import OrderPlaced, dead, go, listening, settled

TIGHT = {"internal": {"default": {"limit": 1, "delivery": {"buffer": 1}}}}


def test_a_listener_that_sends_does_not_wait_for_room_that_it_has_to_make() -> None:
    got: list[float] = []

    async def main() -> None:
        async with listening(TIGHT, queue_limit=1, drain_timeout=WAIT) as hub:

            async def on(event: OrderPlaced) -> None:
                if event.total == 0:
                    await until(hub.evbus.BUS.full)
                await hub.evbus.broker.put(routing_key="next", body=event.total)

            async def after(number: float) -> None:
                got.append(number)

            hub.event.init.subscribe(OrderPlaced, on, prefetch=1)
            hub.event.init.subscribe("next", after, prefetch=1)
            for number in range(50):
                await asyncio.wait_for(hub.event.init.send(OrderPlaced("A", number)), WAIT)
            await settled(hub)

    go(main)
    assert got == list(range(50))


def test_a_dead_event_waits_for_the_disk_and_is_recorded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_dead_letters, "PAUSE", 0.001)
    monkeypatch.setattr("evbus.evbus._dead.RETRY", 0.001)
    folder = tmp_path / "folder"
    folder.write_text("a file where a folder should be")
    got: list[float] = []

    async def on(event: OrderPlaced) -> None:
        got.append(event.total)
        if event.total == 0:
            raise ValueError("it does not work")

    async def main() -> None:
        async with listening(dead_store=str(folder / "dead.jsonl")) as hub:
            hub.event.init.subscribe(OrderPlaced, on, prefetch=1, retry={"attempts": 1})
            for number in range(3):
                await hub.event.init.send(OrderPlaced("A", number))
            await until(lambda: hub.evbus.stats.snapshot()["dead_store"]["pending"])
            assert got == [0]
            folder.unlink()
            folder.mkdir(exist_ok=True)  # the store may have been quicker
            await settled(hub)

    go(main)
    assert got == [0, 1, 2]
    assert [record["body"]["total"] for record in dead(folder / "dead.jsonl")] == [0]


def test_a_plain_function_that_does_not_end_holds_up_no_other_event() -> None:
    free, called = threading.Event(), list[Any]()

    def on(event: OrderPlaced) -> None:
        called.append(event.total)
        if event.total == 0:
            free.wait(WAIT)

    async def main() -> None:
        async with listening() as hub:
            hub.event.init.subscribe(OrderPlaced, on, timeout=0.01, retry={"attempts": 1})
            for number in range(3):
                await hub.event.init.send(OrderPlaced("A", number))
            await settled(hub)
            free.set()

    go(main)
    # In which order is up to the threads.
    assert sorted(called) == [0, 1, 2]
