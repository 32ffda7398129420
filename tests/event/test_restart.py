"""A bus that ends in strange ways, and is started again: each event is handled once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.evbus.kit import running
from tests.evbus.rig import until
from tests.event.kit import INTERNAL, SOON, Gate, Got, OrderPlaced, dead, new_hub, settled

ONCE = {**SOON, "attempts": 1}


async def test_after_a_cancelled_run_the_next_hands_each_event_to_a_listener_once(tmp_path: Path) -> None:
    hub, got = new_hub(dead_store=str(tmp_path / "dead.jsonl")), Got()
    hub.event.init.subscribe(OrderPlaced, got.on, name="copy", per_process=True)
    for number in range(3):
        run = asyncio.ensure_future(hub.evbus.init.start(INTERNAL))
        await asyncio.sleep(0)
        await hub.evbus.init.join()
        await hub.event.init.send(OrderPlaced(str(number)))
        await settled(hub)
        run.cancel()
        await asyncio.wait({run})
    assert [event.id for event in got] == ["0", "1", "2"]
    assert all(not groups for groups in hub.egress.GROUPS.values())


async def test_starts_and_stops_leave_nothing_behind(tmp_path: Path) -> None:
    hub, got = new_hub(dead_store=str(tmp_path / "dead.jsonl")), Got()
    hub.event.init.subscribe(OrderPlaced, got.on, name="copy", per_process=True)
    hub.event.init.subscribe(OrderPlaced, got.on, name="shared", durable=True)
    before = len(asyncio.all_tasks())
    for number in range(1, 6):
        async with running(hub, INTERNAL):
            await hub.event.init.send(OrderPlaced())
        assert len(got) == 2 * number
        assert [len(groups) for groups in hub.egress.GROUPS.values()] == [2]
        assert len(asyncio.all_tasks()) == before


async def test_a_stop_while_a_listener_is_being_removed_keeps_what_that_handles(tmp_path: Path) -> None:
    hub = new_hub(dead_store=str(tmp_path / "dead.jsonl"), drain_timeout=0.2)
    gate = Gate(lambda event: event.id)
    async with running(hub, INTERNAL):
        number = hub.event.init.subscribe(OrderPlaced, gate.on)
        for each in "abc":
            await hub.event.init.send(OrderPlaced(each))
        await gate.entered(1)
        removing = asyncio.ensure_future(hub.event.init.unsubscribe(number))
        await asyncio.sleep(0)
        hub.evbus.ENGINE.hurry()
    assert await removing
    assert sorted(line["body"]["id"] for line in dead(tmp_path / "dead.jsonl")) == ["a", "b", "c"]
    assert sum(hub.evbus.ENGINE.report.undelivered.values()) == 3


async def test_on_error_cannot_wait_for_the_stop_that_waits_for_it(tmp_path: Path) -> None:
    hub, said = new_hub(dead_store=str(tmp_path / "dead.jsonl")), list[str]()

    async def on(event: Any) -> None:
        raise KeyError

    async def on_error(event: Any, exception: Exception) -> None:
        try:
            await hub.evbus.init.stop()
        except Exception as exc:
            said.append(str(exc))

    async with running(hub, INTERNAL):
        number = hub.event.init.subscribe(OrderPlaced, on, name="bad", retry=ONCE, on_error=on_error)
        await hub.event.init.send(OrderPlaced())
        await until(lambda: bool(said))
    assert said[0].startswith(f"listener {number} stops the bus, which waits for its listeners")


async def test_a_listener_that_ended_itself_cannot_wait_for_the_stop(tmp_path: Path) -> None:
    hub, said = new_hub(dead_store=str(tmp_path / "dead.jsonl")), list[str]()

    async def on(event: Any) -> None:
        await hub.event.init.unsubscribe(number)
        try:
            await hub.evbus.init.stop()
        except Exception as exc:
            said.append(str(exc))

    async with running(hub, INTERNAL):
        number = hub.event.init.subscribe(OrderPlaced, on)
        await hub.event.init.send(OrderPlaced())
        await until(lambda: bool(said))
    assert said[0].startswith(f"listener {number} stops the bus, which waits for its listeners")
