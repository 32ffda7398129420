"""Batches of events for a listener."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.api import EventListener, event_listener
from evbus.engine.handling.events.batches import Batches
from evbus.engine.handling.events.declare import EventSpec, listener_spec, subscription_of
from evbus.errors import HandlerSignatureError
from evbus.types import Origin
from tests.engine.handling.events.test_listening import at_work, give
from tests.evbus.rig import until
from tests.event.kit import SOON, Gate, Got, OrderPlaced, Source, failure, known, listening, settled


def gatherer(call: Any, size: int = 3, wait: float = 0.01, limit: int = 1) -> Batches[int]:
    return Batches(call, lambda works, exc: None, lambda: False, size=size, wait=wait, limit=limit)


async def test_works_are_gathered_in_their_order_up_to_the_size() -> None:
    calls: list[list[int]] = []

    async def call(works: list[int]) -> None:
        calls.append(works)

    batches = gatherer(call)
    await asyncio.gather(*(batches.handle(number, alone=False) for number in range(7)))
    await batches.handle(7, alone=True)
    assert calls == [[0, 1, 2], [3, 4, 5], [6], [7]]


async def test_what_comes_while_a_call_is_under_way_joins_the_next() -> None:
    calls: list[list[int]] = []
    began, gate = asyncio.Event(), asyncio.Event()

    async def call(works: list[int]) -> None:
        calls.append(works)
        began.set()
        await gate.wait()

    batches = gatherer(call, size=10, wait=0)
    tasks = [asyncio.ensure_future(batches.handle(0, alone=False))]
    await began.wait()
    for number in (1, 2, 3):
        tasks.append(asyncio.ensure_future(batches.handle(number, alone=False)))
        for _ in range(5):
            await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks)
    assert calls == [[0], [1, 2, 3]]


async def test_what_fails_together_is_tried_by_itself_and_fails_by_itself() -> None:
    calls: list[list[int]] = []

    async def call(works: list[int]) -> None:
        calls.append(works)
        if 1 in works:
            raise ValueError("one")

    batches = gatherer(call)
    several = (batches.handle(number, alone=False) for number in range(3))
    found = await asyncio.gather(*several, return_exceptions=True)
    assert [repr(outcome) for outcome in found] == ["None", "ValueError('one')", "None"]
    assert calls == [[0, 1, 2], [0], [1], [2]]


async def test_one_whose_task_is_cancelled_leaves_the_others_to_themselves() -> None:
    calls: list[list[int]] = []

    async def call(works: list[int]) -> None:
        calls.append(works)
        if len(works) > 1:
            raise asyncio.CancelledError

    batches = gatherer(call)
    several = (batches.handle(number, alone=False) for number in range(3))
    found = await asyncio.gather(*several, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [None, None]
    assert calls == [[0, 1, 2], [1], [2]]


@pytest.mark.parametrize("plain", [True, False])
async def test_functions_plain_and_asynchronous_take_lists(plain: bool) -> None:
    got: list[Any] = []

    def on(events: list[OrderPlaced]) -> None:
        got.append(events)

    class Late(EventListener[list[OrderPlaced]]):
        async def on(self, event: list[OrderPlaced]) -> None:
            got.append(event)

    async with listening() as hub:
        hub.event.init.subscribe(OrderPlaced, on if plain else Late, batch=2, batch_wait=0.01)
        for number in range(4):
            await hub.event.init.send(OrderPlaced(str(number)))
        await settled(hub)
    assert got == [[OrderPlaced("0"), OrderPlaced("1")], [OrderPlaced("2"), OrderPlaced("3")]]


async def test_an_event_that_cannot_be_read_is_no_part_of_a_batch() -> None:
    got = Got()

    async with listening() as hub:
        hub.event.init.subscribe(OrderPlaced, got.on, batch=3, batch_wait=0.01)
        await hub.event.init.send(OrderPlaced("1"))
        await hub.evbus.broker.put(routing_key="OrderPlaced", body=["no"])
        await hub.event.init.send(OrderPlaced("2"))
        await settled(hub)
        (found,) = hub.event.init.subscriptions()
        assert (found["handled"], found["unreadable"], found["dead"]) == (2, 1, 1)
    assert [one.id for batch in got for one in batch] == ["1", "2"]


async def test_a_timeout_is_that_of_a_call() -> None:
    gate = Gate(len)

    async with listening() as hub:
        retry = {"attempts": 1}
        hub.event.init.subscribe(OrderPlaced, gate.on, batch=2, batch_wait=0.01, timeout=0.05, retry=retry)
        gate.release(1)
        await hub.event.init.send(OrderPlaced("1"))
        await hub.event.init.send(OrderPlaced("2"))
        await settled(hub)
        (found,) = hub.event.init.subscriptions()
        assert (found["handled"], found["dead"]) == (2, 0)
    assert gate.done == [1, 1]


@pytest.mark.parametrize("stop", [True, False])
async def test_what_is_there_is_gathered_where_nothing_is_waited_for(stop: bool) -> None:
    """By a stop, which waits for no more events, and with ``batch_wait=0``."""
    got: list[int] = []
    begun, gate = asyncio.Event(), asyncio.Event()

    async def on(events: list[OrderPlaced]) -> None:
        got.append(len(events))
        begun.set()
        await gate.wait()

    async with listening() as hub:
        hub.event.init.subscribe(OrderPlaced, on, batch=100, batch_wait=60 if stop else 0)
        for number in range(100 if stop else 1):
            await hub.event.init.send(OrderPlaced(str(number)))
        await begun.wait()
        for number in range(950):
            await hub.event.init.send(OrderPlaced(str(number)))
        if not stop:
            gate.set()
            await settled(hub)
        asyncio.get_running_loop().call_later(0.05, gate.set)
    assert got == ([100] * 10 + [50] if stop else [1] + [100] * 9 + [50])


async def test_what_comes_again_is_no_part_of_a_batch_that_has_not_begun() -> None:
    calls: list[list[str]] = []
    begun, gate = asyncio.Event(), asyncio.Event()

    async def on(events: list[OrderPlaced]) -> None:
        calls.append([event.id for event in events])
        begun.set()
        await gate.wait()
        if "f" in calls[-1] and len(calls[-1]) > 1:
            raise ValueError("together")

    source, origin = Source(), Origin()
    async with at_work(on, batch=10, retry=SOON) as listening:
        give(listening, source, "a")
        await begun.wait()
        for each in ("c", "d"):
            delivery = source.delivery({"id": each}, each)
            delivery.origin = origin
            listening.take(delivery, known(OrderPlaced), outside=True)
        give(listening, source, "e", "f")
        await until(lambda: listening.snapshot()["running"] == 5)
        origin.watch(listening.lost)
        origin.end("the connection is lost")
        gate.set()
        await listening.wait_idle(20)
        counts = listening.snapshot()
    # What is dropped was never accepted, and is told to nobody.
    assert (counts["accepted"], counts["handled"], counts["retried"], counts["dead"]) == (3, 3, 0, 0)
    assert sorted(source.told) == [(each, True, False) for each in "aef"]
    assert calls == [["a"], ["e", "f"], ["e"], ["f"]]


@pytest.mark.parametrize("problem", [ValueError, asyncio.CancelledError, SystemExit])
async def test_whatever_a_call_raises_no_event_dies_for_another(problem: type[BaseException]) -> None:
    calls: list[list[str]] = []

    async def on(events: list[OrderPlaced]) -> None:
        calls.append([event.id for event in events])
        if "bad" in calls[-1]:
            raise problem

    async with listening() as hub:
        hub.event.init.subscribe(OrderPlaced, on, batch=3, retry={"attempts": 1})
        for each in ("first", "bad", "last"):
            await hub.event.init.send(OrderPlaced(each))
        await settled(hub)
        (found,) = hub.event.init.subscriptions()
        assert (found["handled"], found["dead"]) == (2, 1)
    assert calls == [["first", "bad", "last"], ["first"], ["bad"], ["last"]]


def test_what_is_wrong_with_a_listener_of_batches_is_told() -> None:
    async def one(event: OrderPlaced) -> None: ...

    async def many(events: list[OrderPlaced]) -> None: ...

    async def enveloped(events: Any, envelope: Any) -> None: ...

    async def main(on: Any, **options: Any) -> None:
        async with listening() as hub:
            hub.event.init.subscribe(OrderPlaced, on, **options)

    def told(on: Any, **options: Any) -> str:
        return failure(HandlerSignatureError, lambda: main(on, **options))

    assert "it takes batches, and not one OrderPlaced: write list[OrderPlaced]" in told(one, batch=5)
    assert "it takes a list of events, and gets each by itself: say batch=100 as well" in told(many)
    assert "there is no one envelope of several events" in told(enveloped, batch=5)
    for options, sentence in (
        ({"batch": -1}, "batch of a listener is a number from 0 on, and not -1"),
        ({"batch": 5, "batch_wait": -1}, "batch_wait of a listener is a number of seconds from 0 on"),
        ({"batch": 5, "key": "id"}, "a listener that takes batches has no key"),
    ):
        with pytest.raises(HandlerSignatureError, match=sentence):
            event_listener(OrderPlaced, **options)


def test_the_default_of_prefetch_follows() -> None:
    event = EventSpec(None, "a", False, False, 1, None)
    rights = ((0, 1, 10), (100, 1, 200), (100, 4, 800), (5000, 1, 5000), (100_000, 1, 65_535))
    for batch, concurrency, right in rights:
        spec = listener_spec("a", batch=batch, concurrency=concurrency)
        assert subscription_of(spec, "x", event).prefetch_for(None) == right
