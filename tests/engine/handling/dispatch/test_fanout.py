"""One message for several handlers: contexts, failures, cancellation."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from typing import Any

import pytest

from evbus.engine.handling.dispatch.dispatcher import Dispatcher
from evbus.engine.handling.frame import CURRENT
from evbus.engine.handling.handler import add_event
from evbus.errors import DispatchError, DispatchTimeout
from tests.dispatch.rig import Gate, Order, Paid, caught, failures, new, running, turns, until, within

USER: ContextVar[str] = ContextVar("user", default="nobody")


async def handled(dispatcher: Any) -> None:
    """Wait until nothing runs."""
    await until(lambda: all(router.idle(set()) for router in dispatcher.routers))


# Contexts


@pytest.mark.parametrize("wait", [False, True])
async def test_each_handler_has_a_copy_of_the_context_of_its_caller(wait: bool) -> None:
    dispatcher, seen = new(), []

    def add(name: str, *, later: bool) -> None:
        async def handle(order: Order) -> None:
            seen.append((name, USER.get()))
            USER.set(name)
            if later:
                await asyncio.sleep(0)
                seen.append((name, USER.get()))

        dispatcher.events.bind(Order, handle)

    for number in range(6):
        add(f"h{number}", later=bool(number % 2))
    async with running(dispatcher):
        USER.set("caller")
        await dispatcher.events.handle(Order(), wait_for_response=wait)
        await handled(dispatcher)
        assert USER.get() == "caller"
    firsts = [(f"h{number}", "caller") for number in range(6)]
    assert sorted(seen) == sorted(firsts + [(f"h{number}", f"h{number}") for number in (1, 3, 5)])


async def test_a_handler_knows_its_own_message_and_a_sender_none() -> None:
    dispatcher, seen = new(), []

    async def handle(order: Order) -> None:
        frame = CURRENT.get()
        assert frame is not None
        seen.append((order.number, frame.key))
        await asyncio.sleep(0)
        assert CURRENT.get() is frame

    dispatcher.events.bind(Order, handle)
    async with running(dispatcher):
        for number in range(5):
            await dispatcher.events.handle(Order(number), key=number % 2)
            assert CURRENT.get() is None
        await handled(dispatcher)
    assert sorted(seen) == [(number, number % 2) for number in range(5)]


# Failures


async def test_a_failure_keeps_no_other_handler_from_its_message(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        dispatcher, seen = new(), []
        found = failures(dispatcher)

        def add(number: int) -> None:
            async def handle(order: Order) -> None:
                if number % 3 == 1:
                    await asyncio.sleep(0)
                seen.append(number)
                if number % 2:
                    raise ValueError(f"number {number}\nfailed")

            dispatcher.events.bind(Order, handle)

        for number in range(6):
            add(number)
        async with running(dispatcher):
            await dispatcher.events.handle(Order(7), key="k")
            await handled(dispatcher)
        assert sorted(seen) == list(range(6))
        assert sorted(str(one.exception) for one in found) == [f"number {n}\nfailed" for n in (1, 3, 5)]
        assert {(one.router, one.message.number, one.key) for one in found} == {("events", 7, "k")}
        assert dispatcher.events.handled == dispatcher.events.failed == 3
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("events: the handler ")
        assert ".handle of Order failed: ValueError: number " in line
        assert "\\nfailed (at " in line
        assert "test_fanout.py:" in line


async def test_who_waits_gets_the_first_failure_when_all_have_ended_and_the_others_are_reported(
    gate: Gate,
) -> None:
    dispatcher, ended = new(), []
    found = failures(dispatcher)

    async def slow(order: Order) -> None:
        await gate(order)
        ended.append("slow")

    async def first(order: Order) -> None:
        raise KeyError("first")

    async def second(order: Order) -> None:
        await asyncio.sleep(0)
        raise ValueError("second")

    for handler in (slow, first, second):
        dispatcher.events.bind(Order, handler)
    async with running(dispatcher):
        waiting = asyncio.ensure_future(dispatcher.handle(Order(), wait_for_response=True))
        await until(lambda: found)
        await turns(5)
        assert not waiting.done()
        gate.open()
        problem = await caught(waiting)
    assert repr(problem) == "KeyError('first')"
    assert ended == ["slow"]
    assert [repr(one.exception) for one in found] == ["ValueError('second')"]


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


async def test_a_failure_that_has_no_text_is_reported_too(
    dispatcher: Dispatcher, caplog: pytest.LogCaptureFixture
) -> None:

    async def handle(order: Order) -> None:
        raise Mute

    dispatcher.events.bind(Order, handle)
    async with running(dispatcher):
        await dispatcher.handle(Order(), key="k")
        await handled(dispatcher)
    assert "failed: Mute: (its text cannot be had: RuntimeError)" in caplog.text


async def test_what_is_told_of_failures_may_fail_itself(caplog: pytest.LogCaptureFixture) -> None:
    dispatcher, seen = new(), []

    def bad(failure: Any) -> None:
        seen.append(failure)
        raise RuntimeError("bad callback")

    dispatcher.core.on_failure = bad

    async def handle(order: Order) -> None:
        raise KeyError(order.number)

    dispatcher.events.bind(Order, handle)
    async with running(dispatcher):
        for number in range(3):
            await dispatcher.handle(Order(number), key="k")
        await handled(dispatcher)
    assert [one.message.number for one in seen] == [0, 1, 2]
    assert "what is told of failed handlers failed itself" in caplog.text


@pytest.mark.parametrize("later", [False, True])
async def test_a_handler_that_raises_cancelled_error_holds_nobody_up(later: bool) -> None:
    dispatcher, seen = new(engine_workers=1), []
    found = failures(dispatcher)

    async def handle(order: Order) -> None:
        if later:
            await asyncio.sleep(0)
        seen.append((order.number, asyncio.current_task()))
        raise asyncio.CancelledError

    dispatcher.events.bind(Order, handle)
    async with running(dispatcher):
        for number in range(20):
            await dispatcher.handle(Order(number), key=number % 2)
        await handled(dispatcher)
    assert [number for number, _ in seen] == list(range(20))
    assert len(found) == 20
    # The worker goes on.
    assert len({task for _, task in seen}) == 1


# Cancellation


def three(dispatcher: Any) -> list[Gate]:
    gates = [Gate() for _ in range(3)]
    for gate in gates:
        dispatcher.events.bind(Order, gate, argname="message")
    return gates


async def test_who_is_cancelled_cancels_the_handlers_and_waits_for_their_end() -> None:
    dispatcher, order, opened = new(), [], asyncio.Event()

    async def tidy(message: Order) -> None:
        try:
            await opened.wait()
        finally:
            await asyncio.sleep(0)
            order.append(f"tidied up {message.number}")

    dispatcher.events.bind(Order, tidy)
    gates = three(dispatcher)
    found = failures(dispatcher)
    async with running(dispatcher):
        waiting = asyncio.ensure_future(dispatcher.handle(Order(0), "k", True))
        await until(lambda: all(gate.entered for gate in gates))
        await dispatcher.handle(Order(1), "k")
        waiting.cancel()
        assert isinstance(await caught(waiting), asyncio.CancelledError)
        assert order == ["tidied up 0"]
        assert all(gate.cancelled == [Order(0)] for gate in gates)
        assert found == []
        # The next with its key is handled.
        opened.set()
        for gate in gates:
            gate.open()
    assert order == ["tidied up 0", "tidied up 1"]
    assert all(gate.ended == [Order(1)] for gate in gates)


@pytest.mark.parametrize("key", [None, "k"])
async def test_handlers_that_have_not_begun_when_their_caller_is_cancelled_never_do(key: str | None) -> None:
    dispatcher = new(engine_workers=1)
    blocker = Gate()
    dispatcher.events.bind(Paid, blocker, argname="message")
    gates = three(dispatcher)
    async with running(dispatcher):
        await dispatcher.handle(Paid())
        await until(lambda: blocker.entered)
        waiting = asyncio.ensure_future(dispatcher.handle(Order(), key, True))
        await turns(3)
        waiting.cancel()
        # At once, though there is no slot.
        assert isinstance(await caught(waiting), asyncio.CancelledError)
        assert dispatcher.events.locks == {}
        blocker.open()
    assert all(gate.entered == [] for gate in gates)


async def test_a_failure_that_its_cancelled_caller_does_not_get_is_reported(
    dispatcher: Dispatcher, gate: Gate
) -> None:
    found = failures(dispatcher)

    async def fails(order: Order) -> None:
        raise KeyError("early")

    async def fails_late(order: Order) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("late")

    dispatcher.events.bind(Order, fails)
    dispatcher.events.bind(Order, fails_late)
    dispatcher.events.bind(Order, gate, argname="message")
    async with running(dispatcher):
        waiting = asyncio.ensure_future(dispatcher.handle(Order(), wait_for_response=True))
        await until(lambda: gate.entered)
        await turns(2)
        waiting.cancel()
        assert isinstance(await caught(waiting), asyncio.CancelledError)
    assert [repr(one.exception) for one in found] == ["KeyError('early')", "ValueError('late')"]


@pytest.mark.parametrize("later", [False, True])
async def test_a_worker_goes_on_after_it_was_cancelled_for_one_message(later: bool) -> None:
    dispatcher, tasks = new(engine_workers=2), []

    async def stubborn(order: Order) -> None:
        tasks.append(asyncio.current_task())
        if order.number:
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if later:
                raise

    dispatcher.events.bind(Order, stubborn)
    dispatcher.events.bind(Order, Gate(), argname="message")
    async with running(dispatcher):
        waiting = asyncio.ensure_future(dispatcher.handle(Order(), wait_for_response=True))
        await until(lambda: tasks)
        await turns(2)
        waiting.cancel()
        await caught(waiting)
        (worker,) = tasks
        assert worker.cancelling() == 0


# Limits


async def test_each_handler_has_the_time_that_the_message_has(dispatcher: Dispatcher) -> None:
    found = failures(dispatcher)
    gates = three(dispatcher)
    async with running(dispatcher):
        await dispatcher.handle(Order(), timeout=0.01)
        await until(lambda: len(found) == 3)
        assert all(gate.cancelled for gate in gates)
        assert {type(one.exception) for one in found} == {DispatchTimeout}
        assert dispatcher.events.failed == 3


async def test_time_passes_in_the_queue_too() -> None:
    dispatcher = new(engine_workers=1)
    found = failures(dispatcher)
    blocker, gate = Gate(), Gate()
    dispatcher.events.bind(Paid, blocker, argname="message")
    dispatcher.events.bind(Order, gate, argname="message")
    async with running(dispatcher):
        await dispatcher.handle(Paid())
        await until(lambda: blocker.entered)
        await dispatcher.handle(Order(), timeout=1e-9)
        blocker.open()
        await until(lambda: found)
        assert (type(found[0].exception), gate.entered) == (DispatchTimeout, [])
        assert dispatcher.events.failed == 1


async def test_who_waits_gets_the_timeout_and_nothing_is_reported(dispatcher: Dispatcher) -> None:
    found = failures(dispatcher)
    gates = three(dispatcher)
    async with running(dispatcher):
        problem = await caught(dispatcher.handle(Order(), wait_for_response=True, timeout=0.01))
        assert isinstance(problem, DispatchTimeout)
        assert all(gate.cancelled for gate in gates)
        assert found == []


# What a handler leaves behind


async def test_events_are_kept_for_the_handler_that_adds_them() -> None:
    dispatcher, paid = new(), []

    def add(number: int) -> None:
        async def handle(order: Order) -> None:
            add_event(Paid(number))
            if number % 2:
                await asyncio.sleep(0)
            if number % 3 == 0:
                raise ValueError(number)

        dispatcher.events.bind(Order, handle)

    for number in range(6):
        add(number)

    async def on_paid(event: Paid) -> None:
        paid.append(event.number)

    dispatcher.events.bind(Paid, on_paid)
    async with running(dispatcher):
        await dispatcher.handle(Order())
        await handled(dispatcher)
    assert sorted(paid) == [1, 2, 4, 5]


async def test_what_is_added_when_the_handler_has_ended_is_refused() -> None:
    dispatcher, problems = new(), []
    go_on = asyncio.Event()

    async def later() -> None:
        await go_on.wait()
        try:
            add_event(Paid())
        except DispatchError as exc:
            problems.append(str(exc))

    tasks = []

    async def handle(order: Order) -> None:
        tasks.append(asyncio.ensure_future(later()))
        if order.number:
            await asyncio.sleep(0)

    dispatcher.events.bind(Order, handle)
    dispatcher.commands.bind(Paid, handle, argname="order")
    async with running(dispatcher):
        await dispatcher.handle(Order(0))
        await dispatcher.handle(Order(1))
        await dispatcher.handle(Order(1), wait_for_response=True)
        await dispatcher.handle(Paid(1), wait_for_response=True)
        await handled(dispatcher)
        go_on.set()
        await within(asyncio.gather(*tasks))
    assert len(problems) == 4
    assert problems[0].startswith("events are added while a message is handled; elsewhere send them by ")
