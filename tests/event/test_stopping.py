"""What becomes of events when the bus starts, stops, and ends in strange ways: nothing is missing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.handling.events.declare import event
from evbus.errors import ProfileError
from tests.engine.handling.events.test_consumer import Remote
from tests.engine.handling.events.test_subscriptions import add, subscriptions
from tests.evbus.kit import WAIT, new_hub, running
from tests.evbus.rig import turns, until
from tests.event.kit import INTERNAL, SOON, Book, Gate, Got, OrderPlaced, dead, send, settled

PROFILES: dict[str, Any] = {"internal": {"*": {}}}


@event()
@dataclasses.dataclass
class Step:
    number: int = 0
    chain: int = 0


@event(durable=True)
@dataclasses.dataclass
class Kept:
    id: int = 0


def hub_of(tmp_path: Path, **options: Any) -> Any:
    return new_hub(dead_store=str(tmp_path / "dead.jsonl"), **options)


@pytest.mark.parametrize("concurrency", [1, 7])
@pytest.mark.parametrize("limit", [0, 3])
async def test_what_was_sent_before_is_handled(concurrency: int, limit: int, tmp_path: Path) -> None:
    got, hub = list[int](), hub_of(tmp_path)

    async def on(event: Any) -> None:
        for _ in range(event.number % 3):
            await asyncio.sleep(0)
        got.append(event.number)

    async with running(hub, {"internal": {"*": {"limit": limit}}}):
        hub.event.init.subscribe(Step, on, concurrency=concurrency, prefetch=2)
        await send(hub, *(Step(number) for number in range(300)))
    assert sorted(got) == list(range(300))
    assert concurrency > 1 or got == sorted(got)
    assert dead(tmp_path / "dead.jsonl") == []


def test_what_a_stop_leaves_that_is_cancelled_is_in_the_dead_store(tmp_path: Path) -> None:
    """As by a second Ctrl-C: the event loop cancels what there is, and ends."""

    async def main() -> None:
        hub, gate = hub_of(tmp_path), Gate(lambda event: event.number)
        starting = asyncio.ensure_future(hub.evbus.init.start(PROFILES))
        await hub.evbus.init.join()
        hub.event.init.subscribe(Step, gate.on)
        await send(hub, *(Step(number) for number in range(5)))
        await gate.entered(1)
        stopping = asyncio.ensure_future(hub.evbus.init.stop())
        await turns(5)
        assert not starting.done()
        assert not stopping.done()

    asyncio.run(main())
    assert sorted(line["body"]["number"] for line in dead(tmp_path / "dead.jsonl")) == [0, 1, 2, 3, 4]


async def test_what_listeners_send_while_it_stops_is_handled(tmp_path: Path) -> None:
    got, hub = list[tuple[int, int]](), hub_of(tmp_path)

    async def on(hub: Any, event: Any) -> None:
        got.append((event.chain, event.number))
        if event.number < 20:
            await hub.event.init.send(Step(event.number + 1, event.chain))

    async with running(hub, PROFILES):
        hub.event.init.subscribe(Step, on)
        await send(hub, *(Step(0, chain) for chain in range(3)))
    assert sorted(got) == [(chain, number) for chain in range(3) for number in range(21)]


async def test_what_is_being_tried_again_is_waited_for(tmp_path: Path) -> None:
    calls, hub = list[str](), hub_of(tmp_path)

    async def on(event: Any) -> None:
        calls.append(event.id)
        await asyncio.sleep(0)
        if len(calls) < 3:
            raise KeyError

    async with running(hub, PROFILES):
        hub.event.init.subscribe(OrderPlaced, on, retry=SOON)
        await hub.event.init.send(OrderPlaced("x"))
    assert calls == ["x"] * 3


async def test_on_error_is_told_before_it_ends_and_may_send(tmp_path: Path) -> None:
    got, hub = Got(), hub_of(tmp_path)

    async def on(event: Any) -> None:
        raise KeyError

    async def on_error(event: Any, exception: Exception) -> None:
        await hub.event.init.send(Book(title=event.id))

    async with running(hub, PROFILES):
        hub.event.init.subscribe(OrderPlaced, on, retry={**SOON, "attempts": 1}, on_error=on_error)
        hub.event.init.subscribe(Book, got.on)
        await hub.event.init.send(OrderPlaced("x"))
    assert got == [Book(title="x")]


@pytest.mark.parametrize("cls", [Step, Kept])
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_what_is_not_handled_in_time_is_in_the_dead_store(
    cls: Any, concurrency: int, tmp_path: Path
) -> None:
    hub = hub_of(tmp_path, drain_timeout=0.05)
    gate = Gate(repr)
    fast = Got()
    async with running(hub, PROFILES):
        hub.event.init.subscribe(cls, gate.on, name="slow", concurrency=concurrency, prefetch=6)
        hub.event.init.subscribe(cls, fast.on, name="fast")
        sent = [cls(number) for number in range(20)]
        await send(hub, *sent)
        await gate.entered(concurrency)
    lines = dead(tmp_path / "dead.jsonl")
    assert len(fast) == 20
    assert gate.done == []
    key = "number" if cls is Step else "id"
    assert sorted(line["body"][key] for line in lines) == list(range(20))
    assert {line["dead"]["reason"] for line in lines} == {
        "the bus was stopped before a listener had handled it"
    }


async def test_what_some_handled_in_time_is_not_in_the_dead_store_for_them(tmp_path: Path) -> None:
    hub = hub_of(tmp_path, drain_timeout=0.05)
    gate = Gate(lambda event: event.number)
    gate.release(*range(5))
    async with running(hub, PROFILES):
        hub.event.init.subscribe(Step, gate.on)
        await send(hub, *(Step(number) for number in range(10)))
    left = [line["body"]["number"] for line in dead(tmp_path / "dead.jsonl")]
    assert gate.done == list(range(5))
    assert sorted(left) == list(range(5, 10))


async def test_what_is_left_counts_as_dead_with_the_attempts_that_were_made(tmp_path: Path) -> None:
    hub = hub_of(tmp_path, drain_timeout=0.05)
    calls: list[int] = []
    waiting = asyncio.Event()

    async def on(event: Any) -> None:
        calls.append(event.number)
        if calls.count(0) == 3:
            waiting.set()
            await asyncio.Event().wait()
        raise KeyError

    async with running(hub, PROFILES):
        hub.event.init.subscribe(Step, on, retry={**SOON, "attempts": 0})
        await send(hub, *(Step(number) for number in range(3)))
        await waiting.wait()
    lines = dead(tmp_path / "dead.jsonl")
    assert [(line["body"]["number"], line["dead"]["attempts"]) for line in lines] == [
        (0, 3),
        (1, 0),
        (2, 0),
    ]
    (listener,) = hub.evbus.stats.snapshot()["listeners"].values()
    assert (listener["handled"], listener["dead"]) == (0, 3)
    assert hub.evbus.ENGINE.report.undelivered == {"listener test_stopping": 3}


async def test_a_listener_of_a_group_has_one_name_in_the_dead_store(tmp_path: Path) -> None:
    """For what it gave up, and for what a stop has left."""

    hub = new_hub(dead_store=tmp_path / "dead.jsonl", drain_timeout=0.01)
    waiting = asyncio.Event()

    async def on(event: Any) -> None:
        if event.number:
            waiting.set()
            await asyncio.Event().wait()
        raise KeyError("id")

    async with running(hub, PROFILES):
        hub.event.init.subscribe(Step, on, name="bill", group="g", retry={"attempts": 1})
        await send(hub, *(Step(number) for number in range(3)))
        await waiting.wait()
    lines = dead(tmp_path / "dead.jsonl")
    assert [(line["body"]["number"], line["dead"]["lane"]) for line in lines] == [
        (number, "listener bill") for number in range(3)
    ]
    assert lines[0]["dead"]["reason"] == "KeyError: 'id'"
    assert hub.evbus.ENGINE.report.undelivered == {"listener bill": 2}


async def test_an_event_that_dies_while_the_bus_stops_is_in_the_dead_store_once(tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / f"{number}.jsonl"
        hub = new_hub(dead_store=str(path), drain_timeout=0)

        async def on(event: Any) -> None:
            raise KeyError

        async with running(hub, PROFILES):
            hub.event.init.subscribe(Step, on, retry={**SOON, "attempts": 1})
            await send(hub, *(Step(step) for step in range(20)))
            for _ in range(number * 3):
                await asyncio.sleep(0)
        assert sorted(line["body"]["number"] for line in dead(path)) == list(range(20))


async def test_a_steady_stop_waits_as_long_as_anything_is_handled(tmp_path: Path) -> None:
    hub = hub_of(tmp_path, drain_timeout=0.5)
    got: list[int] = []

    async def on(event: Any) -> None:
        await asyncio.sleep(0.05)
        got.append(event.number)

    listening = asyncio.ensure_future(hub.evbus.init.start(PROFILES))
    await hub.evbus.init.join()
    hub.event.init.subscribe(Step, on)
    await send(hub, *(Step(number) for number in range(30)))
    report = await hub.evbus.init.stop(steady=True)
    await listening
    assert got == list(range(30))
    assert report.undelivered == {}


async def test_a_plain_function_that_does_not_end_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    gate = threading.Event()

    hub = hub_of(tmp_path, drain_timeout=0.05)
    inside = threading.Event()

    def on(event: Any) -> None:
        inside.set()
        gate.wait(WAIT)

    async with running(hub, PROFILES):
        hub.event.init.subscribe(OrderPlaced, on)
        await hub.event.init.send(OrderPlaced("x"))
        await asyncio.to_thread(inside.wait, WAIT)
    (line,) = dead(tmp_path / "dead.jsonl")
    assert line["body"]["id"] == "x"
    gate.set()


async def test_a_start_without_a_profile_to_listen_to_fails_with_a_sentence(tmp_path: Path) -> None:
    hub = hub_of(tmp_path)
    hub.event.init.subscribe(OrderPlaced, Got().on)
    with pytest.raises(
        Exception, match=r"there is no profile that 'default' matches and that can be consumed"
    ):
        async with running(hub, {"file": {"*": {"path": str(tmp_path / "out.jsonl")}}}):
            pass


async def test_what_a_listener_raised_is_recorded_without_secrets(tmp_path: Path, caplog: Any) -> None:
    hub = hub_of(tmp_path)

    async def on(event: Any) -> None:
        raise OSError("nothing answers at amqp://ann:hunter22@host/")

    async with running(hub, PROFILES):
        hub.event.init.subscribe(Step, on, retry={**SOON, "attempts": 2})
        await hub.event.init.send(Step())
    text = (tmp_path / "dead.jsonl").read_text() + caplog.text
    assert text.count("nothing answers at amqp://ann:***@host/") == 3  # in the file, and logged for each try
    assert "hunter22" not in text


# A bus that ends in strange ways, and is started again: each event is handled once.


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
    assert all(not each.groups for each in hub.ingress.SUBSCRIBERS.values())


@pytest.mark.parametrize("fails", [False, True])
async def test_a_listener_that_outlives_the_stop_takes_nothing_of_the_next_run(
    fails: bool, tmp_path: Path
) -> None:
    hub, calls = hub_of(tmp_path, drain_timeout=0.05), list[int]()
    first, second = asyncio.Event(), asyncio.Event()

    async def on(step: Step) -> None:
        calls.append(step.number)
        if step.number == 1:
            while not first.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await first.wait()
            if fails:
                raise KeyError("what it was doing")
        if step.number == 2:
            await second.wait()

    hub.event.init.subscribe(Step, on, retry={"attempts": 3, "min": 0.001})
    async with running(hub, PROFILES):
        await hub.event.init.send(Step(1))
        await until(lambda: calls == [1])
    async with running(hub, PROFILES):
        await send(hub, Step(2), Step(3), Step(4))
        await until(lambda: calls == [1, 2])
        first.set()
        await turns(50)
        assert calls == [1, 2]
        second.set()
        await settled(hub)
    assert calls == [1, 2, 3, 4]
    assert [record["body"]["number"] for record in dead(tmp_path / "dead.jsonl")] == [1]


async def test_starts_and_stops_leave_nothing_behind(tmp_path: Path) -> None:
    hub, got = new_hub(dead_store=str(tmp_path / "dead.jsonl")), Got()
    hub.event.init.subscribe(OrderPlaced, got.on, name="copy", per_process=True)
    hub.event.init.subscribe(OrderPlaced, got.on, name="shared", durable=True)
    before = len(asyncio.all_tasks())
    for number in range(1, 6):
        async with running(hub, INTERNAL):
            await hub.event.init.send(OrderPlaced())
        assert len(got) == 2 * number
        assert [len(each.groups) for each in hub.ingress.SUBSCRIBERS.values()] == [2]
        assert len(asyncio.all_tasks()) == before


async def test_a_stop_while_a_listener_is_being_removed_keeps_what_that_handles(tmp_path: Path) -> None:
    hub = new_hub(dead_store=str(tmp_path / "dead.jsonl"), drain_timeout=0.2)
    gate = Gate(lambda event: event.id)
    async with running(hub, INTERNAL):
        number = hub.event.init.subscribe(OrderPlaced, gate.on)
        await send(hub, *(OrderPlaced(each) for each in "abc"))
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


# A start that listeners have a part in.


async def test_a_start_that_a_listener_cannot_go_along_with_keeps_what_was_sent(hub: Any) -> None:
    got: list[int] = []

    async def on(event: OrderPlaced) -> None:
        got.append(event.total)

    wrong = hub.event.init.subscribe(OrderPlaced, on, profile="elsewhere")
    hub.evbus.broker.put_nowait("OrderPlaced", OrderPlaced("A-1", 1))
    starting = asyncio.ensure_future(hub.evbus.init.start({"internal": {"default": {}}}))
    with pytest.raises(ProfileError, match="there is no profile that 'elsewhere' matches"):
        await asyncio.wait_for(hub.evbus.init.join(), WAIT)
    await asyncio.gather(starting, return_exceptions=True)
    assert await hub.event.init.unsubscribe(wrong)
    hub.event.init.subscribe(OrderPlaced, on)
    async with running(hub, {"internal": {"default": {}}}):
        await hub.event.init.send(OrderPlaced("A-2", 2))
        await settled(hub)
    assert got == [1, 2]


async def test_a_bus_that_was_cancelled_leaves_no_listener_behind(hub: Any) -> None:
    got: list[Any] = []

    async def on(event: OrderPlaced) -> None:
        got.append(event.total)

    hub.event.init.subscribe(OrderPlaced, on, per_process=True)
    for _ in range(2):
        bus = asyncio.ensure_future(hub.evbus.init.start({"internal": {"default": {}}}))
        await asyncio.wait_for(hub.evbus.init.join(), WAIT)
        bus.cancel()
        await asyncio.wait({bus})
        assert [found["listening"] for found in hub.event.init.subscriptions()] == [False]
    async with running(hub, {"internal": {"default": {}}}):
        await hub.event.init.send(OrderPlaced("A-1", 1))
        await settled(hub)
    assert got == [1]


# A stop that is cut short does not wait for listeners.


async def test_what_came_from_elsewhere_and_is_being_handled_goes_back_at_once() -> None:
    remote, gate, found = Remote(), Gate(lambda event: event.id), subscriptions()
    cut_short = asyncio.Event()
    add(found, gate.on)
    found.start(lambda profile: [remote.source()], None)
    remote.queue.put_nowait(remote.delivery(OrderPlaced("a"), "a"))
    await gate.entered(1)
    pausing = asyncio.ensure_future(found.pause(cut_short.is_set))
    await asyncio.wait({pausing}, timeout=0)
    assert not pausing.done()
    cut_short.set()
    await asyncio.wait_for(pausing, WAIT / 2)  # the patience of the consumers is WAIT
    await found.stop()
    assert remote.closed
    assert gate.done == []


async def test_otherwise_what_is_being_handled_is_waited_for() -> None:
    remote, gate, found = Remote(), Gate(lambda event: event.id), subscriptions()
    add(found, gate.on)
    found.start(lambda profile: [remote.source()], None)
    remote.queue.put_nowait(remote.delivery(OrderPlaced("a"), "a"))
    await gate.entered(1)
    pausing = asyncio.ensure_future(found.pause(lambda: False))
    await asyncio.wait({pausing}, timeout=0)
    gate.release("a")
    await pausing
    assert remote.told == [("a", True, False)]
    await found.stop()
