"""Where there is no room: in the bus, on the disk, in a thread."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from evbus.api import bus
from evbus.engine.core.dead import letters
from evbus.engine.wire.memory import queues
from evbus.errors import BusStopped
from tests.evbus.kit import WAIT
from tests.evbus.rig import turns, until
from tests.event.kit import Measured, OrderPlaced, dead, listening, settled

TIGHT = {"internal": {"default": {"limit": 1, "delivery": {"buffer": 1}}}}


@pytest.mark.parametrize("in_a_task", [False, True])
async def test_a_listener_that_sends_does_not_wait_for_room_that_it_has_to_make(in_a_task: bool) -> None:
    got: list[float] = []

    async with listening(TIGHT, queue_limit=1, drain_timeout=WAIT) as hub:

        async def on(event: OrderPlaced) -> None:
            if event.total == 0:
                await until(lambda: hub.evbus.BUS.full() or hub.evbus.BUS.stalled)
            putting = hub.evbus.broker.put(routing_key="next", body=event.total)
            await (asyncio.create_task(putting) if in_a_task else putting)

        async def after(number: float) -> None:
            got.append(number)

        hub.event.init.subscribe(OrderPlaced, on, prefetch=1)
        hub.event.init.subscribe("next", after, prefetch=1)
        for number in range(50):
            await asyncio.wait_for(hub.event.init.send(OrderPlaced("A", number)), WAIT)
        await settled(hub)
    assert got == list(range(50))


@pytest.mark.parametrize("limit", [0, 50])
async def test_who_sends_waits_for_listeners_in_this_process_that_have_as_much_as_they_may(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others do not, and the numbers tell where every event is."""
    monkeypatch.setattr(queues, "MOST", 1_060)
    gate, count, got = asyncio.Event(), 3_000, list[float]()

    async def on(event: OrderPlaced) -> None:
        await gate.wait()
        got.append(event.total)

    profiles = {"internal": {"default": {"limit": limit}, "other": {}}}
    async with listening(profiles) as hub:
        hub.event.init.subscribe(OrderPlaced, on)
        sent = 0

        async def send() -> None:
            nonlocal sent
            for number in range(count):
                await hub.event.init.send(OrderPlaced("A", number))
                sent += 1

        sending = asyncio.ensure_future(send())
        await until(lambda: hub.evbus.BUS.stalled)
        before = -1
        while before != sent:
            before = sent
            await turns(50)
        found = hub.evbus.stats.snapshot()
        (lane, _), (listener,) = found["lanes"].values(), found["listeners"].values()
        assert sent < count
        most = limit + 1_000 if limit else 1_060
        assert listener["queued"] + listener["in_flight"] == most
        # What a lane hands over at once, and what came in that moment.
        assert sent - most <= lane["queued"] + lane["in_flight"] + found["bus"]["queued"] <= 1_100
        await asyncio.wait_for(hub.evbus.broker.put(routing_key="k", body=1, profile="other"), WAIT)
        hub.evbus.broker.put_nowait(routing_key="k", body=2)
        gate.set()
        await asyncio.wait_for(sending, WAIT)
        await settled(hub)
        (listener,) = hub.evbus.stats.snapshot()["listeners"].values()
        assert (listener["accepted"], listener["delivered"], listener["queued"]) == (count, count, 0)
        assert not hub.evbus.BUS.stalled
    assert got == list(range(count))


@pytest.mark.parametrize("limit", [0, 50])
@pytest.mark.parametrize("how", ["put", "put_nowait"])
async def test_a_listener_that_waits_for_another_event_does_not_stand_still_when_it_has_as_much_as_it_may(
    limit: int, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it waits for comes after what is too much for it, and goes to a listener that has room."""
    monkeypatch.setattr(queues, "MOST", 1_060)
    asked: dict[float, asyncio.Future[None]] = {}
    gate, count, got = asyncio.Event(), 3_000, list[float]()

    async with listening({"internal": {"default": {"limit": limit}}}) as hub:

        async def on(event: OrderPlaced) -> None:
            await gate.wait()
            asked[event.total] = asyncio.get_running_loop().create_future()
            await hub.event.init.send(Measured(event.total))
            await asked[event.total]
            got.append(event.total)

        async def answer(event: Measured) -> None:
            asked[event.value].set_result(None)

        hub.event.init.subscribe(OrderPlaced, on)
        hub.event.init.subscribe(Measured, answer)

        async def send() -> None:
            for number in range(count):
                if how == "put":
                    await hub.event.init.send(OrderPlaced("A", number))
                else:
                    hub.evbus.broker.put_nowait(routing_key="OrderPlaced", body=OrderPlaced("A", number))

        sending = asyncio.ensure_future(send())
        await until(lambda: hub.evbus.BUS.stalled)
        gate.set()
        await asyncio.wait_for(sending, WAIT)
        await settled(hub)
        for lane in hub.evbus.stats.snapshot()["lanes"].values():
            assert lane["accepted"] == lane["delivered"] == 2 * count
            assert lane["queued"] == lane["queued_bytes"] == lane["in_flight"] == 0
        assert hub.evbus.stats.snapshot()["bus"]["held"] == 0
        assert not hub.evbus.BUS.stalled
    assert got == list(range(count))


async def test_who_waits_for_a_listener_is_told_when_the_bus_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "MOST", 1_001)

    async def on(event: OrderPlaced) -> None:
        await asyncio.Event().wait()

    async with listening(drain_timeout=0.01) as hub:
        hub.event.init.subscribe(OrderPlaced, on)

        async def send() -> None:
            while True:
                await hub.event.init.send(OrderPlaced("A", 1))

        sending = asyncio.ensure_future(send())
        await until(lambda: hub.evbus.BUS.stalled)
        await turns(50)
    with pytest.raises(BusStopped):
        await asyncio.wait_for(sending, WAIT)


async def test_a_dead_event_waits_for_the_disk_and_is_recorded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "PAUSE", 0.001)
    monkeypatch.setattr("evbus.engine.core.dead.store.RETRY", 0.001)
    folder = tmp_path / "folder"
    folder.write_text("a file where a folder should be")
    got: list[float] = []

    async def on(event: OrderPlaced) -> None:
        got.append(event.total)
        if event.total == 0:
            raise ValueError("it does not work")

    async with listening(dead_store=str(folder / "dead.jsonl")) as hub:
        hub.event.init.subscribe(OrderPlaced, on, prefetch=1, retry={"attempts": 1})
        for number in range(3):
            await hub.event.init.send(OrderPlaced("A", number))
        await until(lambda: hub.evbus.stats.snapshot()["dead_store"]["pending"])
        assert got == [0]
        folder.unlink()
        folder.mkdir(exist_ok=True)  # the store may have been quicker
        await settled(hub)
    assert got == [0, 1, 2]
    assert [record["body"]["total"] for record in dead(folder / "dead.jsonl")] == [0]


@pytest.mark.parametrize("gives_up", [False, True])
async def test_a_stop_ends_while_the_dead_store_s_disk_hangs_and_says_what_is_lost(
    gives_up: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A write that hangs, as on a dead NFS server, is outside our control: nothing ends it."""
    free, hangs, write, called = threading.Event(), threading.Event(), os.write, asyncio.Event()

    def hang(fd: int, data: bytes) -> int:
        if threading.current_thread().name == "evbus-dead":
            hangs.set()
            free.wait(2 * WAIT)
        return write(fd, data)

    async def on(event: OrderPlaced) -> None:
        called.set()
        if not gives_up:
            await asyncio.Event().wait()
        raise KeyError("id")

    monkeypatch.setattr(os, "write", hang)
    try:
        async with bus(
            {"internal": {"*": {}}}, dead_store=str(tmp_path / "dead"), drain_timeout=0.1
        ) as events:
            events.hub.event.init.subscribe(OrderPlaced, on, retry={"attempts": 1})
            for number in range(3):
                await events.hub.event.init.send(OrderPlaced("A", number))
            await called.wait()
            if gives_up:
                assert await asyncio.to_thread(hangs.wait, WAIT)
        report = events.report
        assert hangs.is_set()
        # Records that were being written are made once more: nobody knows of the disk, so events return.
        lost = 6 if gives_up else 3
        assert report.lost == lost
        assert f"{lost} dead events are lost: {tmp_path / 'dead'} is not written in time" in caplog.text
    finally:
        free.set()
        for thread in threading.enumerate():
            if thread.name == "evbus-dead":
                thread.join(WAIT)


async def test_a_plain_function_that_does_not_end_holds_up_no_other_event() -> None:
    free, called = threading.Event(), list[Any]()

    def on(event: OrderPlaced) -> None:
        called.append(event.total)
        if event.total == 0:
            free.wait(WAIT)

    async with listening() as hub:
        hub.event.init.subscribe(OrderPlaced, on, timeout=0.5, retry={"attempts": 1})
        for number in range(3):
            await hub.event.init.send(OrderPlaced("A", number))
        await settled(hub)
        free.set()
    # In which order is up to the threads.
    assert sorted(called) == [0, 1, 2]
