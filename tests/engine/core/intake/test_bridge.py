"""The pump between a source and the lanes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from evbus.engine.core.intake import bridge as intake_bridge
from evbus.engine.core.intake.bridge import Bridge
from evbus.errors import BusStopped, PluginError, Unavailable
from evbus.types import Delivery, Envelope, Origin
from tests.evbus.rig import until, within


class Source:
    """Yields numbered deliveries: ``count`` of them at once, then it waits, ends or fails.

    What it is told while it is open is in ``told``, as (number, accepted, requeue).
    """

    def __init__(self, count: int, end: Exception | bool = False) -> None:
        self.told: list[tuple[int, bool | None, bool]] = []
        self.yielded = 0
        self.closed = False
        self._count = count
        self._end = end

    async def consume(self) -> AsyncGenerator[Delivery, None]:
        try:
            for number in range(self._count):
                self.yielded += 1
                yield Delivery(Envelope("in", body=b"%d" % number), self._settle, number, delivery_count=7)
            if isinstance(self._end, Exception):
                raise self._end
            if not self._end:
                await asyncio.Event().wait()
        except (GeneratorExit, asyncio.CancelledError):
            self.closed = True
            raise

    def _settle(self, tag: int, accepted: bool | None, requeue: bool) -> None:
        assert not self.closed
        self.told.append((tag, accepted, requeue))


async def forever(seconds: float) -> None:
    await asyncio.Event().wait()


async def at_once(seconds: float) -> None:
    """Wait for nothing, as when the patience is over."""


def bridge(source: Source, take: Callable[[Delivery], None], settled: Any = forever) -> Bridge:
    return Bridge(source.consume(), take, settled)


async def test_so_many_are_taken_and_the_source_is_open_until_they_are_settled() -> None:
    source, taken = Source(10), list[Delivery]()
    made = bridge(source, taken.append)
    task = asyncio.ensure_future(made.run(4, 1))
    await until(lambda: len(taken) == 4)
    assert repr(made) == "<Bridge unsettled=4>"
    assert [delivery.delivery_count for delivery in taken] == [7] * 4
    taken[0].ack()
    taken[1].reject()
    taken[2].give_back()
    assert not task.done()
    taken[3].reject(requeue=True)
    taken[3].ack()
    await within(task)
    assert source.told == [(0, True, False), (1, False, False), (2, None, True), (3, False, True)]
    assert (source.yielded, source.closed, made.unsettled) == (4, True, 0)


async def test_cancelled_it_takes_nothing_more_and_settles_what_is_under_way() -> None:
    source, taken = Source(3), list[Delivery]()
    made = bridge(source, taken.append)
    task = asyncio.ensure_future(made.run(0, 1))
    await until(lambda: len(taken) == 3)
    task.cancel()
    await asyncio.sleep(0)
    for delivery in taken:
        delivery.ack()
    with pytest.raises(asyncio.CancelledError):
        await within(task)
    assert len(source.told) == 3
    assert source.closed


async def test_what_comes_in_while_it_ends_goes_back_to_the_source() -> None:
    door, taken = asyncio.Event(), list[Delivery]()
    told = list[int]()

    async def consume() -> AsyncGenerator[Delivery, None]:
        yield Delivery(Envelope("in"), lambda tag, *_: told.append(tag), 0)
        await door.wait()
        yield Delivery(Envelope("in"), lambda tag, *_: told.append(tag), 1)

    made = Bridge(consume(), taken.append, forever)
    task = asyncio.ensure_future(made.run(0, 1))
    await until(lambda: taken)
    task.cancel()
    await asyncio.sleep(0)
    door.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    taken[0].ack()
    with pytest.raises(asyncio.CancelledError):
        await within(task)
    assert (len(taken), told) == (1, [1, 0])


async def test_what_is_not_settled_in_time_is_left_to_the_source() -> None:
    source, taken = Source(3), list[Delivery]()
    made = bridge(source, taken.append, at_once)
    await within(made.run(2, 1))
    assert (source.told, source.closed, made.unsettled) == ([], True, 2)


async def test_a_second_cancellation_ends_the_waiting() -> None:
    source, taken = Source(1), list[Delivery]()
    made = bridge(source, taken.append)
    task = asyncio.ensure_future(made.run(0, 1))
    await until(lambda: taken)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await within(task)
    assert source.closed


async def test_a_source_that_ends_is_settled_first() -> None:
    source, taken = Source(2, end=True), list[Delivery]()
    task = asyncio.ensure_future(bridge(source, taken.append).run(0, 1))
    await until(lambda: len(taken) == 2)
    assert not task.done()
    for delivery in taken:
        delivery.ack()
    await within(task)


def test_a_source_that_fails_ends_it_with_its_error() -> None:
    made = bridge(Source(2, end=Unavailable("gone")), lambda delivery: None)
    with pytest.raises(Unavailable, match="gone"):
        asyncio.run(within(made.run(0, 1)))
    assert made.unsettled == 2


def test_a_bus_that_takes_nothing_any_more_ends_it() -> None:
    def take(delivery: Delivery) -> None:
        raise BusStopped

    source = Source(2)
    made = bridge(source, take)
    with pytest.raises(BusStopped):
        asyncio.run(within(made.run(0, 1)))
    assert (source.yielded, source.told, made.unsettled) == (1, [], 0)


def test_a_source_that_yields_something_else_is_told() -> None:
    async def consume() -> AsyncGenerator[Any, None]:
        yield b"1"

    with pytest.raises(PluginError, match="consume yielded bytes; an evbus.types.Delivery is right"):
        asyncio.run(within(Bridge(consume(), print, forever).run(0, 1)))


async def test_unsettled_deliveries_are_bounded_whatever_the_source() -> None:
    source, taken = Source(5), list[Delivery]()
    task = asyncio.ensure_future(Bridge(source.consume(), taken.append, forever, most=3).run(5, 1))
    await until(lambda: len(taken) == 3)
    for _ in range(10):
        await asyncio.sleep(0)
    assert source.yielded == 3
    taken[0].ack()
    await until(lambda: len(taken) == 4)
    for delivery in taken:
        delivery.ack()
    await until(lambda: len(taken) == 5)
    taken[4].ack()
    await within(task)


async def test_a_source_that_never_waits_lets_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_bridge, "SLICE", 2)

    source, taken = Source(1000), list[Delivery]()
    task = asyncio.ensure_future(bridge(source, taken.append, at_once).run(0, 1))
    await until(lambda: taken)
    assert len(taken) < 10
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(task)


async def test_what_is_dropped_counts_no_longer_and_what_it_came_over_is_handed_on() -> None:
    origins, taken, told = [Origin(), Origin()], list[Delivery](), list[int]()

    async def consume() -> AsyncGenerator[Delivery, None]:
        for number in range(4):
            origin = origins[number // 2]
            if number == 3:
                origin.end("lost on the way")
            yield Delivery(Envelope("in"), lambda tag, *_: told.append(tag), number, origin=origin)
        await asyncio.Event().wait()

    made = Bridge(consume(), taken.append, at_once)
    task = asyncio.ensure_future(made.run(0, 1))
    await until(lambda: len(taken) == 3)
    await asyncio.sleep(0)
    assert [delivery.origin for delivery in taken] == [origins[0], origins[0], origins[1]]
    assert made.unsettled == 3
    for delivery in taken[:2]:
        delivery.drop()
        delivery.drop()
        delivery.ack()
    assert (made.unsettled, told) == (1, [])
    taken[2].ack()
    assert (made.unsettled, told) == (0, [2])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(task)


async def test_what_it_came_over_takes_nothing_more_when_the_bridge_ends() -> None:
    class Paused(Origin):
        def pause(self) -> None:
            said.append("pause")

    said: list[str] = []
    taken, origin = list[Delivery](), Paused()

    async def consume() -> AsyncGenerator[Delivery, None]:
        yield Delivery(Envelope("in"), lambda *told: said.append("settled"), 1, origin=origin)
        await asyncio.Event().wait()

    made = Bridge(consume(), taken.append, forever)
    task = asyncio.ensure_future(made.run(0, 1))
    await until(lambda: taken)
    task.cancel()
    await until(lambda: said)
    taken[0].ack()
    with pytest.raises(asyncio.CancelledError):
        await within(task)
    assert said == ["pause", "settled"]
