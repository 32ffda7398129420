"""How messages get to their handlers: waiting, keys, slots, nested messages and deadlocks."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from evbus.engine.handling.dispatch.dispatcher import Dispatcher
from evbus.errors import (
    DispatchDeadlock,
    DispatcherNotStarted,
    DispatcherStopped,
    DispatchTimeout,
    HandlerDoesNotExist,
    InvalidHeader,
)
from tests.dispatch.rig import Gate, Order, Paid, Urgent, caught, failures, new, running, turns, until, within

Handler = Callable[[Any], Coroutine[Any, Any, Any]]
HELD = (
    "with the key {key!r} is to be handled within a handler that holds this key, or waits for one that does, "
    "so neither could ever end; hand it over without wait_for_response, or with another key"
)


def bound(**handlers: Handler) -> Any:
    """Return a dispatcher with handlers of commands that are strings."""
    dispatcher = new()
    for name, handler in handlers.items():
        dispatcher.commands.bind(name, handler, argname="message")
    return dispatcher


async def echo(message: Any) -> Any:
    return message


# Handing over, and waiting


async def test_a_message_is_handed_over_and_handled_later() -> None:
    dispatcher, seen = new(), []

    async def handle(order: Order) -> int:
        seen.append(order.number)
        return order.number

    dispatcher.commands.bind(Order, handle)
    async with running(dispatcher):
        assert await dispatcher.commands.handle(Order(5)) is None
        assert seen == []
        await until(lambda: seen == [5])


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("timeout", [None, 60])
async def test_who_waits_gets_the_value_or_the_error(
    dispatcher: Dispatcher, key: str | None, timeout: float | None
) -> None:
    found = failures(dispatcher)

    async def handle(order: Order) -> int:
        await asyncio.sleep(0)
        if order.number < 0:
            raise KeyError(order.number)
        return order.number + 1

    dispatcher.commands.bind(Order, handle)
    async with running(dispatcher):
        assert await dispatcher.commands.handle(Order(5), key, True, timeout) == 6
        assert repr(await caught(dispatcher.handle(Order(-1), key, True, timeout))) == "KeyError(-1)"
        assert found == []
        assert dispatcher.commands.snapshot() == {
            "handlers": 1,
            "handled": 1,
            "failed": 1,
            "running": 0,
            "queued": 0,
            "keys": 0,
        }


async def test_an_awaited_handler_runs_in_the_task_of_its_caller() -> None:

    async def handle(message: Any) -> Any:
        return asyncio.current_task()

    dispatcher = bound(a=handle)
    async with running(dispatcher):
        assert await dispatcher.commands.handle("a", wait_for_response=True) is asyncio.current_task()
        assert await dispatcher.commands.handle("a", "k", True) is asyncio.current_task()


async def test_several_handlers_return_nothing() -> None:
    dispatcher, seen = new(), []

    def add(number: int) -> None:
        async def handle(order: Order) -> int:
            seen.append(number)
            return number

        dispatcher.events.bind(Order, handle)

    for number in range(3):
        add(number)
    async with running(dispatcher):
        assert await dispatcher.events.handle(Order(), wait_for_response=True) is None
    assert seen == [0, 1, 2]


async def test_messages_are_taken_only_while_the_dispatcher_runs() -> None:
    dispatcher = bound(a=echo)
    with pytest.raises(DispatcherNotStarted):
        await dispatcher.commands.handle("a")
    async with running(dispatcher):
        with pytest.raises(HandlerDoesNotExist, match="^commands: there is no handler for b; known: a$"):
            await dispatcher.commands.handle("b", wait_for_response=True)
    with pytest.raises(DispatcherStopped):
        await dispatcher.commands.handle("a")


async def test_what_can_be_no_key_no_timeout_and_no_headers_is_refused() -> None:
    dispatcher = bound(a=echo)
    async with running(dispatcher):
        for wait in (False, True):
            with pytest.raises(TypeError, match="^key is something hashable"):
                await dispatcher.commands.handle("a", ["k"], wait)
            with pytest.raises(ValueError, match="^timeout is a number of seconds"):
                await dispatcher.commands.handle("a", "k", wait, 0)
            wrong = (([1], "not list"), ({1: "a"}, "1 is a int"), ({"a": 2}, "'a' is a str"))
            for headers, said in wrong:
                with pytest.raises(InvalidHeader, match=f"^headers are a mapping of .*{said}"):
                    await dispatcher.commands.handle("a", "k", wait, None, headers)


# Cancellation and limits


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("timeout", [None, 60])
async def test_who_is_cancelled_cancels_the_handler(
    gate: Gate, key: str | None, timeout: float | None
) -> None:
    dispatcher = bound(a=gate)
    async with running(dispatcher):
        waiting = asyncio.ensure_future(dispatcher.handle("a", key, True, timeout))
        await until(lambda: gate.entered)
        waiting.cancel()
        assert isinstance(await caught(waiting), asyncio.CancelledError)
        assert gate.cancelled == ["a"]
        assert dispatcher.commands.locks == {}


@pytest.mark.parametrize("where", ["handler", "slot", "key", "nested"])
@pytest.mark.parametrize("cancel", [False, True])
async def test_time_ends_for_whatever_it_waits_for(where: str, cancel: bool) -> None:
    gate, ran = Gate(), []

    async def forever(message: Any) -> None:
        await Gate()(message)

    async def quick(message: Any) -> None:
        ran.append(message)

    async def nested(message: Any) -> None:
        await dispatcher.handle("quick", "k", True)

    dispatcher = bound(blocker=gate, forever=forever, quick=quick, nested=nested)
    dispatcher.bound(2 if where == "nested" else 1, 0)
    if where == "key":
        dispatcher.bound(0, 0)
    async with running(dispatcher):
        if where != "handler":
            await dispatcher.handle("blocker", "k")
            await until(lambda: gate.entered)
        names = {"handler": "forever", "slot": "quick", "key": "quick", "nested": "nested"}
        key = "k" if where == "key" else None
        if cancel:
            waiting = asyncio.ensure_future(dispatcher.handle(names[where], key, True))
            await turns(5)
            waiting.cancel()
            assert isinstance(await caught(waiting), asyncio.CancelledError)
        else:
            problem = await caught(dispatcher.handle(names[where], key, True, 0.01))
            assert isinstance(problem, DispatchTimeout)
            assert problem.message == names[where]
        # It does not happen later on, and holds nobody up.
        gate.open()
        await dispatcher.handle("quick", "k", True)
        assert ran == ["quick"]


async def test_a_stop_waits_for_nobody_who_gave_up(gate: Gate) -> None:
    dispatcher = bound(a=gate, b=echo)
    dispatcher.bound(1, 0)
    async with running(dispatcher):
        await dispatcher.handle("a")
        await until(lambda: gate.entered)
        for key in (None, "k"):
            assert isinstance(await caught(dispatcher.handle("b", key, True, 0.001)), DispatchTimeout)
        gate.open()
        assert (await within(dispatcher.stop(1_000))).unhandled == {}


# Keys


async def test_messages_with_one_key_are_handled_in_order_and_one_at_a_time() -> None:
    dispatcher, seen, now = new(), [], 0

    async def handle(order: Order) -> None:
        nonlocal now
        now += 1
        assert now == 1
        await turns(order.number % 3)
        seen.append(order.number)
        now -= 1

    dispatcher.events.bind(Order, handle)
    async with running(dispatcher):
        callers = []
        for number in range(30):
            if number % 4:
                await dispatcher.handle(Order(number), "k")
            else:
                callers.append(asyncio.ensure_future(dispatcher.handle(Order(number), "k", True)))
                await turns(1)
        await within(asyncio.gather(*callers))
        await until(lambda: len(seen) == 30)
    assert seen == list(range(30))


async def test_different_keys_are_handled_at_the_same_time(gate: Gate) -> None:
    dispatcher = bound(a=gate)
    async with running(dispatcher):
        for key in range(50):
            await dispatcher.handle("a", key)
            await dispatcher.handle("a", key)
        await until(lambda: len(gate.entered) == 50)
        await turns(5)
        assert len(gate.entered) == 50
        assert dispatcher.commands.snapshot()["keys"] == dispatcher.commands.snapshot()["queued"] == 50
        gate.open()
        await until(lambda: len(gate.ended) == 100)


async def test_the_next_with_a_key_comes_when_all_handlers_of_the_one_before_have_ended() -> None:
    dispatcher, seen = new(), []

    async def slow(order: Order) -> None:
        await turns(10)
        seen.append(f"slow {order.number}")

    async def quick(order: Order) -> None:
        seen.append(f"quick {order.number}")
        if not order.number:
            raise KeyError

    dispatcher.events.bind(Order, slow)
    dispatcher.events.bind(Order, quick)
    async with running(dispatcher):
        await dispatcher.handle(Order(0), "k")
        await dispatcher.handle(Order(1), "k", True)
    assert seen == ["quick 0", "slow 0", "quick 1", "slow 1"]


@pytest.mark.parametrize("wait", [False, True])
async def test_many_keys_leave_nothing_behind(wait: bool) -> None:
    dispatcher, count = new(), 0

    async def handle(order: Order) -> None:
        nonlocal count
        count += 1

    dispatcher.events.bind(Order, handle)
    order = Order()

    async def send(first: int, last: int) -> None:
        for key in range(first, last):
            await dispatcher.events.handle(order, key, wait)
        await until(lambda: count == last)
        await turns(5)

    async with running(dispatcher):
        await send(0, 12_000)
        gc.collect()
        before = sys.getallocatedblocks()
        await send(12_000, 32_000)
        gc.collect()
        assert sys.getallocatedblocks() - before < 1_000
        assert dispatcher.events.locks == {}


# Slots and nested messages


@pytest.mark.parametrize("workers", [1, 3])
async def test_no_more_handlers_run_than_there_are_workers(workers: int) -> None:
    dispatcher, now, most, count = new(engine_workers=workers), [0, 0], [0, 0], 0

    def handler(place: int) -> Handler:
        async def handle(order: Order) -> None:
            nonlocal count
            now[place] += 1
            most[place] = max(most[place], now[place])
            await turns(order.number % 3)
            now[place] -= 1
            count += 1

        return handle

    for _ in range(3):
        dispatcher.events.bind(Order, handler(0), argname="order")
    dispatcher.commands.bind(Order, handler(1), argname="order")
    async with running(dispatcher):
        callers = []
        for number in range(20):
            await dispatcher.events.handle(Order(number), number % 7 or None)
            await dispatcher.commands.handle(Order(number))
            for router in (dispatcher.events, dispatcher.commands):
                callers.append(asyncio.ensure_future(router.handle(Order(number), None, True)))  # noqa: PERF401
        await within(asyncio.gather(*callers))
        await until(lambda: count == 20 * 8)
    # Each router has its own.
    assert most == [workers, workers]


async def test_what_is_handled_within_another_message_needs_no_slot_of_its_own() -> None:
    dispatcher = new(engine_workers=1)
    seen = []

    async def outer(order: Order) -> Any:
        await dispatcher.events.handle(Paid(1), "k", True)
        return await dispatcher.queries.handle("inner", wait_for_response=True)

    async def inner(message: str) -> str:
        return await dispatcher.commands.handle("innermost", "k", True)

    async def on_paid(event: Paid) -> None:
        await asyncio.sleep(0)
        seen.append(event.number)

    dispatcher.commands.bind(Order, outer)
    dispatcher.queries.bind("inner", inner)
    dispatcher.commands.bind("innermost", echo, argname="message")
    dispatcher.events.bind(Paid, on_paid)
    dispatcher.events.bind(object, on_paid, argname="event")
    async with running(dispatcher):
        answers = await within(
            asyncio.gather(*(dispatcher.commands.handle(Order(), None, True) for _ in range(5)))
        )
    assert answers == ["innermost"] * 5
    assert seen == [1] * 10


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("handlers", [1, 2])
async def test_a_call_that_waits_for_a_key_leaves_its_slot_to_who_holds_it(wait: bool, handlers: int) -> None:
    dispatcher, seen, gate = new(engine_workers=1), [], Gate()

    async def outer(order: Order) -> None:
        seen.append("outer")
        # Whoever holds this key waits for the only slot.
        await dispatcher.events.handle(Paid(), "k", True)
        seen.append("outer ends")

    async def on_paid(event: Paid) -> None:
        seen.append("paid")

    async def another(event: Paid) -> None:
        await asyncio.sleep(0)

    dispatcher.events.bind("gate", gate, argname="message")
    dispatcher.events.bind(Order, outer)
    for handler in (on_paid, another)[:handlers]:
        dispatcher.events.bind(Paid, handler)
    async with running(dispatcher):
        await dispatcher.handle("gate")
        await until(lambda: gate.entered)
        task = asyncio.ensure_future(dispatcher.events.handle(Order(), None, wait))
        await turns(1)
        await dispatcher.events.handle(Paid(), "k")
        gate.open()
        await until(lambda: "outer ends" in seen)
        await within(task)
    assert seen == ["outer", "paid", "paid", "outer ends"]


async def test_a_handler_goes_on_when_it_has_a_slot_again() -> None:
    dispatcher = new(engine_workers=1)
    holder, other, seen = Gate(), Gate(), []

    async def outer(order: Order) -> None:
        await dispatcher.commands.handle("held", "k", True)
        seen.append("outer")

    dispatcher.commands.bind("held", holder, argname="message")
    dispatcher.commands.bind("other", other, argname="message")
    dispatcher.events.bind(Order, outer)
    dispatcher.events.bind(Paid, other, argname="message")
    async with running(dispatcher):
        await dispatcher.commands.handle("held", "k")
        await until(lambda: holder.entered)
        await dispatcher.handle(Order())
        await until(lambda: dispatcher.commands.locks["k"].waiting)
        await dispatcher.handle(Paid())
        await until(lambda: other.entered)
        holder.open()
        await turns(20)
        # Its key is free, and its slot is not.
        assert holder.entered == ["held"]
        assert dispatcher.events.pool.active == 1
        other.open()
        await until(lambda: seen)


# Deadlocks


@pytest.mark.parametrize("via", ["call", "task", "gather", "timeout"])
async def test_the_same_key_within_its_own_handler_is_a_deadlock(via: str) -> None:

    async def outer(message: Any) -> None:
        call = dispatcher.handle("inner", "k", True, 60 if via == "timeout" else None)
        if via == "task":
            await asyncio.ensure_future(call)
        elif via == "gather":
            await asyncio.gather(call, asyncio.sleep(0))
        else:
            await call

    dispatcher = bound(outer=outer, inner=echo)
    found = failures(dispatcher)
    async with running(dispatcher):
        problem = await caught(dispatcher.handle("outer", "k", True))
        assert isinstance(problem, DispatchDeadlock)
        assert str(problem) == "commands: inner " + HELD.format(key="k")
        await dispatcher.handle("outer", "k")
        await until(lambda: found)
        assert isinstance(found[0].exception, DispatchDeadlock)


async def test_the_same_key_further_below_is_a_deadlock_too() -> None:

    async def outer(message: Any) -> Any:
        return await dispatcher.handle("middle", wait_for_response=True)

    async def middle(message: Any) -> Any:
        return await dispatcher.handle("last", "other", True)

    async def last(message: Any) -> Any:
        return await dispatcher.handle("inner", "k", True)

    dispatcher = bound(outer=outer, middle=middle, last=last, inner=echo)
    async with running(dispatcher):
        assert isinstance(await caught(dispatcher.handle("outer", "k", True)), DispatchDeadlock)
        assert await dispatcher.handle("last", "other", True) == "inner"


async def test_keys_of_different_routers_are_different(dispatcher: Dispatcher) -> None:

    async def outer(message: Any) -> Any:
        return await dispatcher.queries.handle("inner", "k", True)

    dispatcher.commands.bind("outer", outer)
    dispatcher.queries.bind("inner", echo)
    async with running(dispatcher):
        assert await dispatcher.commands.handle("outer", "k", True) == "inner"


async def test_the_same_key_may_be_handed_over_within_its_handler() -> None:
    seen = []

    async def outer(message: Any) -> None:
        await dispatcher.handle("inner", "k")
        await turns(3)
        seen.append("outer")

    async def inner(message: Any) -> None:
        seen.append("inner")

    dispatcher = bound(outer=outer, inner=inner)
    async with running(dispatcher):
        await dispatcher.handle("outer", "k", True)
        await until(lambda: len(seen) == 2)
    assert seen == ["outer", "inner"]


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("workers", [1, 100])
@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("via", ["call", "gather", "events"])
async def test_handlers_that_wait_for_each_other_in_a_circle_are_a_deadlock(
    count: int, workers: int, wait: bool, via: str
) -> None:
    """One of them gets the error, and then the others go on."""

    dispatcher = new(engine_workers=workers)
    holding, all_hold = 0, asyncio.Event()
    problems: list[BaseException | None] = []

    async def outer(order: Order) -> None:
        nonlocal holding
        holding += 1
        if holding == count:
            all_hold.set()
        # With one worker the others come when this one waits for a key.
        if workers > 1:
            await all_hold.wait()
        call = dispatcher.queries.handle("inner", (order.number + 1) % count, True)
        try:
            await (asyncio.gather(call, asyncio.sleep(0)) if via == "gather" else call)
        except DispatchDeadlock as exc:
            problems.append(exc)
            raise
        problems.append(None)

    async def hold(order: Order) -> Any:
        # The key of the query is held by a command within it.
        return await dispatcher.commands.handle(order, wait_for_response=True)

    async def inner(message: Any) -> Any:
        return message

    dispatcher.queries.bind(Order, hold)
    dispatcher.queries.bind("inner", inner)
    dispatcher.commands.bind(Order, outer)
    if via == "events":
        dispatcher.events.bind(Order, hold, argname="order")
    found = failures(dispatcher)
    async with running(dispatcher):
        tasks = []
        for number in range(count):
            if wait:
                asked = dispatcher.queries.handle(Order(number), number, True)
                tasks.append(asyncio.ensure_future(asked))
            else:
                await dispatcher.queries.handle(Order(number), number)
        done = await within(asyncio.gather(*tasks, return_exceptions=True))
        await until(lambda: len(problems) == count)
        await until(lambda: dispatcher.queries.idle(set()))
    failed = [one for one in problems if one is not None]
    assert len(failed) == 1 or workers == 1
    assert len([one for one in done if one] if wait else found) == len(failed)
    for one in failed:
        assert str(one).startswith("queries: inner with the key ")


async def test_a_queued_message_that_waits_for_who_waits_for_it_is_a_deadlock(gate: Gate) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def first(message: Any) -> None:
        started.set()
        await go_on.wait()
        await dispatcher.handle("echo", "two", True)

    async def second(message: Any) -> None:
        await dispatcher.handle("echo", "one", True)

    dispatcher = bound(first=first, second=second, echo=echo, gate=gate)
    found = failures(dispatcher)
    async with running(dispatcher):
        await dispatcher.handle("gate", "two")
        waiting = asyncio.ensure_future(dispatcher.handle("first", "one", True))
        await within(started.wait())
        await dispatcher.handle("second", "two")
        go_on.set()
        await until(lambda: len(dispatcher.commands.locks["two"].waiting) == 2)
        gate.open()
        await within(waiting)
        assert [type(one.exception) for one in found] == [DispatchDeadlock]


async def test_who_waits_for_a_key_that_becomes_free_is_no_deadlock(gate: Gate) -> None:

    async def outer(message: Any) -> Any:
        return await dispatcher.handle("inner", "two", True)

    dispatcher = bound(gate=gate, outer=outer, inner=echo)
    async with running(dispatcher):
        holder = asyncio.ensure_future(dispatcher.handle("gate", "two", True))
        await until(lambda: gate.entered)
        waiting = [asyncio.ensure_future(dispatcher.handle("outer", n, True)) for n in range(5)]
        await turns(5)
        gate.open()
        assert await within(asyncio.gather(holder, *waiting)) == ["gate", *["inner"] * 5]


# Tasks that outlive their handler


async def test_a_task_that_outlives_its_handler_is_nobody_s_deadlock() -> None:
    tasks = []

    async def outer(message: Any) -> None:
        async def later() -> Any:
            await go_on.wait()
            return await dispatcher.handle("inner", "k", True)

        tasks.append(asyncio.ensure_future(later()))

    go_on = asyncio.Event()
    dispatcher = bound(outer=outer, inner=echo)
    async with running(dispatcher):
        await dispatcher.handle("outer", "k", True)
        await dispatcher.handle("outer", "k")
        await until(lambda: len(tasks) == 2 and not dispatcher.commands.locks)
        go_on.set()
        assert await within(asyncio.gather(*tasks)) == ["inner"] * 2


async def test_a_task_that_outlives_its_handler_needs_slots_like_everybody() -> None:
    gate, tasks = Gate(), []

    async def outer(message: Any) -> None:
        tasks.extend(
            asyncio.ensure_future(dispatcher.handle("gate", wait_for_response=True)) for _ in range(5)
        )

    dispatcher = bound(outer=outer, gate=gate)
    dispatcher.bound(2, 0)
    async with running(dispatcher):
        await dispatcher.handle("outer")
        await until(lambda: gate.entered)
        await turns(10)
        assert len(gate.entered) == dispatcher.commands.pool.active == 2
        gate.open()
        await within(asyncio.gather(*tasks))


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("handlers", [1, 2])
async def test_what_outlives_its_handler_has_the_slot_and_a_stop_waits_for_it(
    wait: bool, handlers: int
) -> None:
    dispatcher = new(engine_workers=1)
    gates, tasks = [Gate() for _ in range(handlers)], []

    async def outer(order: Order) -> None:
        tasks.append(asyncio.ensure_future(dispatcher.handle(Paid(), wait_for_response=True)))
        await until(lambda: all(gate.entered for gate in gates))

    dispatcher.events.bind(Order, outer)
    for gate in gates:
        dispatcher.events.bind(Paid, gate, argname="message")
    async with running(dispatcher):
        await dispatcher.handle(Order(), wait_for_response=wait)
        await until(lambda: all(gate.entered for gate in gates))
        await turns(5)
        assert dispatcher.events.pool.active == 1
        stopping = asyncio.ensure_future(dispatcher.stop())
        await turns(5)
        assert not stopping.done()
        for gate in gates:
            gate.open()
        await within(stopping)
        assert all(gate.ended for gate in gates)
        await within(asyncio.gather(*tasks))


# The backlog


async def test_a_sender_waits_while_too_much_waits_and_handlers_never_do() -> None:
    dispatcher = new(engine_workers=1, backlog=4)
    gate, sent = Gate(), []

    async def outer(order: Order) -> None:
        for _ in range(20):
            await dispatcher.handle(Paid())
        sent.append("handler")

    dispatcher.events.bind(Order, gate, argname="message")
    dispatcher.commands.bind("outer", outer, argname="order")

    async def on_paid(event: Paid) -> None:
        pass

    dispatcher.events.bind(Paid, on_paid)

    async def sender() -> None:
        for number in range(10):
            await dispatcher.handle(Order(number), number % 2 or None)
            sent.append(number)

    async with running(dispatcher):
        task = asyncio.ensure_future(sender())
        await until(lambda: gate.entered)
        await turns(10)
        assert len(sent) < 8
        assert dispatcher.events.snapshot()["queued"] <= 5
        await within(dispatcher.commands.handle("outer", wait_for_response=True))
        gate.open()
        await within(task)
        await until(lambda: len(gate.ended) == 10)
    assert sent[-1] == 9


async def test_no_more_wait_than_may_though_many_senders_do() -> None:
    dispatcher = new(engine_workers=1, backlog=4)
    most, count = 0, 0

    async def handle(order: Order) -> None:
        nonlocal most, count
        most = max(most, dispatcher.events.snapshot()["queued"])
        count += 1
        await asyncio.sleep(0)

    dispatcher.events.bind(Order, handle)
    async with running(dispatcher):
        senders = [
            asyncio.ensure_future(dispatcher.handle(Order(n), "k" if n % 3 else None)) for n in range(100)
        ]
        await within(asyncio.gather(*senders))
        await until(lambda: count == 100)
    assert most <= 4


async def test_a_sender_that_waits_when_the_dispatcher_is_stopped_is_refused(gate: Gate) -> None:
    dispatcher = new(engine_workers=1, backlog=1)
    dispatcher.events.bind(Order, gate, argname="message")
    async with running(dispatcher):
        await dispatcher.handle(Order(0))
        await until(lambda: gate.entered)
        await dispatcher.handle(Order(1))
        sender = asyncio.ensure_future(dispatcher.handle(Order(2)))
        await turns(3)
        stopping = asyncio.ensure_future(dispatcher.stop())
        await turns(3)
        gate.open()
        await within(stopping)
        assert isinstance(await caught(sender), DispatcherStopped)
    assert gate.ended == [Order(0), Order(1)]


async def test_a_subclass_is_handled_like_its_base(dispatcher: Dispatcher, gate: Gate) -> None:
    gate.open()
    dispatcher.commands.bind(Order, gate, argname="message")
    async with running(dispatcher):
        assert await dispatcher.handle(Urgent(3), wait_for_response=True) == Urgent(3)
        assert "messages=1" in repr(dispatcher.commands)
