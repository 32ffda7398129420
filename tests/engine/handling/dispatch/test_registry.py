"""Binding, and finding what is bound; at run time, too."""

from __future__ import annotations

from typing import Any

import pytest

from evbus.engine.handling.binding import Binding, HandlerBinding
from evbus.engine.handling.dispatch import router
from evbus.engine.handling.dispatch.dispatcher import Dispatcher
from evbus.engine.handling.providers import Factory, Singleton
from evbus.errors import HandlerExists, HandlerSignatureError, RouterFrozen
from tests.dispatch.rig import Gate, Order, Paid, Urgent, new, running, until


async def handle(message: Any) -> Any:
    return message


class Repo:
    pass


async def test_a_decorator_binds_and_leaves_the_function_as_it_is(dispatcher: Dispatcher) -> None:

    async def on(message: Order, number: int) -> int:
        return message.number + number

    assert dispatcher.commands.register(Order, number=5)(on) is on
    (binding,) = dispatcher.commands.bindings()
    assert repr(binding).startswith("<HandlerBinding Order -> ")
    async with running(dispatcher):
        assert await dispatcher.commands.handle(Order(1), wait_for_response=True) == 6


async def test_nothing_is_bound_after_the_start(dispatcher: Dispatcher) -> None:
    said = "^the handler .*handle of Order: the dispatcher is started and its routers are frozen; "
    async with running(dispatcher):
        for router in dispatcher.routers:
            with pytest.raises(RouterFrozen, match=said):
                router.bind(Order, handle)
            with pytest.raises(RouterFrozen, match=said):
                router.register(Order)(handle)
        with pytest.raises(RouterFrozen):
            dispatcher.events.bind(Order, publish_to="a")
    with pytest.raises(RouterFrozen):
        dispatcher.events.bind(Order, handle)


async def test_listeners_come_and_go_at_run_time() -> None:
    dispatcher, gate, seen = new(), Gate(), []
    dispatcher.events.bind(Order, gate, argname="message")

    async def listen(order: Order) -> None:
        seen.append(order)

    binding = Binding(Order, listen, listen, "listen")
    async with running(dispatcher):
        await dispatcher.handle(Urgent(1))
        await until(lambda: gate.entered)
        dispatcher.events.add(binding)
        await dispatcher.handle(Urgent(2))
        await until(lambda: seen)
        assert dispatcher.events.remove(binding)
        assert not dispatcher.events.remove(binding)
        await dispatcher.handle(Urgent(3))
        await until(lambda: len(gate.entered) == 3)
        gate.open()
    assert seen == [Urgent(2)]


async def test_messages_on_their_way_to_a_listener_that_goes_still_arrive() -> None:
    dispatcher, seen = new(), []

    async def listen(order: Order) -> None:
        seen.append(order.number)

    binding = Binding(Order, listen, listen, "listen")
    async with running(dispatcher):
        dispatcher.events.add(binding)
        await dispatcher.events.handle(Order(1), "k")
        await dispatcher.events.handle(Order(2), "k")
        dispatcher.events.remove(binding)
        await dispatcher.events.handle(Order(3))
        await until(lambda: len(seen) == 2)
        # With the last one goes its kind.
        assert (dispatcher.events.bindings(), dispatcher.events.snapshot()["without_handler"]) == ([], 1)


async def test_a_more_specific_handler_takes_over_at_run_time(dispatcher: Dispatcher) -> None:
    dispatcher.commands.bind(Order, handle)
    async with running(dispatcher):
        assert await dispatcher.handle(Urgent(1), wait_for_response=True) == Urgent(1)

        async def other(order: Urgent) -> str:
            return "other"

        binding = Binding(Urgent, other, other, "other")
        dispatcher.queries.add(binding)
        assert await dispatcher.handle(Urgent(1), wait_for_response=True) == "other"
        dispatcher.queries.remove(binding)
        assert await dispatcher.handle(Urgent(1), wait_for_response=True) == Urgent(1)


@pytest.mark.parametrize("kind", [Singleton, Factory])
@pytest.mark.parametrize("later", [False, True])
async def test_a_handler_that_comes_at_run_time_gets_what_it_takes(
    dispatcher: Dispatcher, kind: Any, later: bool
) -> None:

    async def make_later() -> Repo:
        return Repo()

    async def on(order: Order, repo: Any) -> Any:
        return repo

    def binding(message: Any, **given: Any) -> HandlerBinding:
        injector = dispatcher.core.injector
        return HandlerBinding(message, on, injector=injector, argname="order", given=given)

    async with running(dispatcher):
        dispatcher.commands.add(binding(Order, repo=kind["repo" : make_later if later else Repo]))
        assert isinstance(await dispatcher.commands.handle(Order(), wait_for_response=True), Repo)

        async def lacking(order: Order, repo: Repo) -> None:
            pass

        injector = dispatcher.core.injector
        unready = HandlerBinding(Paid, lacking, injector=injector, argname="order")
        with pytest.raises(HandlerSignatureError, match="nothing is provided for 'repo', a "):
            dispatcher.commands.add(unready)
        assert len(dispatcher.commands.bindings()) == 1


def test_what_is_refused_leaves_nothing_behind(dispatcher: Dispatcher) -> None:
    first = dispatcher.commands.bind(Order, handle)
    with pytest.raises(HandlerExists):
        dispatcher.commands.add(Binding(Order, handle, handle, "handle"))
    assert dispatcher.commands.bindings() == [first]
    assert dispatcher.commands.find(Paid()) == ()
    assert dispatcher.commands.find(Order) == dispatcher.commands.find(Urgent()) == (first,)


def test_kinds_are_not_remembered_without_end(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "REMEMBERED", 10)
    binding = dispatcher.events.bind(str, handle)
    for number in range(25):
        assert dispatcher.events.find(f"text {number}") == (binding,)
        assert len(dispatcher.events._found) <= 10
    assert dispatcher.events.find(Order()) == ()
    assert len(dispatcher.events._found) <= 10


def test_the_sentence_about_a_missing_handler_knows_what_is_near(dispatcher: Dispatcher) -> None:
    dispatcher.queries.bind(Order, handle)
    assert str(dispatcher.queries.missing("Ordr")) == (
        "queries: there is no handler for Ordr; did you mean 'Order'?"
    )
