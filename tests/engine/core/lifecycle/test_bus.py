"""The life of the bus: start, join, drain, stop; and again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.core.lifecycle import bus
from evbus.engine.core.lifecycle.bus import BusState
from evbus.engine.core.settings import DeliverySettings
from evbus.errors import (
    BusStopped,
    ConfigError,
    DestinationForbidden,
    EvbusError,
    MissingExtra,
    Unavailable,
)
from tests.engine.core.lane.test_sender import Door
from tests.evbus.rig import HANG, Rig, Target, counts, numbers, turns, until, within
from tests.servers._rabbitmq import RabbitMQ


@pytest.fixture
def impatient(monkeypatch: Any) -> None:
    """Let ends that have to wait for somebody wait for a moment only."""
    monkeypatch.setattr(bus, "CLOSE_TIMEOUT", 0.02)
    monkeypatch.setattr(bus, "CUT_SHORT_TIMEOUT", 0.01)


# Start and join


async def test_a_second_start_is_refused_while_the_first_is_under_way_and_while_it_runs(rig: Rig) -> None:
    door = Door()
    door.gate = asyncio.Event()
    rig.add(Target(), opener=door.open)
    task = asyncio.ensure_future(rig.start())
    await turns(3)
    with pytest.raises(EvbusError, match="already started"):
        await rig.start()
    door.gate.set()
    await within(rig.bus.join())
    with pytest.raises(EvbusError, match="already started"):
        await rig.start()
    assert rig.bus.state is BusState.RUNNING
    await rig.stop()
    await task


@pytest.mark.parametrize(
    "problem",
    [ConfigError("bad"), MissingExtra("f", package="p", extra="e"), DestinationForbidden("no")],
)
async def test_an_open_that_a_person_has_to_mend_refuses_the_start_and_closes_the_others(
    rig: Rig, problem: Exception
) -> None:
    good, bad = Door(), Door(problem)

    rig.add(Target(), opener=good.open, closer=good.close)
    rig.add(Target(), opener=bad.open, closer=bad.close)
    joiner = asyncio.ensure_future(rig.bus.join())
    with pytest.raises(type(problem)) as caught:
        await within(rig.start())
    for joined in (joiner, rig.bus.join()):
        with pytest.raises(type(problem)) as again:
            await within(joined)
        assert again.value is caught.value
    assert (await rig.stop()).undelivered == {}
    assert rig.bus.state is BusState.NEW
    rig.put_nowait("kept")
    assert (good.opened, good.closed, bad.opened, bad.closed) == (1, 1, 0, 0)
    assert rig.check()["bus"]["queued"] == 1


async def test_stop_after_a_failed_start_does_not_end_the_next(rig: Rig) -> None:
    rig.add(Target(), opener=Door(ConfigError("bad")).open)
    with pytest.raises(ConfigError):
        await within(rig.start())
    await rig.stop()
    rig.lanes.clear()
    task = asyncio.ensure_future(rig.start())
    await rig.bus.join()  # of the start that was only just scheduled
    assert rig.bus.state is BusState.RUNNING
    await rig.stop()
    await task
    rig.lanes.clear()
    target = rig.to(Target())
    async with rig.running():
        await turns(10)
        assert rig.bus.state is BusState.RUNNING
        await rig.put(1)
    assert target.got == [b"1"]


@pytest.mark.parametrize(
    "problem", [Unavailable("down"), ConnectionError("refused"), asyncio.CancelledError()]
)
async def test_an_open_that_fails_for_now_is_tried_again_by_the_lane(
    rig: Rig, problem: BaseException, caplog: Any
) -> None:
    door = Door(problem, Unavailable("still"))
    target = rig.to(Target(), opener=door.open, closer=door.close)
    async with rig.running():
        await rig.put(1)
        await until(lambda: target.got)
    assert (door.opened, door.closed) == (1, 1)
    assert "cannot be opened, and is tried again" in caplog.text


async def test_an_open_that_hangs_does_not_hold_up_the_start_for_ever(rig: Rig, monkeypatch: Any) -> None:
    monkeypatch.setattr(bus, "OPEN_TIMEOUT", 0.01)

    door, good = Door(), Target()
    door.gate = asyncio.Event()
    target = rig.to(Target(), opener=door.open, closer=door.close)
    rig.add(good)
    async with rig.running():
        await rig.put(1)
        await until(lambda: good.got)
        door.gate.set()
        await until(lambda: target.got)
    assert (door.opened, door.closed) == (1, 1)


async def test_a_start_that_is_cancelled_says_so_to_who_joins(rig: Rig) -> None:
    door = Door()
    door.gate = asyncio.Event()
    rig.add(Target(), opener=door.open, closer=door.close)
    task = asyncio.ensure_future(rig.start())
    joiner = asyncio.ensure_future(rig.bus.join())
    await turns(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(task)
    with pytest.raises(EvbusError, match="was cancelled"):
        await within(joiner)
    assert (door.opened, door.closed) == (0, 0)
    rig.lanes.clear()
    await rig.deliver()


async def test_joiners_that_give_up_are_forgotten(rig: Rig) -> None:
    joiner = asyncio.ensure_future(rig.bus.join())
    await turns(1)
    joiner.cancel()
    await asyncio.wait({joiner})
    assert len(rig.bus._joiners) == 0


# Stop


async def test_stop_delivers_everything_and_then_refuses(rig: Rig) -> None:
    targets = [Target(batching=number % 2 == 0) for number in range(3)]
    for target in targets:
        rig.add(target)
    async with rig.running():
        for number in range(3000):
            await rig.put(number)
        report = await rig.stop()
    assert all(target.got == numbers(3000) for target in targets)
    assert str(report).startswith("everything was delivered")
    with pytest.raises(BusStopped):
        rig.put_nowait(1)
    with pytest.raises(BusStopped):
        await rig.put(1)
    assert rig.states == [BusState.RUNNING, BusState.DRAINING, BusState.STOPPED]
    rig.check()


async def test_put_nowait_works_until_the_last_event_is_delivered(rig: Rig) -> None:

    class Chatty(Target):
        """Puts an event, as a log handler would, for each of the first it delivers."""

        async def publish(self, *args: Any, **named: Any) -> None:
            await super().publish(*args, **named)
            if len(self.got) < 50:
                rig.put_nowait(f"{rig.bus.state.value} {len(self.got)}")

    target = rig.to(Chatty())
    async with rig.running():
        await rig.put(0)
    assert (len(target.got), target.got[-1]) == (50, b'"draining 49"')
    assert rig.dead() == []


async def test_two_stops_at_once_and_one_later_get_the_same_report(rig: Rig) -> None:
    target = rig.to(Target(plan=[HANG]))
    async with rig.running():
        await rig.put(1)
        await target.hanging.wait()
        stops = [asyncio.ensure_future(rig.bus.stop()) for _ in range(2)]
        await turns(5)
        target.release.set()
        first, second = await within(asyncio.gather(*stops))
        assert first is second is await rig.stop()


async def test_a_stop_that_is_given_up_goes_on(rig: Rig) -> None:
    target = rig.to(Target(plan=[HANG]))
    async with rig.running():
        await rig.put(1)
        await target.hanging.wait()
        stop = asyncio.ensure_future(rig.bus.stop())
        await turns(3)
        stop.cancel()
        await asyncio.wait({stop})
        target.release.set()
        assert (await rig.stop()).undelivered == {}
    assert target.got == [b"1"]


async def test_stop_before_start_lets_the_start_deliver_what_is_queued_and_end(rig: Rig) -> None:
    target = rig.to(Target())
    rig.fill(10)
    await rig.stop()
    await within(rig.start())
    assert target.got == numbers(10)
    assert rig.bus.state is BusState.STOPPED


@pytest.mark.parametrize("restarted", [False, True])
async def test_stop_while_the_bus_opens_its_destinations_ends_it(rig: Rig, restarted: bool) -> None:
    if restarted:
        await rig.deliver()
    door = Door()
    door.gate = asyncio.Event()
    target = rig.to(Target(), opener=door.open, closer=door.close)
    if not restarted:
        rig.put_nowait(1)
    task = asyncio.ensure_future(rig.start())
    await turns(3)
    stop = asyncio.ensure_future(rig.bus.stop())
    await turns(3)
    door.gate.set()
    await within(stop)
    await within(task)
    assert rig.bus.state is BusState.STOPPED
    assert target.got == ([] if restarted else [b"1"])
    assert (door.opened, door.closed) == (1, 1)


async def test_stop_wakes_puts_that_wait(tmp_path: Path) -> None:
    rig = Rig(tmp_path, queue_limit=2)
    target = rig.to(Target(plan=[HANG]), delivery=DeliverySettings(buffer=1))
    async with rig.running():
        rig.put_nowait(0)
        await target.hanging.wait()
        puts = [asyncio.ensure_future(rig.put(number)) for number in range(1, 10)]
        await until(lambda: rig.queue._waiters)
        stop = asyncio.ensure_future(rig.bus.stop())
        done = await within(asyncio.gather(*puts, return_exceptions=True))
        target.release.set()
        await within(stop)
    accepted = [number for number, outcome in enumerate(done, 1) if outcome is None]
    assert len(accepted) < 9
    assert all(outcome is None or isinstance(outcome, BusStopped) for outcome in done)
    assert target.got == [b"0", *(b"%d" % number for number in accepted)]


async def test_what_cannot_be_delivered_in_time_is_in_the_dead_store_and_in_the_report(
    tmp_path: Path, impatient: None
) -> None:
    rig, hangs, good = Rig(tmp_path, drain_timeout=0.01), Target(batching=True), Target()
    hangs.plan.append(HANG)
    lane = rig.add(hangs, delivery=DeliverySettings(batch=3))
    rig.add(good)
    rig.fill(10)
    async with rig.running():
        await hangs.hanging.wait()
        report = await rig.stop()
    assert report.undelivered == {str(lane.key): 10}
    assert str(rig.path) in str(report)
    assert rig.dead_lettered() == numbers(10)  # what flew first
    assert good.got == numbers(10)
    rig.check()


@pytest.mark.parametrize("seconds", [0.0, 20.0])
async def test_a_plugin_that_ignores_its_end_does_not_keep_stop_waiting_nor_count_twice(
    tmp_path: Path, impatient: None, caplog: Any, seconds: float
) -> None:
    class Deaf(Target):
        """Goes on whatever it is told, and delivers in the end."""

        async def publish(self, ctx: Any, routing_key: str, body: bytes, headers: Any) -> None:
            self.hanging.set()
            while not self.release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await self.release.wait()
            self.got.append(body)

    rig, target = Rig(tmp_path, drain_timeout=0), Deaf()
    lane = rig.add(target, timeout=seconds)
    async with rig.running():
        await rig.put(1)
        await rig.put(2)
        await target.hanging.wait()
    assert rig.dead_lettered() == [b"1", b"2"]
    before = rig.check()["lanes"]
    target.release.set()
    await until(lambda: not any(task.get_name().startswith("evbus") for task in asyncio.all_tasks()))
    assert rig.check()["lanes"] == before
    assert target.got == [b"1"]
    assert lane.counters.dead == 2
    assert "does not end when it is cancelled" in caplog.text


async def test_a_plugin_that_ends_well_when_it_is_cancelled_has_delivered_and_gets_no_more(
    tmp_path: Path,
) -> None:
    class Diligent(Target):
        async def publish(self, ctx: Any, routing_key: str, body: bytes, headers: Any) -> None:
            self.hanging.set()
            with contextlib.suppress(asyncio.CancelledError):
                await self.release.wait()
            self.got.append(body)

    rig = Rig(tmp_path, drain_timeout=0)
    target = rig.to(Diligent())
    async with rig.running():
        for number in range(5):
            await rig.put(number)
        await target.hanging.wait()
    assert target.got == [b"0"]
    assert rig.dead_lettered() == numbers(5)[1:]


async def test_hurry_ends_a_drain_and_a_close_that_wait(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(bus, "CUT_SHORT_TIMEOUT", 0.01)

    async def never(ctx: Any) -> None:
        await asyncio.Event().wait()

    for late in (False, True):
        rig, target = Rig(tmp_path, drain_timeout=0 if late else 1000), Target()
        target.plan.append(HANG)
        rig.add(target, closer=never)
        task = asyncio.ensure_future(rig.start())
        await rig.bus.join()
        await rig.put(1)
        await target.hanging.wait()
        stop = asyncio.ensure_future(rig.bus.stop())
        await turns(30)
        rig.bus.hurry()
        report = await within(stop, 4)  # less than a close may take
        await within(task)
        assert sum(report.undelivered.values()) == 1


async def test_a_hurried_stop_still_gives_a_cancelled_publish_a_moment(rig: Rig) -> None:
    class Closing(Target):
        async def publish(self, ctx: Any, routing_key: str, body: bytes, headers: Any) -> None:
            self.hanging.set()
            with contextlib.suppress(asyncio.CancelledError):
                await self.release.wait()
            await turns(3)

    lane = rig.add(target := Closing())
    async with rig.running():
        await rig.put(1)
        await target.hanging.wait()
        rig.bus.hurry()
    assert lane.counters.delivered == 1


async def test_nothing_is_accepted_between_the_last_delivery_and_the_end(rig: Rig, monkeypatch: Any) -> None:
    seen: list[Any] = []
    plain = rig.bus._shutdown

    def shutdown(*args: Any) -> Any:
        seen.append(rig.broker.refusal)
        return plain(*args)

    monkeypatch.setattr(rig.bus, "_shutdown", shutdown)

    async with rig.running():
        await rig.put(1)
    assert seen == [BusStopped]


async def test_a_start_that_is_cancelled_while_it_runs_records_what_is_left(rig: Rig) -> None:
    door = Door()
    target = rig.to(Target(plan=[HANG]), opener=door.open, closer=door.close)
    task = asyncio.ensure_future(rig.start())
    await rig.bus.join()
    for number in range(5):
        await rig.put(number)
    await target.hanging.wait()
    task.cancel()
    await turns(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(task)
    await until(lambda: rig.bus.state is BusState.STOPPED)
    assert rig.dead_lettered() == numbers(5)
    assert (door.opened, door.closed) == (1, 1)
    assert (await rig.stop()).undelivered == {"plugin0.provider.*": 5}
    rig.check()


def test_a_loop_that_ends_without_stop_loses_nothing(rig: Rig) -> None:
    target = rig.to(Target(plan=[HANG]))

    async def main() -> None:
        main.task = asyncio.ensure_future(rig.start())  # type: ignore[attr-defined]
        await rig.bus.join()
        for number in range(5):
            await rig.put(number)
        await target.hanging.wait()

    asyncio.run(main())  # cancels all tasks
    assert rig.dead_lettered() == numbers(5)
    rig.check()


async def test_a_bus_starts_again_and_counts_on(rig: Rig) -> None:
    target = Target()
    for number in range(3):
        rig.lanes.clear()
        rig.add(target)
        async with rig.running():
            await rig.put(number)
        found = rig.check()
        assert found["bus"]["accepted"] == found["bus"]["routed"] == number + 1
        assert found["lanes"]["plugin0.provider.*"]["delivered"] == number + 1
    assert target.got == numbers(3)


async def test_lanes_of_the_same_name_are_told_apart(rig: Rig) -> None:
    first, second = Target(), Target()
    lane = rig.add(first)
    rig.add(second).key = lane.key
    async with rig.running():
        await rig.put(1)
    assert list(rig.check()["lanes"]) == ["plugin0.provider.*", "plugin0.provider.*#2"]
    assert first.got == second.got == [b"1"]


async def test_the_rest_of_what_getters_leave_is_delivered_when_the_bus_starts(rig: Rig) -> None:
    target = rig.to(Target())
    rig.fill(5)
    taken = [(await within(rig.queue.get())).body for _ in range(2)]
    await rig.deliver()
    assert taken + target.got == numbers(5)
    assert counts(rig.check()["bus"], "got", "routed") == (2, 3)


UNSTOPPED = """
import asyncio
import sys

from evbus.api import bus


async def main():
    events = await running.__aenter__()
    for number in range(3):
        await events.put(routing_key="k", body=number)
    await asyncio.sleep(0)


running = bus({"internal": {"default": {"limit": 1}}})
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.close()
if sys.argv[1] == "the next start":
    async def other():
        async with bus({"internal": {"default": {}}}):
            print("started", file=sys.stderr)

    del running
    asyncio.run(other())
"""

UNSTOPPED_WITH_BROKERS = """
import asyncio
import sys

from evbus.api import bus

AMQP, STOMP = sys.argv[1:]


async def take(events, profile):
    async for _ in events.consume(profile):
        arrived.set()


async def main():
    events = await running.__aenter__()
    for profile in ("default", "stomp"):
        taking.append(asyncio.ensure_future(take(events, profile)))
    await events.put(routing_key=QUEUE, body=1)
    await arrived.wait()
    await asyncio.sleep(0.2)
    for number in range(3):
        await events.put(routing_key=QUEUE, body=number)
    await asyncio.sleep(0)


QUEUE = "unstopped"
arrived, taking = asyncio.Event(), []
running = bus({
    "amqp": {
        "default": {"url": AMQP, "queue": {"name": QUEUE, "auto_delete": True}, "prefetch": 1},
        "down": {"url": "amqp://127.0.0.1:1/", "queue": QUEUE, "first_connect": "wait"},
    },
    "stomp": {"stomp": {"url": STOMP, "destination": "/queue/unstopped-stomp"}},
})
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.close()
for task in taking:
    task._log_destroy_pending = False  # the program's own
"""


def _run(tmp_path: Path, program: str, *args: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", program, *args],
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return run.stderr


@pytest.mark.parametrize("when", ["the end", "the next start"])
def test_a_loop_that_is_closed_without_a_stop_is_told_with_the_number_of_lost_events_and_nothing_else(
    tmp_path: Path, when: str
) -> None:
    said = "2 accepted events are lost: the event loop was closed before the bus was stopped; await hub."
    first, *more = _run(tmp_path, UNSTOPPED, when).splitlines()
    assert first.startswith(said)
    assert more == (["started"] if when == "the next start" else [])


def test_connections_and_consumers_say_nothing_more_in_a_loop_that_is_closed_without_a_stop(
    tmp_path: Path, rabbitmq: RabbitMQ
) -> None:
    said = _run(
        tmp_path,
        UNSTOPPED_WITH_BROKERS,
        rabbitmq.url,
        f"stomp://guest:guest@127.0.0.1:{rabbitmq.stomp_port}/",
    )
    lines = [line for line in said.splitlines() if "cannot connect, and tries again for ever" not in line]
    # The first is written where it is put, and may be confirmed by then.
    assert re.fullmatch(r"[23] accepted events are lost: the event loop was closed .*", "\n".join(lines)), (
        said
    )


# Growth


def test_lanes_that_end_one_after_another_are_not_all_looked_at_each_time(rig: Rig) -> None:
    looks: list[int] = []

    class Ending:
        def __init__(self, number: int) -> None:
            self.number = number

        @property
        def idle(self) -> bool:
            looks.append(self.number)
            return self.number < ended

    ended = 0
    lanes: Any = {str(number): Ending(number) for number in range(1_000)}
    rig.bus.lanes = lanes
    for ended in range(1_001):
        assert rig.bus._is_idle() is (ended == 1_000)
    assert len(looks) <= 3 * 1_000
