"""Handlers and what they take: made at the start, closed at the stop, made anew at the next."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.engine.handling.binding import Binding
from evbus.engine.handling.providers import Factory, Singleton
from evbus.errors import HandlerSignatureError
from tests.dispatch.rig import Order, Paid, Urgent, caught, new, running, until, within


class Repo:
    made: list[Repo]

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("awaited", [False, True])
async def test_providers_are_made_anew_at_each_start_and_closed_at_each_stop(
    later: bool, awaited: bool
) -> None:
    dispatcher, made = new(), []

    def make() -> Repo:
        made.append(Repo())
        return made[-1]

    async def make_later() -> Repo:
        await asyncio.sleep(0)
        return make()

    async def handle(order: Order, repo: Any) -> Any:
        assert not repo.closed
        return repo

    maker = make_later if later else make
    dispatcher.commands.bind(Order, handle, repo=Singleton["shared":maker])
    dispatcher.commands.bind(Urgent, handle, argname="order", repo=Singleton["shared":maker])
    dispatcher.queries.bind(Paid, handle, argname="order", repo=Factory["own":maker])
    for _ in range(2):
        assert made == []
        start = dispatcher.start()
        if awaited:
            await start
        assert len(made) == (2 if awaited or not later else 0)
        calls = [
            dispatcher.handle(message, wait_for_response=True)
            for message in (Order(), Urgent(), Paid(), Order(), Paid())
        ]
        found = await within(asyncio.gather(*calls))
        assert found[0] is found[1] is found[3]
        assert found[2] is found[4] is not found[0]
        assert len(made) == 2
        await within(dispatcher.stop())
        assert all(repo.closed for repo in made)
        made.clear()


async def test_what_cannot_be_made_fails_the_message_and_is_tried_again() -> None:
    dispatcher, tries = new(), []

    async def make() -> Repo:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("not now")
        return Repo()

    async def handle(order: Order, repo: Any) -> Any:
        return repo

    dispatcher.commands.bind(Order, handle, repo=Singleton["repo":make])
    async with running(dispatcher):
        problem = await caught(dispatcher.handle(Order(), wait_for_response=True))
        assert repr(problem) == "OSError('not now')"
        assert isinstance(await dispatcher.handle(Order(), wait_for_response=True), Repo)


async def test_what_nobody_provides_is_an_error_at_the_start_which_may_be_tried_again() -> None:
    dispatcher, made = new(), []

    async def handle(order: Order, repo: Repo) -> Any:
        return repo

    async def other(order: Paid, repo: Any) -> None:
        pass

    def make() -> Repo:
        made.append(Repo())
        return made[-1]

    dispatcher.events.bind(Paid, other, repo=Singleton["early":make])
    dispatcher.commands.bind(Order, handle)
    with pytest.raises(HandlerSignatureError, match="nothing is provided for 'repo', a Repo"):
        dispatcher.start()
    assert not dispatcher.running
    # What was made for the others is closed.
    await dispatcher.stop()
    assert [repo.closed for repo in made] == [True]
    repo = Repo()
    dispatcher.core.injector.provide(Repo, repo)
    async with running(dispatcher):
        assert await dispatcher.handle(Order(), wait_for_response=True) is repo


async def test_response_events_are_sent_and_other_results_are_not() -> None:
    dispatcher, paid = new(), []

    async def handle(order: Order) -> Any:
        await asyncio.sleep(0)
        return Paid(order.number) if order.number else Order(0)

    async def on_paid(event: Paid) -> None:
        paid.append(event.number)

    dispatcher.commands.bind(Order, handle, response_event=Paid)
    dispatcher.events.bind(Order, handle, response_event=(Paid, Urgent))
    dispatcher.events.bind(Paid, on_paid)
    async with running(dispatcher):
        for number in range(3):
            result = await dispatcher.commands.handle(Order(number), wait_for_response=True)
            assert isinstance(result, Paid if number else Order)
            await dispatcher.events.handle(Order(number + 10))
        await until(lambda: len(paid) == 5)
    assert sorted(paid) == [1, 2, 10, 11, 12]


async def test_a_plain_binding_makes_nothing_and_leaves_what_was_added() -> None:

    async def call(message: Any) -> None:
        pass

    binding = Binding(Order, call, call, "call")
    binding.complete()
    await binding.prepare()
    await binding.discard()
    assert repr(binding) == "<Binding Order -> call>"
    assert binding.same(Binding(Urgent, call, call, "other name"))
