"""Handlers that collect events: sent after a success, dropped after a failure, never mixed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.engine.handling.dispatch.dispatcher import Dispatcher
from evbus.engine.handling.handler import AbstractHandler, HandlerProtocol, add_event
from evbus.errors import DispatchDeadlock, DispatchError
from tests.dispatch.rig import Order, Paid, Urgent, caught, failures, new, running, turns, until, within


class Plain(AbstractHandler):
    async def handle(self, order: Order) -> int:  # type: ignore[override]
        await self.add_event(Paid(order.number))
        await turns(order.number % 4)
        await self.add_event(Paid(order.number))
        if order.number % 5 == 4:
            raise ValueError(order.number)
        return order.number


class Own:
    """Keeps its events in itself."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.now = 0

    async def handle(self, order: Order) -> int:
        self.now += 1
        assert self.now == 1
        await self.add_event(Paid(order.number))
        await turns(order.number % 4)
        await self.add_event(Paid(order.number))
        self.now -= 1
        if order.number % 5 == 4:
            raise ValueError(order.number)
        return order.number

    async def add_event(self, event: Any) -> None:
        self.events.append(event)

    async def dump_events(self) -> list[Any]:
        # Others could come in between.
        await turns(3)
        events, self.events = self.events, []
        await turns(3)
        return events


class OwnAbstract(AbstractHandler):
    """Derives the base, and keeps events in itself all the same."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    async def handle(self, order: Order) -> int:  # type: ignore[override]
        self.events.append(Paid(order.number))
        await turns(order.number % 4)
        await self.add_event(Paid(order.number))
        if order.number % 5 == 4:
            raise ValueError(order.number)
        return order.number

    async def dump_events(self) -> list[Any]:
        events, self.events = self.events, []
        return [*events, *await super().dump_events()]


@pytest.mark.parametrize("kind", [Plain, Own, OwnAbstract])
@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("instance", [False, True])
async def test_events_are_sent_after_a_success_and_dropped_after_a_failure(
    kind: Any, wait: bool, instance: bool
) -> None:
    dispatcher, paid = new(), []
    found = failures(dispatcher)

    async def on_paid(event: Paid) -> None:
        paid.append(event.number)

    dispatcher.events.bind(Paid, on_paid)
    dispatcher.commands.bind(Order, kind() if instance else kind)
    async with running(dispatcher):
        calls = [dispatcher.commands.handle(Order(number), None, wait) for number in range(20)]
        results = await within(asyncio.gather(*calls, return_exceptions=True))
        await until(lambda: dispatcher.commands.handled + dispatcher.commands.failed == 20)
    good = [number for number in range(20) if number % 5 != 4]
    assert sorted(paid) == sorted(good * 2)
    if wait:
        assert [one for one in results if isinstance(one, int)] == good
    assert len(found) == (0 if wait else 4)


async def test_events_have_the_key_of_their_message_and_so_its_order() -> None:
    dispatcher, paid = new(), []

    async def on_paid(event: Paid) -> None:
        await turns(3 - event.number % 3)
        paid.append(event.number)

    dispatcher.events.bind(Paid, on_paid)
    dispatcher.commands.bind(Order, Plain)
    async with running(dispatcher):
        for number in range(4):
            await dispatcher.commands.handle(Order(number), "k")
        await until(lambda: len(paid) == 8)
    assert paid == [0, 0, 1, 1, 2, 2, 3, 3]


async def test_one_object_gets_one_message_at_a_time_whatever_it_is_bound_to() -> None:
    dispatcher, paid, own = new(), [], Own()

    async def on_paid(event: Paid) -> None:
        paid.append(event.number)

    dispatcher.events.bind(Paid, on_paid)
    dispatcher.commands.bind(Order, own)
    dispatcher.commands.bind(Urgent, own)
    dispatcher.events.bind(Order, own)
    async with running(dispatcher):
        calls: list[Any] = []
        for number in range(4):
            for message in (Order(number), Urgent(number)):
                calls.append(dispatcher.commands.handle(message, None, True))  # noqa: PERF401
            calls.append(dispatcher.events.handle(Order(number), number, True))
        await within(asyncio.gather(*calls))
    assert sorted(paid) == sorted([*range(4)] * 6)


async def test_two_objects_of_a_class_do_not_wait_for_each_other() -> None:
    dispatcher, now = new(), 0
    both = asyncio.Event()

    class Meets(Own):
        async def handle(self, order: Order) -> int:
            nonlocal now
            now += 1
            if now == 2:
                both.set()
            await both.wait()
            return 0

    dispatcher.commands.bind(Order, Meets)
    dispatcher.commands.bind(Urgent, Meets)
    async with running(dispatcher):
        calls = (dispatcher.handle(message, wait_for_response=True) for message in (Order(), Urgent()))
        assert await within(asyncio.gather(*calls)) == [0, 0]


@pytest.mark.parametrize("workers", [1, 100])
@pytest.mark.parametrize("wait", [False, True])
async def test_a_message_for_the_object_that_waits_for_it_is_a_deadlock(workers: int, wait: bool) -> None:
    dispatcher = new(engine_workers=workers)

    class Again(Own):
        async def handle(self, order: Order) -> int:
            if order.number:
                await dispatcher.queries.handle("between", wait_for_response=True)
            return order.number

    async def between(message: str) -> Any:
        return await dispatcher.commands.handle(Order(0), wait_for_response=True)

    dispatcher.commands.bind(Order, Again)
    dispatcher.queries.bind("between", between)
    found = failures(dispatcher)
    async with running(dispatcher):
        problem = await caught(dispatcher.commands.handle(Order(1), None, wait))
        if not wait:
            await until(lambda: found)
            problem = found[0].exception
        assert isinstance(problem, DispatchDeadlock)
        assert str(problem) == (
            "commands: Order is to be handled by an object that keeps its events in itself, and so gets "
            "one message at a time, within a handler that waits for that; hand it over without "
            "wait_for_response, or derive the handler's class from AbstractHandler"
        )
        assert await dispatcher.commands.handle(Order(0), wait_for_response=True) == 0


class Broken(Own):
    async def dump_events(self) -> list[Any]:
        raise RuntimeError("cannot dump")


async def test_a_handler_whose_events_cannot_be_had_has_failed(
    dispatcher: Dispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher.commands.bind(Order, Broken)
    async with running(dispatcher):
        problem = await caught(dispatcher.commands.handle(Order(0), wait_for_response=True))
        assert repr(problem) == "RuntimeError('cannot dump')"
        # Its own error is not hidden by that.
        problem = await caught(dispatcher.commands.handle(Order(4), wait_for_response=True))
        assert repr(problem) == "ValueError(4)"
        assert (dispatcher.commands.handled, dispatcher.commands.failed) == (0, 2)
    assert "Broken cannot be forgotten: RuntimeError" in caplog.text


async def test_nested_handlers_keep_their_own_events() -> None:
    dispatcher, paid = new(), []

    async def outer(order: Urgent) -> None:
        add_event(Paid(1))
        await dispatcher.commands.handle(Order(2), wait_for_response=True)
        add_event(Paid(3))
        raise ValueError

    async def inner(order: Order) -> None:
        add_event(Paid(order.number))

    async def on_paid(event: Paid) -> None:
        paid.append(event.number)

    dispatcher.commands.bind(Urgent, outer)
    dispatcher.commands.bind(Order, inner)
    dispatcher.events.bind(Paid, on_paid)
    async with running(dispatcher):
        assert isinstance(await caught(dispatcher.handle(Urgent(), wait_for_response=True)), ValueError)
    assert paid == [2]


async def test_events_that_nobody_handles_make_no_handler_fail(dispatcher: Dispatcher) -> None:
    dispatcher.commands.bind(Order, Plain)
    async with running(dispatcher):
        assert await dispatcher.commands.handle(Order(1), wait_for_response=True) == 1
        assert dispatcher.events.snapshot()["without_handler"] == 2


def test_events_are_added_within_handlers_only() -> None:
    with pytest.raises(DispatchError, match="events are added while a message is handled; elsewhere send"):
        add_event(Paid())
    assert asyncio.run(Plain().dump_events()) == []
    assert isinstance(Own(), HandlerProtocol)
    assert isinstance(Plain(), HandlerProtocol)
    with pytest.raises(TypeError, match="abstract"):
        AbstractHandler()  # type: ignore[abstract]
