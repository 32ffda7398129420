"""Events go to all of their handlers, and commands and queries to exactly one."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from evbus.engine.handling.dispatch.dispatcher import Dispatcher
from evbus.errors import DispatcherStopped, HandlerExists, HandlerSignatureError
from tests.dispatch.rig import Order, Paid, Urgent, new, running, until


class Seen:
    """Handlers with names, and which of them got what."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Any]] = []

    def handler(self, name: str) -> Any:
        async def handle(message: Any) -> str:
            self.got.append((name, message))
            return name

        return handle

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.got]


async def test_an_event_goes_to_all_handlers_of_its_class_and_its_bases_the_most_specific_first() -> None:
    dispatcher, seen = new(), Seen()
    for message, name in ((object, "any"), (Order, "order"), (Urgent, "urgent"), (Order, "order again")):
        dispatcher.events.bind(message, seen.handler(name), argname="message")
    async with running(dispatcher):
        await dispatcher.handle(Urgent(1), wait_for_response=True)
        assert seen.names == ["urgent", "order", "order again", "any"]
        seen.got.clear()
        await dispatcher.handle(Order(1), wait_for_response=True)
        assert seen.names == ["order", "order again", "any"]
        seen.got.clear()
        await dispatcher.handle(5, wait_for_response=True)
        assert seen.got == [("any", 5)]


async def test_a_string_and_a_class_are_messages_too() -> None:
    dispatcher, seen = new(), Seen()
    bound = (("on startup", "string"), (str, "any string"), (Order, "order"), (object, "any"))
    for message, name in bound:
        dispatcher.events.bind(message, seen.handler(name), argname="message")
    async with running(dispatcher):
        await dispatcher.handle("on startup", wait_for_response=True)
        assert seen.names == ["string", "any string", "any"]
        seen.got.clear()
        await dispatcher.handle("other", wait_for_response=True)
        assert seen.names == ["any string", "any"]
        seen.got.clear()
        await dispatcher.handle(Urgent, wait_for_response=True)
        assert seen.got == [("order", Urgent), ("any", Urgent)]


@pytest.mark.parametrize("router", ["commands", "queries"])
async def test_a_command_or_query_goes_to_the_handler_of_its_class_or_its_nearest_base(router: str) -> None:
    dispatcher, seen = new(), Seen()
    bind = getattr(dispatcher, router).bind
    for message, name in ((object, "any"), (Order, "order"), ("text", "string")):
        bind(message, seen.handler(name), argname="message")
    async with running(dispatcher):
        for message, name in (
            (Urgent(), "order"),
            (Order(), "order"),
            (Urgent, "order"),
            (Paid(), "any"),
            ("text", "string"),
            ("other", "any"),
            (None, "any"),
        ):
            assert await dispatcher.handle(message, wait_for_response=True) == name


def test_a_command_has_one_handler_and_an_event_each_only_once() -> None:
    dispatcher, seen = new(), Seen()
    handler, other = seen.handler("a"), seen.handler("b")
    dispatcher.commands.bind(Order, handler, argname="message")
    with pytest.raises(HandlerExists, match="there is one already, .*handle, and a message of commands"):
        dispatcher.commands.bind(Order, other, argname="message")
    dispatcher.commands.bind(Urgent, other, argname="message")
    dispatcher.events.bind(Order, handler, argname="message")
    dispatcher.events.bind(Order, other, argname="message")
    with pytest.raises(HandlerExists, match="it is bound to this event already, and would be called twice"):
        dispatcher.events.bind(Order, handler, argname="message")
    assert len(dispatcher.events.bindings()) == 2


def test_one_function_may_be_bound_twice_with_different_values() -> None:
    async def handle(order: Order, name: str) -> None:
        pass

    dispatcher, name = new(), "a"
    dispatcher.events.bind(Order, handle, name=name)
    dispatcher.events.bind(Order, handle, name="b")
    with pytest.raises(HandlerExists):
        dispatcher.events.bind(Order, handle, name=name)


async def test_an_event_that_nobody_handles_is_counted_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "evbus.dispatch"):
        dispatcher = new()
        async with running(dispatcher):
            for number in range(3):
                await dispatcher.events.handle(Order(number), wait_for_response=bool(number))
                await dispatcher.events.handle("two\nlines")
            assert dispatcher.events.snapshot()["without_handler"] == 6
    assert [record.getMessage() for record in caplog.records] == [
        "events: there is no handler for Order",
        "events: there is no handler for two\\nlines",
    ]


# What goes to the bus as well


def published(dispatcher: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []

    async def publish(profile: str, event: Any) -> None:
        found.append((profile, event))

    dispatcher.core.publish = publish
    return found


async def test_an_event_goes_to_the_bus_once_though_its_base_does_too() -> None:
    dispatcher, seen = new(), Seen()
    found = published(dispatcher)
    first = dispatcher.events.bind(Order, publish_to="a")
    assert not first.handled_here
    bound = dispatcher.events.bind(Urgent, seen.handler("urgent"), argname="message", publish_to="a")
    assert bound.handled_here
    dispatcher.events.bind(Urgent, publish_to="b")
    dispatcher.events.bind(Urgent, publish_to="b")
    async with running(dispatcher):
        await dispatcher.handle(Urgent(), wait_for_response=True)
    assert sorted(found) == [("a", Urgent()), ("b", Urgent())]
    assert seen.names == ["urgent"]


class Stays:
    pass


@pytest.mark.parametrize(("message", "profile"), [(Stays, "a"), (Order, ""), (Order, 5)])
def test_either_both_are_bound_or_none(dispatcher: Dispatcher, message: Any, profile: Any) -> None:
    with pytest.raises(HandlerSignatureError):
        dispatcher.events.bind(message, Seen().handler("a"), argname="message", publish_to=profile)
    assert dispatcher.events.bindings() == []
    seen = Seen().handler("a")
    dispatcher.events.bind(Order, seen, argname="message")
    with pytest.raises(HandlerExists):
        dispatcher.events.bind(Order, seen, argname="message", publish_to="a")
    assert len(dispatcher.events.bindings()) == 1


# Events that handlers leave behind


async def test_what_a_handler_leaves_behind_when_all_is_over_is_not_handled() -> None:
    dispatcher, seen = new(), Seen()
    dispatcher.events.bind(Order, seen.handler("a"), argname="message")
    async with running(dispatcher):
        dispatcher.events.pass_on(Order(1), None)
        dispatcher.events.pass_on(Paid(1), None)
        await until(lambda: seen.got)
        assert dispatcher.events.snapshot()["without_handler"] == 1
    with pytest.raises(DispatcherStopped):
        dispatcher.events.pass_on(Order(2), None)
    assert len(seen.got) == 1
