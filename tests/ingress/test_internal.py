"""The queues in the process: one a routing key, bounded if wanted, as asyncio.Queue is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evbus.engine.core.queue import PULLS
from evbus.engine.kit.weight import Weight
from evbus.engine.wire.memory import queues as memory_queues
from evbus.engine.wire.memory.groups import InternalProfile
from evbus.engine.wire.memory.queues import _BodyQueue
from evbus.errors import Unavailable
from evbus.types import Envelope
from tests.evbus.kit import WAIT, bodies, new_hub, running


def events(*pairs: tuple[str, str]) -> list[Envelope]:
    return [Envelope("p", key, body.encode()) for key, body in pairs]


@pytest.fixture
def hub() -> Any:
    """Return a hub with a bus."""
    return new_hub()


async def settled() -> None:
    """Let everything run that can run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_each_routing_key_has_a_queue_and_none_is_the_queue_without_one(hub: Any) -> None:
    async with running(hub, {"internal": {"*": {}}}):
        await hub.evbus.broker.put(routing_key="a", body=1)
        await hub.evbus.broker.put(body=2)
        await hub.evbus.broker.put(routing_key="", body=3)
    assert set(hub.ingress.internal.QUEUE) == {"a", None}
    assert await bodies(hub, "a", 1) == [b"1"]
    assert await bodies(hub, None, 1) == [b"2"]
    assert await bodies(hub, "", 1) == [b"3"]
    assert await hub.ingress.internal.get() is hub.ingress.internal.QUEUE[None]


async def test_the_profile_may_choose_the_queue(hub: Any) -> None:
    contexts = {"internal": {"a": {"routing_key": "mine"}, "b": {"routing_key": "b.{routing_key}"}}}

    async with running(hub, contexts):
        await hub.evbus.broker.put(routing_key="x", body=1, profile="a")
        await hub.evbus.broker.put(routing_key="x", body=2, profile="b")
    assert {key: queue.qsize() for key, queue in hub.ingress.internal.QUEUE.items()} == {
        "mine": 1,
        "b.x": 1,
    }


async def test_a_queue_that_was_asked_for_first_gets_the_bodies(hub: Any) -> None:
    queue = await hub.ingress.internal.get("later")
    getter = asyncio.ensure_future(queue.get())
    async with running(hub, {"internal": {"*": {}}}):
        await hub.evbus.broker.put(routing_key="later", body=1)
        assert await asyncio.wait_for(getter, WAIT) == b"1"


async def test_the_queues_outlive_a_rebuild_of_the_room(hub: Any) -> None:
    queue = await hub.ingress.internal.get("k")
    hub.pop.sub.extend("ingress")
    assert await hub.ingress.internal.get("k") is queue


async def test_a_limit_holds_publishing_back_and_loses_nothing(hub: Any) -> None:
    async with running(hub, {"internal": {"*": {"limit": 2}}}):
        for number in range(10):
            await hub.evbus.broker.put(routing_key="k", body=number)
        queue = await hub.ingress.internal.get("k")
        found = [await asyncio.wait_for(queue.get(), WAIT)]
        await settled()
        assert queue.qsize() <= 2
        found += await bodies(hub, "k", 9)
        assert found == [str(number).encode() for number in range(10)]


@pytest.mark.parametrize("limit", [-1, "x", 1.5])
def test_a_wrong_limit_is_refused(hub: Any, limit: Any) -> None:
    with pytest.raises(Exception, match=r"contexts: internal\.\*.*(limit must be 0|expected int)"):
        hub.evbus.init.check({"internal": {"*": {"limit": limit}}})
    assert InternalProfile().limit == 0


async def test_who_waits_gets_what_was_just_put_without_a_turn_of_the_loop(hub: Any) -> None:
    async with running(hub, {"internal": {"*": {}}}):
        queue = await hub.ingress.internal.get("k")
        await settled()
        turns = 0

        def count() -> None:
            nonlocal turns
            turns += 1
            counting.append(loop.call_soon(count))

        loop = asyncio.get_running_loop()
        counting = [loop.call_soon(count)]
        for number in range(PULLS):
            await hub.evbus.broker.put(routing_key="k", body=number)
            assert await queue.get() == str(number).encode()
        assert turns == 0
        for number in range(3 * PULLS):
            await hub.evbus.broker.put(routing_key="k", body=number)
            assert await queue.get() == str(number).encode()
        assert turns >= 2  # others have their turns
        counting[-1].cancel()


async def test_who_waits_longer_comes_first(hub: Any) -> None:
    async with running(hub, {"internal": {"*": {}}}):
        queue = await hub.ingress.internal.get("k")
        first = asyncio.ensure_future(queue.get())
        await settled()
        await hub.evbus.broker.put(routing_key="elsewhere", body="the first of a burst")
        await hub.evbus.broker.put(routing_key="k", body=1)
        await hub.evbus.broker.put(routing_key="k", body=2)
        assert await queue.get() == b"2"
        assert await asyncio.wait_for(first, WAIT) == b"1"


# The queue


def test_many_bodies_at_once_keep_their_order_per_key() -> None:
    queues = memory_queues.Queues(Weight())
    batch = events(("a", "1"), ("a", "2"), ("b", "3"), ("a", "4"))
    assert asyncio.run(memory_queues.put_all(queues, {}, 0, batch)) == [None] * 4
    assert {key: [queue.get_nowait() for _ in range(queue.qsize())] for key, queue in queues.items()} == {
        "a": [b"1", b"2", b"4"],
        "b": [b"3"],
    }


async def test_join_waits_for_task_done_of_every_body() -> None:
    queue = _BodyQueue(Weight())
    queue.put_all([b"1", b"2"])
    await queue.put(b"3")
    join = asyncio.ensure_future(queue.join())
    for _ in range(2):
        await queue.get()
        queue.task_done()
    await settled()
    assert not join.done()
    await queue.get()
    queue.task_done()
    await asyncio.wait_for(join, WAIT)
    with pytest.raises(ValueError, match="called too many times"):
        queue.task_done()


async def test_nothing_at_once_changes_nothing() -> None:
    queue = _BodyQueue(Weight())
    queue.put_all([])
    await asyncio.wait_for(queue.join(), WAIT)


async def test_many_getters_get_one_body_each_in_the_order_in_which_they_wait() -> None:
    queue = _BodyQueue(Weight())
    getters = [asyncio.ensure_future(queue.get()) for _ in range(5)]
    await settled()
    queue.put_all([b"0", b"1", b"2"])
    await settled()
    assert [getter.done() for getter in getters] == [True, True, True, False, False]
    queue.put_all([b"3", b"4", b"5"])
    found = await asyncio.wait_for(asyncio.gather(*getters), WAIT)
    assert queue.qsize() == 1
    assert list(found) == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_getter_that_is_cancelled_takes_nothing_with_it() -> None:
    queue = _BodyQueue(Weight())
    first, second = (asyncio.ensure_future(queue.get()) for _ in range(2))
    await settled()
    queue.put_all([b"1"])
    first.cancel()  # after it was woken, before it could take the body
    assert await asyncio.wait_for(second, WAIT) == b"1"
    assert first.cancelled() or (await asyncio.gather(first, return_exceptions=True))
    third = asyncio.ensure_future(queue.get())
    await settled()
    third.cancel()
    await settled()
    queue.put_all([b"2"])
    assert await asyncio.wait_for(queue.get(), WAIT) == b"2"


async def test_a_body_that_a_newcomer_took_is_not_missed_by_the_one_who_was_woken() -> None:
    queue = _BodyQueue(Weight())
    waiting = asyncio.ensure_future(queue.get())
    await settled()
    queue.put_all([b"1"])
    assert await queue.get() == b"1"
    await settled()
    assert not waiting.done()
    queue.put_all([b"2"])
    assert await asyncio.wait_for(waiting, WAIT) == b"2"


async def test_putters_of_a_bounded_queue_go_on_in_their_order() -> None:
    queues = memory_queues.Queues(Weight())
    puts = [
        asyncio.ensure_future(memory_queues.put_all(queues, {}, 1, [event(str(number).encode())]))
        for number in range(4)
    ]
    await settled()
    queue = queues["k"]
    assert [put.done() for put in puts] == [True, False, False, False]
    assert queue.full()
    found = [await asyncio.wait_for(queue.get(), WAIT) for _ in range(4)]
    await asyncio.wait_for(asyncio.gather(*puts), WAIT)
    assert found == [b"0", b"1", b"2", b"3"]


async def test_a_putter_that_is_cancelled_leaves_its_place_to_the_next() -> None:
    queues = memory_queues.Queues(Weight())
    await memory_queues.put_all(queues, {}, 1, [event(b"0")])
    gone, waits = (
        asyncio.ensure_future(memory_queues.put_all(queues, {}, 1, [event(body)])) for body in (b"1", b"2")
    )
    await settled()
    gone.cancel()
    await settled()
    assert [await asyncio.wait_for(queues["k"].get(), WAIT) for _ in range(2)] == [b"0", b"2"]
    await asyncio.wait_for(waits, WAIT)


async def test_what_finds_no_room_is_unavailable_and_told_for_each_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_queues, "PATIENCE", 0.0)

    queues = memory_queues.Queues(Weight())
    outcomes = await memory_queues.put_all(queues, {}, 2, [event(body) for body in (b"0", b"1", b"2", b"3")])
    assert outcomes[:2] == [None, None]
    assert [type(outcome) for outcome in outcomes[2:]] == [Unavailable, Unavailable]
    assert str(outcomes[2]) == "the internal queue 'k' holds 2 events, its limit"
    assert [queues["k"].get_nowait() for _ in range(2)] == [b"0", b"1"]
    assert queues["k"].empty()


def event(body: bytes) -> Envelope:
    return Envelope("default", "k", body)


# Nobody takes


@pytest.mark.parametrize("limit", [0, 2_000])
def test_a_queue_that_nobody_takes_from_keeps_the_latest_and_tells_of_the_others(
    hub: Any, limit: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory_queues, "MOST", 1_000)

    async def main() -> None:
        async with running(hub, {"internal": {"*": {"limit": limit}}}):
            for number in range(1_500):
                await hub.evbus.broker.put(routing_key="k", body=number)
        (lane,) = hub.evbus.stats.snapshot()["lanes"].values()
        queue = hub.ingress.internal.QUEUE["k"]
        if limit:
            assert (queue.qsize(), lane["dropped"]) == (1_500, 0)
            return
        assert (queue.qsize(), lane["dropped"], lane["delivered"]) == (1_000, 500, 1_000)
        assert lane["accepted"] == 1_500
        assert await bodies(hub, "k", 1_000) == [b"%d" % number for number in range(500, 1_500)]
        # From now on somebody takes.
        held = await hub.ingress.internal.get("k")
        async with running(hub, {"internal": {"*": {}}}):
            for number in range(1_500):
                await hub.evbus.broker.put(routing_key="k", body=number)
        assert held.qsize() == 1_500

    asyncio.run(main())
    said = "nobody takes from the internal queue 'k', which holds 1000 events: its oldest are dropped"
    assert [message for message in caplog.messages if "takes from" in message] == ([] if limit else [said])


async def test_queues_that_are_empty_and_that_nobody_has_go_away() -> None:
    queues = memory_queues.Queues(Weight())
    held = memory_queues.queue(queues, "held")
    for number in range(10_000):
        assert memory_queues.put_now(queues, {}, 0, events((f"key {number}", "x"))) == 0
        if number % 100:
            queues[f"key {number}"].get_nowait()
    assert len(queues) <= 2 * memory_queues.SWEEP + 100
    assert queues["held"] is held
    assert all(queues[f"key {number}"].qsize() == 1 for number in range(0, 10_000, 100))


# Bytes


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["put", "put_all"]), st.integers(0, 6)),
            st.tuples(st.sampled_from(["get", "get_nowait"]), st.integers(0, 6)),
            st.tuples(st.sampled_from(["trim", "bound"]), st.integers(0, 4)),
            st.tuples(st.just("watch"), st.integers(0, 1)),
            st.tuples(st.just("want"), st.just(0)),
        ),
        max_size=40,
    )
)
@settings(max_examples=200, deadline=None)
def test_what_waits_in_queues_is_weighed(program: list[tuple[str, int]]) -> None:
    async def main() -> None:
        weight = Weight()
        queue = _BodyQueue(weight)
        for serial, (what, number) in enumerate(program, 1):
            await step(queue, weight, what, number, b"x" * serial)
            there = sum(map(len, queue._queue))
            assert weight.size >= there
            if weight.floor:
                assert weight.size == there
            weight.recount()
            assert (weight.size, weight.idle) == (there, 0 if queue.wanted else there)

    asyncio.run(main())


async def step(queue: _BodyQueue, weight: Weight, what: str, number: int, body: bytes) -> None:
    if what == "put":
        for _ in range(number):
            if not queue.full():
                queue.put_nowait(body)
    elif what == "put_all":
        queue.put_all([body] * number)
    elif what == "watch":
        weight.watch(number)
    elif what == "want":
        queue.want()
    elif what in ("trim", "bound"):
        getattr(queue, what)(number)
    else:
        for _ in range(min(number, queue.qsize())):
            if what == "get":
                await queue.get()
            else:
                queue.get_nowait()


async def test_a_queue_that_goes_away_leaves_no_weight() -> None:
    weight = Weight()
    queues = memory_queues.Queues(weight)
    for number in range(1_000):
        queues[f"k{number}"].put_all([b"x" * 100])
        assert await queues[f"k{number}"].get() == b"x" * 100
    weight.recount()
    assert weight.size == 0
    assert len(queues) < 1_000


async def test_what_was_taken_makes_room_before_anybody_is_refused() -> None:
    hub = new_hub(queue_bytes=10_000)
    async with running(hub, {"internal": {"p": {}}}):
        queue = await hub.ingress.internal.get("k")
        for _ in range(100):
            hub.evbus.broker.put_nowait(routing_key="k", body="x" * 4_998, profile="p")
            assert len(await asyncio.wait_for(queue.get(), WAIT)) == 5_000
        assert hub.evbus.stats.snapshot()["lanes"]["internal.internal.p"]["delivered"] == 100
