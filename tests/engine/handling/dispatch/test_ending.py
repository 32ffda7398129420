"""How a dispatcher is stopped: by whom, what is waited for, and what is given up."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from typing import Any

import pytest

from evbus.engine.handling.dispatch import dispatcher as dispatcher_module
from evbus.engine.handling.dispatch.dispatcher import Dispatcher, DispatchReport
from evbus.engine.handling.handler import add_event
from evbus.engine.handling.providers import Singleton
from evbus.errors import DispatcherNotStarted, DispatchError, DispatcherStopped
from tests.dispatch.rig import (
    Gate,
    Order,
    Paid,
    Urgent,
    assert_empty,
    caught,
    failures,
    new,
    running,
    turns,
    until,
    within,
)

LONG = 1_000.0


def gated(**options: Any) -> tuple[Any, Gate]:
    dispatcher, gate = new(**options), Gate()
    dispatcher.events.bind(Order, gate, argname="message")
    return dispatcher, gate


@pytest.fixture
def dispatcher(gate: Gate) -> Dispatcher:
    """Return one that has a gate for orders."""
    made = Dispatcher()
    made.events.bind(Order, gate, argname="message")
    return made


def test_a_report_says_what_was_not_handled() -> None:
    assert str(DispatchReport({}, 0.123)) == "every message was handled (0.1 s)"
    assert str(DispatchReport({"Paid": 1, "Order": 3}, 2)) == (
        "not handled when the dispatcher was stopped: 3 of Order, 1 of Paid (2.0 s)"
    )


# What is waited for


async def test_a_stop_waits_for_what_runs_and_what_is_queued() -> None:
    dispatcher, gate = gated(engine_workers=1)
    async with running(dispatcher):
        for number in range(4):
            await dispatcher.handle(Order(number), number % 2 or None)
        await until(lambda: gate.entered)
        stopping = asyncio.ensure_future(dispatcher.stop(LONG))
        await turns(5)
        assert not stopping.done()
        with pytest.raises(DispatcherStopped):
            await dispatcher.handle(Order(5))
        gate.open()
        report = await within(stopping)
        assert report.unhandled == {}
        assert report.seconds < LONG
        assert sorted(order.number for order in gate.ended) == [0, 1, 2, 3]


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("workers", [1, 10])
async def test_a_stop_waits_for_those_that_others_wait_for(key: str | None, workers: int) -> None:
    dispatcher, gate = gated(engine_workers=workers)
    async with running(dispatcher):
        callers = [asyncio.ensure_future(dispatcher.handle(Order(n), key, True)) for n in range(3)]
        await until(lambda: gate.entered)
        stopping = asyncio.ensure_future(dispatcher.stop(LONG))
        await turns(5)
        gate.open()
        await within(stopping)
        assert len(gate.ended) == 3
        await within(asyncio.gather(*callers))


async def test_handlers_go_on_sending_until_it_is_quiet() -> None:
    dispatcher, seen = new(engine_workers=1), []
    go_on = asyncio.Event()

    async def handle(order: Order) -> None:
        await go_on.wait()
        seen.append(order.number)
        if order.number < 5:
            await dispatcher.handle(Order(order.number + 1), "k")
            add_event(Paid(order.number))
            await dispatcher.commands.handle("note", wait_for_response=True)

    async def note(message: Any) -> None:
        seen.append("note" if isinstance(message, str) else "paid")

    dispatcher.events.bind(Order, handle)
    dispatcher.events.bind(Paid, note)
    dispatcher.commands.bind("note", note)
    async with running(dispatcher):
        await dispatcher.handle(Order(0))
        stopping = asyncio.ensure_future(dispatcher.stop(LONG))
        await turns(5)
        go_on.set()
        await within(stopping)
    assert sorted(map(str, seen)) == [*"012345", *["note"] * 5, *["paid"] * 5]


async def test_a_stop_waits_for_a_handler_that_has_given_its_slot_away() -> None:
    dispatcher, gate = gated(engine_workers=1)
    seen = []

    async def outer(message: Any) -> None:
        await dispatcher.events.handle(Order(1), "k", True)
        await turns(5)
        seen.append("outer")

    dispatcher.commands.bind("outer", outer)
    async with running(dispatcher):
        await dispatcher.handle(Order(0), "k")
        await until(lambda: gate.entered)
        task = asyncio.ensure_future(dispatcher.handle("outer", wait_for_response=True))
        await turns(3)
        assert dispatcher.commands.pool.active == 0
        stopping = asyncio.ensure_future(dispatcher.stop(LONG))
        await turns(3)
        gate.open()
        await within(stopping)
        assert seen == ["outer"]
        await within(task)


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_stop_waits_for_nobody_who_is_cancelled_meanwhile(key: str | None) -> None:
    dispatcher, gate = gated(engine_workers=1)
    async with running(dispatcher):
        first = asyncio.ensure_future(dispatcher.handle(Order(0), key, True))
        await until(lambda: gate.entered)
        others = [asyncio.ensure_future(dispatcher.handle(Order(n), key, True)) for n in (1, 2)]
        await turns(2)
        stopping = asyncio.ensure_future(dispatcher.stop(LONG))
        await turns(2)
        for task in (others[1], first, others[0]):
            task.cancel()
            await turns(2)
        await within(stopping)
        for task in (first, *others):
            assert isinstance(await caught(task), asyncio.CancelledError)
        assert gate.ended == []


# What is given up


@pytest.mark.parametrize("handlers", [1, 3])
async def test_what_is_not_handled_in_time_is_cancelled_and_counted_by_message(
    handlers: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        dispatcher = new(engine_workers=handlers)
        found = failures(dispatcher)
        gates = [Gate() for _ in range(handlers)]
        for gate in gates:
            dispatcher.events.bind(Order, gate, argname="message")
            dispatcher.events.bind(Paid, gate, argname="message")
        dispatcher.start()
        await dispatcher.handle(Order(0), "k")
        await until(lambda: all(gate.entered for gate in gates))
        for number in range(1, 4):
            await dispatcher.handle(Order(number), "k")
            await dispatcher.handle(Paid(number))
        waiting = [
            asyncio.ensure_future(dispatcher.handle(Urgent(), key, True)) for key in ("k", "other", None)
        ]
        await turns(3)
        report = await within(dispatcher.stop(0.01))
        # What others wait for is theirs to know.
        assert report.unhandled == {"Order": 4, "Paid": 3}
        assert report is dispatcher.report
        problems = [await caught(task) for task in waiting]
        assert [type(one) for one in problems] == [DispatcherStopped] * 3
        assert len({id(one) for one in problems}) == 3
        assert all(gate.cancelled == [Order(0)] for gate in gates)
        assert len(found) == 7 * handlers
        kinds = {type(one.exception) for one in found}
        assert kinds == {DispatcherStopped, asyncio.CancelledError}
        assert_empty(dispatcher)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "not handled when the dispatcher was stopped: 4 of Order, 3 of Paid ("
    )


async def test_what_is_given_up_may_not_send_anything_more(caplog: pytest.LogCaptureFixture) -> None:
    dispatcher, seen = new(), []
    begun = asyncio.Event()

    async def handle(order: Order) -> None:
        begun.set()
        add_event(Paid(1))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(await caught(dispatcher.handle(Paid(2))))

    async def on_paid(event: Paid) -> None:
        seen.append(event)

    dispatcher.events.bind(Order, handle)
    dispatcher.events.bind(Paid, on_paid)
    dispatcher.start()
    await dispatcher.handle(Order())
    await within(begun.wait())
    await within(dispatcher.stop(0))
    await turns(10)
    assert [type(one) for one in seen] == [DispatcherStopped]
    assert_empty(dispatcher)
    assert "an event that a handler sent is not handled: the dispatcher was stopped" in caplog.text


async def test_handlers_that_cannot_be_cancelled_are_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispatcher_module, "GRACE", 0.01)

    dispatcher, release = new(), asyncio.Event()
    begun = []

    async def stubborn(order: Order) -> None:
        begun.append(order)
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    dispatcher.events.bind(Order, stubborn)
    dispatcher.start()
    await dispatcher.handle(Order(0))
    task = asyncio.ensure_future(dispatcher.handle(Order(1), wait_for_response=True))
    await until(lambda: len(begun) == 2)
    await within(dispatcher.stop(0))
    assert dispatcher.events.pool.active == 2
    release.set()
    await within(task)
    await until(lambda: not dispatcher.events.pool._workers)
    assert_empty(dispatcher)
    assert "handlers that still run, as they cannot be cancelled or somebody awaits them: 2" in caplog.text


# By whom


@pytest.mark.parametrize("workers", [1, 100])
@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("via", ["events", "commands", "nested", "nested events", "task", "timeout"])
async def test_a_handler_that_stops_the_dispatcher_waits_for_the_others(
    workers: int, wait: bool, via: str
) -> None:
    dispatcher, gate = gated(engine_workers=workers)
    reports = []

    async def stop(message: Any) -> None:
        if via == "task":
            reports.append(await asyncio.ensure_future(dispatcher.stop(LONG)))
        else:
            reports.append(await dispatcher.stop(LONG))

    async def nothing(message: Any) -> None:
        await turns(2)

    async def nested(message: Any) -> None:
        await dispatcher.handle(Paid(), wait_for_response=True)

    name = "stop"
    if "nested" in via:
        name = "nested"
        dispatcher.commands.bind("nested", nested)
        dispatcher.events.bind(Paid, stop)
        if via == "nested events":
            dispatcher.events.bind(Paid, nothing)
    elif via == "events":
        dispatcher.events.bind("stop", nothing)
        dispatcher.events.bind("stop", stop)
    else:
        dispatcher.commands.bind("stop", stop)
    dispatcher.start()
    for number in range(3):
        await dispatcher.handle(Order(number), "k")
    limit = 60 if via == "timeout" else None
    task = asyncio.ensure_future(dispatcher.handle(name, "stops", wait, limit))
    await until(lambda: dispatcher.core.state.value == "stopping" or gate.entered)
    await turns(10)
    assert reports == []
    gate.open()
    await until(lambda: reports)
    await within(task)
    assert reports[0].unhandled == {}
    assert len(gate.ended) == 3
    await until(lambda: not any(router.pool.active for router in dispatcher.routers))
    await turns(3)
    assert_empty(dispatcher)


async def test_what_waits_for_the_key_of_a_handler_that_stops_is_given_up() -> None:
    dispatcher, seen = new(), []

    async def stop(order: Order) -> None:
        seen.append(order.number)
        await dispatcher.stop(LONG)
        await turns(5)

    dispatcher.events.bind(Order, stop)
    dispatcher.start()
    for number in range(3):
        await dispatcher.handle(Order(number), "k")
    waiting = asyncio.ensure_future(dispatcher.handle(Order(3), "k", True))
    await until(lambda: dispatcher.core.state.value == "stopped")
    assert isinstance(await caught(waiting), DispatcherStopped)
    await until(lambda: not dispatcher.events.pool.active)
    assert seen == [0]
    assert dispatcher.report.unhandled == {"Order": 2}
    assert_empty(dispatcher)


@pytest.mark.parametrize("wait", [False, True])
async def test_a_handler_that_stops_is_not_cancelled_with_the_others(
    dispatcher: Dispatcher, gate: Gate, wait: bool
) -> None:
    reports = []

    async def stop(message: Any) -> None:
        reports.append(await dispatcher.stop(0.01))

    dispatcher.commands.bind("stop", stop)
    dispatcher.commands.bind("nested", lambda_nested(dispatcher))
    dispatcher.start()
    await dispatcher.handle(Order())
    await until(lambda: gate.entered)
    await dispatcher.handle("nested", wait_for_response=wait)
    await until(lambda: reports)
    assert reports[0].unhandled == {"Order": 1}
    await until(lambda: not dispatcher.commands.pool.active)
    assert dispatcher.commands.failed == 0
    assert_empty(dispatcher)


def lambda_nested(dispatcher: Any) -> Any:
    async def nested(message: Any) -> None:
        await asyncio.gather(dispatcher.handle("stop", wait_for_response=True), asyncio.sleep(0))

    return nested


async def test_handlers_and_others_may_stop_it_together() -> None:
    dispatcher, gate = gated(engine_workers=2)
    reports = []

    async def stop(message: Any) -> None:
        await turns(3)
        reports.append(await dispatcher.stop(LONG))

    for name in "abcd":
        dispatcher.commands.bind(name, stop)
    dispatcher.start()
    await dispatcher.handle(Order())
    for name in "abcd":
        await dispatcher.handle(name, "k" if name < "c" else None)
    stops = [asyncio.ensure_future(dispatcher.stop(LONG)) for _ in range(2)]
    await turns(20)
    assert reports == []
    gate.open()
    found = await within(asyncio.gather(*stops))
    assert found[0] is found[1]
    await until(lambda: not dispatcher.commands.pool.active)
    # The second with the key waits for the first, which waits for it: it is given up.
    assert len(reports) == 3
    assert dispatcher.report.unhandled == {"b": 1}
    assert_empty(dispatcher)


async def test_a_stop_may_be_repeated_and_come_too_early(dispatcher: Dispatcher, gate: Gate) -> None:
    assert (await dispatcher.stop()).unhandled == {}
    with pytest.raises(DispatcherNotStarted):
        await dispatcher.handle(Order())
    dispatcher.start()
    await dispatcher.handle(Order())
    await until(lambda: gate.entered)
    report = await within(dispatcher.stop(0))
    assert report.unhandled == {"Order": 1}
    assert await dispatcher.stop() is report
    gate.open()
    async with running(dispatcher):
        await dispatcher.handle(Order(), wait_for_response=True)


async def test_a_stop_that_is_cancelled_gives_up_and_closes_all_the_same() -> None:
    dispatcher, gate = gated(engine_workers=1)

    class Repo:
        closed = False

        def close(self) -> None:
            self.closed = True

    repo = Repo()

    async def handle(message: Any, repo: Any) -> None:
        pass

    dispatcher.commands.bind("a", handle, argname="message", repo=Singleton["repo" : lambda: repo])
    dispatcher.start()
    for number in range(3):
        await dispatcher.handle(Order(number))
    await until(lambda: gate.entered)
    stopping = asyncio.ensure_future(dispatcher.stop(LONG))
    other = asyncio.ensure_future(dispatcher.stop(LONG))
    await turns(3)
    other.cancel()
    assert isinstance(await caught(other), asyncio.CancelledError)
    assert dispatcher.core.state.value == "stopping"
    stopping.cancel()
    assert isinstance(await caught(stopping), asyncio.CancelledError)
    assert dispatcher.core.state.value == "stopped"
    assert repo.closed
    assert dispatcher.report.unhandled == {"Order": 3}
    assert_empty(dispatcher)


# What comes from outside


def intake(dispatcher: Any, seen: list[str], *, stubborn: bool = False) -> asyncio.Task[None]:
    """Return a task that goes on for a while when it is cancelled, until it is cancelled again."""

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("asked")
            try:
                if stubborn:
                    await asyncio.Event().wait()
                else:
                    await dispatcher.handle(Order(9), wait_for_response=True)
            finally:
                seen.append("ended")

    task = asyncio.ensure_future(run())
    dispatcher.intakes.add(task)
    task.add_done_callback(dispatcher.intakes.discard)
    return task


async def test_what_comes_from_outside_ends_first(dispatcher: Dispatcher, gate: Gate) -> None:
    seen: list[str] = []
    gate.open()
    async with running(dispatcher):
        intake(dispatcher, seen)
        await turns(2)
        await within(dispatcher.stop(LONG))
    assert seen == ["asked", "ended"]
    assert gate.ended == [Order(9)]


@pytest.mark.parametrize("how", ["timeout", "hurry", "cancelled"])
async def test_what_comes_from_outside_is_not_waited_for_longer_than_the_rest(how: str) -> None:
    dispatcher, _ = gated()
    seen: list[str] = []
    async with running(dispatcher):
        intake(dispatcher, seen, stubborn=True)
        await turns(2)
        stopping = asyncio.ensure_future(dispatcher.stop(0.01 if how == "timeout" else LONG))
        await until(lambda: seen)
        if how == "hurry":
            dispatcher.hurry()
        elif how == "cancelled":
            stopping.cancel()
        problem = await caught(stopping)
        assert (how == "cancelled") == isinstance(problem, asyncio.CancelledError)
    assert seen == ["asked", "ended"]


# Signals


@pytest.fixture
def before() -> Any:
    """Return what handled both signals, and check that it does so again in the end."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    found = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("before")
async def test_a_signal_stops_the_dispatcher_and_a_second_one_hurries(
    dispatcher: Dispatcher, gate: Gate, number: signal.Signals
) -> None:
    dispatcher.start()
    await dispatcher.handle(Order())
    waiting = asyncio.ensure_future(dispatcher.wait_for_shutdown(LONG))
    await until(lambda: gate.entered)
    assert dispatcher.running
    os.kill(os.getpid(), number)
    await until(lambda: dispatcher.core.state.value == "stopping")
    await turns(5)
    assert not waiting.done()
    os.kill(os.getpid(), number)
    report = await within(waiting)
    assert report.unhandled == {"Order": 1}
    assert_empty(dispatcher)


@pytest.mark.usefixtures("before")
async def test_two_signals_at_once_hurry_too(dispatcher: Dispatcher, gate: Gate) -> None:
    dispatcher.start()
    await dispatcher.handle(Order())
    waiting = asyncio.ensure_future(dispatcher.wait_for_shutdown(LONG))
    await until(lambda: gate.entered)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    assert (await within(waiting)).unhandled == {"Order": 1}
    # The next start knows nothing of that.
    gate.open()
    async with running(dispatcher):
        await dispatcher.handle(Order())


@pytest.mark.usefixtures("before")
async def test_who_waits_for_a_signal_is_told_that_somebody_else_stops_it(
    dispatcher: Dispatcher, gate: Gate
) -> None:
    dispatcher.start()
    await dispatcher.handle(Order())
    early = [asyncio.ensure_future(dispatcher.wait_for_shutdown(LONG)) for _ in range(2)]
    await until(lambda: gate.entered)
    stopping = asyncio.ensure_future(dispatcher.stop(LONG))
    await turns(3)
    late = asyncio.ensure_future(dispatcher.wait_for_shutdown(LONG))
    await turns(3)
    # Those who wait know; this one hurries.
    os.kill(os.getpid(), signal.SIGTERM)
    reports = await within(asyncio.gather(stopping, late, *early))
    assert all(report is reports[0] for report in reports)
    with pytest.raises(DispatcherStopped):
        await dispatcher.wait_for_shutdown()


@pytest.mark.usefixtures("before")
async def test_who_waits_for_a_signal_may_be_cancelled(dispatcher: Dispatcher, gate: Gate) -> None:
    gate.open()
    with pytest.raises(DispatcherNotStarted):
        await dispatcher.wait_for_shutdown()
    async with running(dispatcher):
        first, second = (asyncio.ensure_future(dispatcher.wait_for_shutdown(LONG)) for _ in range(2))
        await turns(3)
        first.cancel()
        assert isinstance(await caught(first), asyncio.CancelledError)
        assert dispatcher.running
        # The other one still gets it.
        os.kill(os.getpid(), signal.SIGTERM)
        assert (await within(second)).unhandled == {}


@pytest.mark.usefixtures("before")
async def test_handlers_of_the_loop_and_of_the_program_are_back_afterwards() -> None:
    dispatcher, _ = gated()
    got = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, got.append, "loop")
    old = signal.signal(signal.SIGINT, lambda number, frame: got.append("program"))
    try:
        dispatcher.start()
        waiting = asyncio.ensure_future(dispatcher.wait_for_shutdown(LONG))
        await turns(3)
        os.kill(os.getpid(), signal.SIGINT)
        await within(waiting)
        assert got == []
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: len(got) == 2)
        assert sorted(got) == ["loop", "program"]
    finally:
        signal.signal(signal.SIGINT, old)
        loop.remove_signal_handler(signal.SIGTERM)


def test_only_the_main_thread_can_wait_for_signals() -> None:
    problems: list[Any] = []

    async def main() -> None:
        dispatcher, _ = gated()
        async with running(dispatcher):
            problems.append(await caught(dispatcher.wait_for_shutdown()))

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join()
    assert isinstance(problems[0], DispatchError)
    assert str(problems[0]).startswith("only the main thread can wait for signals; ")
