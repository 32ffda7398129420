"""evbus.testing.sync_bus: the same for plain functions."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from evbus import testing
from tests.testing.events import OrderBilled, OrderPlaced

PLACE: ContextVar[str] = ContextVar("place", default="nowhere")


def bills(hub: Any, event: OrderPlaced) -> None:
    hub.evbus.broker.put_nowait("OrderBilled", OrderBilled(event.order_id))


def test_a_plain_function_waits_where_others_await() -> None:
    with testing.sync_bus({"internal": {"default": {}, "mail": {}}}) as bus:
        id_ = bus.subscribe(OrderPlaced, bills)
        bus.fail("mail", times=1)
        bus.send(OrderPlaced("A-1", 1))
        assert bus.expect(OrderBilled, lambda event: event.order_id == "A-1") == OrderBilled("A-1")
        assert bus.handled(OrderPlaced, listener="bills") == OrderPlaced("A-1", 1)
        bus.put("n", 1, profile="mail")
        bus.put_nowait("n", 2)
        bus.hub.evbus.broker.put_nowait("n", 3)
        bus.settle()
        assert bus.sent("n") == [1, 2, 3]
        assert [sent.name for sent in bus.recorded] == ["OrderPlaced", "OrderBilled", "n", "n", "n"]
        assert bus.dead == []
        assert bus.unsubscribe(id_)
        assert repr(bus) == "<SyncBus running sent=5 dead=0>"


def test_what_has_to_be_awaited_runs_in_the_loop_of_the_bus() -> None:
    async def application(bus: testing.SyncBus) -> str:
        with pytest.raises(RuntimeError, match="this is called in the loop of the bus"):
            bus.settle()
        await bus.hub.event.init.send(OrderPlaced("A-1", 1))
        await asyncio.sleep(0)
        return PLACE.get()

    with testing.sync_bus() as bus:
        PLACE.set("here")
        assert bus.run(application(bus)) == "here"
        assert bus.expect(OrderPlaced)


def test_what_goes_wrong_is_raised_to_the_caller() -> None:
    def fails(event: OrderPlaced) -> None:
        raise ValueError("no such total")

    def waits() -> None:
        with testing.sync_bus() as bus:
            bus.expect(OrderPlaced, timeout=0)

    def ends() -> None:
        with testing.sync_bus() as bus:
            bus.subscribe(OrderPlaced, fails)
            bus.send(OrderPlaced("A-1", 1))

    with pytest.raises(AssertionError, match="no OrderPlaced was sent within 0 s; nothing was sent"):
        waits()
    with pytest.raises(AssertionError, match="ValueError: no such total"):
        ends()


def test_a_bus_that_cannot_be_started_leaves_no_thread() -> None:
    with pytest.raises(Exception, match="nowhere"), testing.sync_bus({"nowhere": {"default": {}}}):
        raise AssertionError("it was started")


def test_tasks_of_the_application_end_with_the_bus() -> None:
    ended = []

    async def goes_on() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(True)

    async def begin() -> asyncio.Task[None]:
        task = asyncio.ensure_future(goes_on())
        await asyncio.sleep(0)
        return task

    with testing.sync_bus() as bus:
        task = bus.run(begin())
    assert ended
    assert task.cancelled()
