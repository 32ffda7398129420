"""The dispatcher: which router a message goes to, its start, and other routers in place of its own."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from evbus.engine.handling.dispatch import dispatcher as dispatcher_module
from evbus.engine.handling.dispatch.dispatcher import Dispatcher
from evbus.engine.handling.dispatch.kinds import EventRouter, RequestRouter
from evbus.errors import (
    DispatcherNotStarted,
    DispatchError,
    DispatcherStopped,
    HandlerDoesNotExist,
    HandlerError,
    HandlerExists,
    Rejected,
    RouterFrozen,
)
from evbus.types import Envelope
from tests.dispatch.rig import Gate, Order, Paid, Urgent, new, running, until, within


def answer(text: str) -> Any:
    async def handle(message: Any) -> str:
        return text

    return handle


# Routing


async def test_a_message_goes_to_the_router_with_the_most_specific_handler() -> None:
    dispatcher, seen = new(), []

    async def note(message: Any) -> None:
        seen.append(message)

    dispatcher.events.bind(object, note)
    dispatcher.commands.bind(Order, answer("command"))
    dispatcher.queries.bind(Urgent, answer("query"))
    dispatcher.queries.bind("text", answer("text"))
    async with running(dispatcher):
        for message, expected in (
            (Order(), "command"),
            (Urgent(), "query"),
            (Urgent, "query"),
            ("text", "text"),
            (Paid(), None),
            ("other", None),
        ):
            assert await dispatcher.handle(message, wait_for_response=True) == expected
    assert seen == [Paid(), "other"]


async def test_two_routers_that_are_equally_near_are_an_error(dispatcher: Dispatcher) -> None:
    dispatcher.commands.bind(Order, answer("command"))
    dispatcher.queries.bind(Order, answer("query"))
    async with running(dispatcher):
        with pytest.raises(DispatchError) as found:
            await dispatcher.handle(Urgent())
        assert str(found.value) == (
            "Urgent is bound in commands and in queries; say which is meant, as by "
            "hub.dispatch.commands.handle"
        )
        assert await dispatcher.queries.handle(Urgent(), wait_for_response=True) == "query"


async def test_a_message_that_nobody_handles_is_an_error_once_the_dispatcher_runs(
    dispatcher: Dispatcher,
) -> None:
    dispatcher.commands.bind(Order, answer("command"))
    # Handlers in files are bound by the start, so that is missing before it.
    for message in (Paid(), "text"):
        with pytest.raises(DispatcherNotStarted):
            await dispatcher.handle(message)
    async with running(dispatcher):
        with pytest.raises(HandlerDoesNotExist, match="no handler for Oder; did you mean 'Order'"):
            await dispatcher.handle("Oder")
    with pytest.raises(DispatcherStopped):
        await dispatcher.handle(Paid())


async def test_kinds_are_not_remembered_without_end(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "REMEMBERED", 10)

    dispatcher.queries.bind(str, answer("text"))
    async with running(dispatcher):
        for number in range(25):
            assert await dispatcher.handle(f"text {number}", wait_for_response=True) == "text"
            assert len(dispatcher.core.routes) <= 10


# Starting


async def test_a_start_need_not_be_awaited_and_happens_once(dispatcher: Dispatcher) -> None:
    assert not dispatcher.running
    await dispatcher.start()
    assert dispatcher.running
    with pytest.raises(DispatchError, match="^the dispatcher is started already; stop it before"):
        dispatcher.start()
    assert repr(dispatcher).startswith("<Dispatcher running <EventRouter events messages=0 <WorkerPool")
    assert dispatcher.snapshot()["state"] == "running"
    await dispatcher.stop()
    assert not dispatcher.running


def test_a_dispatcher_works_in_one_loop_after_another(dispatcher: Dispatcher, gate: Gate) -> None:
    dispatcher.events.bind(Order, gate, argname="message")

    async def main(number: int) -> None:
        gate.opened = asyncio.Event()
        async with running(dispatcher):
            await dispatcher.handle(Order(number), "k")
            await dispatcher.handle(Order(number), "k")
            await until(lambda: gate.entered)
            gate.open()
            await dispatcher.handle(Order(number), "k", True)

    for number in range(3):
        asyncio.run(main(number))
    assert gate.ended == [Order(0)] * 3 + [Order(1)] * 3 + [Order(2)] * 3


@pytest.mark.parametrize("options", [{"engine_workers": -1}, {"backlog": -1}, {"engine_workers": "many"}])
def test_bounds_are_checked_when_it_is_made(options: Any) -> None:
    with pytest.raises(ValueError, match="is a whole number, or 0 for no bound, and not "):
        Dispatcher(**options)


# Other routers


class Events(EventRouter):
    pass


class Requests(RequestRouter):
    pass


def test_routers_can_be_replaced_before_anything_is_bound() -> None:
    dispatcher = Dispatcher(events_router_cls=Events, engine_workers=3, backlog=7)
    assert type(dispatcher.events) is Events
    dispatcher.use(commands_router_cls=Requests, queries_router_cls=Requests)
    assert [type(router) for router in dispatcher.routers] == [Events, Requests, Requests]
    assert [router.name for router in dispatcher.routers] == ["events", "commands", "queries"]
    assert {(router.pool.limit, router.pool.backlog) for router in dispatcher.routers} == {(3, 7)}
    dispatcher.use(events_router_cls=EventRouter)
    assert type(dispatcher.events) is EventRouter


def test_no_handler_is_lost_when_a_router_is_replaced(dispatcher: Dispatcher) -> None:
    dispatcher.commands.bind(Order, answer("command"))
    with pytest.raises(HandlerExists, match="^the router of commands has handlers already, "):
        dispatcher.use(events_router_cls=Events, commands_router_cls=Requests)
    # Either all are replaced or none.
    assert type(dispatcher.events) is EventRouter


@pytest.mark.parametrize("wrong", [5, Requests, object])
def test_what_is_no_router_is_refused(dispatcher: Dispatcher, wrong: Any) -> None:
    with pytest.raises(HandlerError, match="^the router of events is a subclass of EventRouter, and not "):
        dispatcher.use(events_router_cls=wrong, queries_router_cls=Requests)
    assert type(dispatcher.queries) is RequestRouter


async def test_routers_stay_once_the_dispatcher_is_started(dispatcher: Dispatcher) -> None:
    async with running(dispatcher):
        with pytest.raises(RouterFrozen, match="^the dispatcher is started and keeps its routers"):
            dispatcher.use(events_router_cls=Events)


# Interceptors


@pytest.mark.parametrize("problem", [Rejected("not this one"), RuntimeError("a bug")])
async def test_an_event_that_is_refused_makes_the_handler_that_sent_it_not_fail(
    problem: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        dispatcher, paid = new(), []

        def send(envelope: Envelope) -> None:
            if envelope.routing_key == "Urgent":
                raise problem

        async def handle(order: Order) -> Any:
            return Urgent() if order.number else Paid()

        async def on_paid(event: Paid) -> None:
            paid.append(event)

        dispatcher.core.send = send
        dispatcher.events.bind(Order, handle, response_event=(Urgent, Paid))
        dispatcher.events.bind(Paid, on_paid)
        async with running(dispatcher):
            for number in (1, 0):
                await dispatcher.handle(Order(number), "k")
            await until(lambda: paid)
            assert (dispatcher.events.handled, dispatcher.events.failed) == (3, 0)
    assert "events: an event that a handler sent is not handled" in caplog.text


async def test_interceptors_are_around_handlers_and_may_change_the_result() -> None:
    dispatcher, seen = new(), []

    async def around(envelope: Envelope, call_next: Any) -> Any:
        seen.append((envelope.routing_key, envelope.headers))
        if envelope.headers.get("skip"):
            return "skipped"
        return f"<{await call_next(envelope)}>"

    dispatcher.core.around = around
    dispatcher.commands.bind(Order, answer("done"))
    async with running(dispatcher):
        assert await dispatcher.handle(Order(), wait_for_response=True) == "<done>"
        assert await within(dispatcher.handle(Order(), None, True, 60, {"skip": "yes"})) == "skipped"
    assert seen == [("Order", {}), ("Order", {"skip": "yes"})]
