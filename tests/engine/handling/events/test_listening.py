"""A listener at work, on deliveries that a test makes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest

from evbus.engine.codec import json
from evbus.engine.core.broker import HANDLING
from evbus.engine.handling.events import listening as events_listening
from evbus.engine.handling.events import threads
from evbus.engine.handling.events.declare import listener_spec
from evbus.engine.handling.events.listener import made
from evbus.engine.handling.events.listening import Listening
from evbus.engine.handling.events.reader import Loader, Reader
from evbus.engine.handling.events.registry import EventTypes
from evbus.errors import DispatchTimeout, InvalidPayload, PayloadTooLarge, Rejected
from evbus.types import Origin
from tests.engine.core.lane.test_lane import Panic
from tests.evbus.rig import counts, turns, until
from tests.event.kit import SOON, WAIT, Gate, Got, OrderPlaced, Source, go, known

ORDER = known(OrderPlaced)
#: What ``accepted`` is the sum of.
PARTS = ("delivered", "dead", "dropped", "queued", "in_flight")
READER = Reader(lambda content_type: Loader(json.load, json.typed, json.exact_load), EventTypes().named)


class Letters(list[Any]):
    """Records what is dead; ``recorded`` is what it says of that, or what it raises."""

    recorded: Any = True

    async def dead_letter(self, dead: Any) -> bool:
        self.append(dead)
        if isinstance(self.recorded, Exception):
            raise self.recorded
        return bool(self.recorded)


@contextlib.asynccontextmanager
async def at_work(function: Any, letters: Letters | None = None, **options: Any) -> AsyncIterator[Listening]:
    spec = listener_spec(OrderPlaced, **{"retry": SOON, **options})
    letters = Letters() if letters is None else letters
    listener = made(function, "billing", None, spec.concurrency)
    listening = Listening(spec, listener, READER, letters.dead_letter)
    listening.begin(None)
    yield listening
    await listening.close(WAIT)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def letters() -> Letters:
    return Letters()


def give(listening: Listening, source: Source, *ids: str, **headers: str) -> None:
    for each in ids:
        listening.take(source.delivery({"id": each}, each, **headers), ORDER)


def failing(times: int, problem: BaseException | None = None) -> Any:
    """Return a listener that fails so often with each event, and what it was called with."""
    calls: list[str] = []

    async def on(event: Any) -> None:
        calls.append(event.id)
        if calls.count(event.id) <= times:
            raise problem or KeyError(event.id)

    return on, calls


async def test_a_delivery_is_settled_only_after_its_handler_has_ended() -> None:
    source, gate = Source(), Gate(lambda event: event.id)
    async with at_work(gate.on) as listening:
        give(listening, source, "a", "b")
        await gate.entered(1)
        assert source.told == []
        gate.release("a")
        assert await source.settled(1) == [("a", True, False)]
        assert await gate.entered(1) == ["b"]
        gate.release("b")
        assert await source.settled(2) == [("a", True, False), ("b", True, False)]
        assert await listening.wait_idle(WAIT)
        assert listening.snapshot()["handled"] == 2
        assert listening.idle


@pytest.mark.parametrize("concurrency", [1, 2, 5])
async def test_so_many_are_handled_at_once(concurrency: int) -> None:
    source, gate = Source(), Gate(lambda event: event.id)
    async with at_work(gate.on, concurrency=concurrency) as listening:
        give(listening, source, *"abcdefgh")
        assert "".join(await gate.entered(concurrency)) == "abcdefgh"[:concurrency]
        assert listening.snapshot()["running"] == concurrency
        assert listening.snapshot()["queued"] == 8 - concurrency
        gate.release(*"abcdefgh")
        await source.settled(8)
        assert gate.most == concurrency


async def test_so_many_plain_functions_run_at_once() -> None:
    source, barrier = Source(), threading.Barrier(9)
    async with at_work(lambda event: barrier.wait(WAIT), concurrency=9) as listening:
        give(listening, source, *"abcdefghi")
        assert {accepted for _, accepted, _ in await source.settled(9)} == {True}


# Failures


async def test_what_fails_is_tried_again_until_it_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "evbus.event"):
        (on, calls), source, letters = failing(2), Source(), Letters()
        async with at_work(on, letters) as listening:
            give(listening, source, "a")
            assert await source.settled(1) == [("a", True, False)]
            assert (calls, letters) == (["a"] * 3, [])
            assert counts(listening.snapshot(), "retried", "dead") == (2, 0)
    *failures, handled = caplog.messages
    assert len(failures) == 2
    # At the level of the failures, so that a log without INFO does not end with them.
    assert handled.startswith("listener billing: OrderPlaced is handled, at attempt 3 (")
    for said in failures:
        assert said.startswith("listener billing: OrderPlaced fails and is tried again: KeyError: 'a' (at ")
        assert f"{__file__}:" in said


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_what_fails_as_often_as_it_is_tried_is_dead(attempts: int) -> None:
    (on, calls), source, letters = failing(99), Source(), Letters()
    async with at_work(on, letters, retry={**SOON, "attempts": attempts}) as listening:
        give(listening, source, "a")
        assert await source.settled(1) == [("a", False, False)]
        assert calls == ["a"] * attempts
        (dead,) = letters
        assert (dead.listener, type(dead.reason), dead.attempts) == ("billing", KeyError, attempts)
        assert dead.envelope.body == b'{"id":"a"}'
        assert listening.snapshot()["dead"] == 1


async def test_with_no_attempts_named_it_is_tried_for_ever() -> None:
    (on, calls), source = failing(50), Source()
    async with at_work(on, retry={**SOON, "attempts": 0}) as listening:
        give(listening, source, "a")
        assert await source.settled(1) == [("a", True, False)]
        assert len(calls) == 51


def group(*problems: Exception) -> Exception:
    """Return what a ``TaskGroup`` raises."""
    return ExceptionGroup("unhandled errors in a TaskGroup", problems)


async def test_a_group_of_nothing_but_rejections_is_not_tried_again(source: Source, letters: Letters) -> None:
    on, calls = failing(9, group(Rejected("a"), group(Rejected("b"))))
    async with at_work(on, letters) as listening:
        give(listening, source, "a")
        assert await source.settled(1) == [("a", False, False)]
    assert calls == ["a"]


async def test_a_group_with_something_else_than_rejections_is_tried_again(source: Source) -> None:
    on, calls = failing(1, group(Rejected("a"), KeyError("b")))
    async with at_work(on) as listening:
        give(listening, source, "a")
        assert await source.settled(1) == [("a", True, False)]
    assert calls == ["a", "a"]


async def test_what_a_listener_rejects_is_not_tried_again() -> None:
    (on, calls), source, letters = failing(99, Rejected("no such customer")), Source(), Letters()
    async with at_work(on, letters) as listening:
        give(listening, source, "a")
        await source.settled(1)
        assert calls == ["a"]
        assert (str(letters[0].reason), letters[0].attempts) == ("no such customer", 1)


async def test_a_message_that_does_not_fit_is_dead_untried_and_counted() -> None:
    (on, calls), source, letters = failing(0), Source(), Letters()
    async with at_work(on, letters) as listening:
        listening.take(source.delivery({"total": "x"}, 1), ORDER)
        listening.take(source.delivery({}, 2, evbus_message="Unheard"), ORDER)
        assert await source.settled(2) == [(1, False, False), (2, False, False)]
        assert calls == []
        assert [type(dead.reason) for dead in letters] == [InvalidPayload] * 2
        assert str(letters[1].reason) == "it is a Unheard, and there is no event of that name here"
        assert [dead.attempts for dead in letters] == [0, 0]
        assert counts(listening.snapshot(), "unreadable", "dead", "handled") == (2, 2, 0)


@pytest.mark.parametrize("recorded", [False, OSError("disk full")])
async def test_what_is_dead_and_cannot_be_recorded_stays_with_its_source(
    recorded: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (on, _), source, letters = failing(99, Rejected("no")), Source(), Letters()
    letters.recorded = recorded
    async with at_work(on, letters) as listening:
        give(listening, source, "a")
        assert await listening.wait_idle(WAIT)
        assert source.told == []
    assert caplog.messages == ["listener billing: a dead event cannot be recorded, and stays where it is"]


@pytest.mark.parametrize("kind", ["plain", "asynchronous", "failing"])
async def test_on_error_is_told_of_what_was_given_up(kind: str) -> None:
    told: list[Any] = []

    def plain(event: Any, exception: Exception) -> None:
        told.append((event, exception))
        if kind == "failing":
            raise ValueError("in on_error")

    async def asynchronous(event: Any, exception: Exception) -> None:
        told.append((event, exception))

    problem, source = Rejected("no"), Source()
    on, _ = failing(99, problem)
    on_error = asynchronous if kind == "asynchronous" else plain
    async with at_work(on, on_error=on_error) as listening:
        give(listening, source, "a")
        listening.take(source.delivery([1], "b"), ORDER)
        await source.settled(2)
        await until(lambda: listening.idle)
    assert told[0] == (OrderPlaced("a"), problem)
    assert told[1][0] is None
    assert type(told[1][1]) is InvalidPayload


async def test_a_handler_that_takes_too_long_is_cancelled_and_tried_again(
    source: Source, letters: Letters
) -> None:
    cancelled: list[str] = []

    async def on(event: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(event.id)
            raise

    async with at_work(on, letters, timeout=1e-6) as listening:
        give(listening, source, "a")
        await source.settled(1)
    assert cancelled == ["a"] * 3
    assert type(letters[0].reason) is DispatchTimeout
    assert str(letters[0].reason) == "OrderPlaced was not handled within 1e-06 s"


async def test_a_handler_that_is_fast_enough_has_no_trouble_with_its_timeout() -> None:
    (on, calls), source = failing(0), Source()
    async with at_work(on, timeout=WAIT) as listening:
        give(listening, source, "a", "b")
        assert [accepted for _, accepted, _ in await source.settled(2)] == [True, True]
        assert calls == ["a", "b"]


async def test_the_pauses_between_attempts_are_those_of_its_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float, float]] = []

    def pause(failures: int, least: float, most: float) -> float:
        asked.append((failures, least, most))
        return 0

    monkeypatch.setattr(events_listening, "backoff", pause)
    (on, _), source = failing(99), Source()
    async with at_work(on, retry={"attempts": 4, "min": 2.5, "max": 60}) as listening:
        give(listening, source, "a")
        await source.settled(1)
    assert asked == [(1, 2.5, 60.0), (2, 2.5, 60.0), (3, 2.5, 60.0)]


# Cancellation


async def a_cancelled_task_of_its_own() -> None:
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    await task


async def a_cancellation() -> None:
    raise asyncio.CancelledError


async def the_end_of_the_program() -> None:
    sys.exit(2)


async def the_end_of_a_generator() -> None:
    await asyncio.sleep(0)
    raise GeneratorExit


async def a_panic() -> None:
    raise Panic("index out of bounds")


ENDS: list[Any] = [
    (a_cancelled_task_of_its_own, "cancelled from within"),
    (a_cancellation, "cancelled from within"),
    (the_end_of_the_program, "it raised SystemExit: 2"),
    (the_end_of_a_generator, "it raised GeneratorExit"),
    (a_panic, "it raised Panic: index out of bounds"),
]


@pytest.mark.parametrize("key", [None, "id"])
@pytest.mark.parametrize(("way", "reason"), ENDS, ids=[way.__name__ for way, _ in ENDS])
async def test_whatever_a_listener_ends_with_is_a_failed_attempt(
    source: Source, letters: Letters, way: Any, reason: str, key: str | None
) -> None:
    calls: list[str] = []

    async def on(event: Any) -> None:
        calls.append(event.id)
        if event.id == "bad":
            await way()

    async with at_work(on, letters, key=key) as listening:
        give(listening, source, "bad", "good")
        # What goes on is settled while the record of what is dead is written.
        assert sorted(await source.settled(2)) == [("bad", False, False), ("good", True, False)]
        assert counts(listening.snapshot(), "retried", "dead", "cancelled") == (2, 1, 0)
    assert calls == ["bad"] * 3 + ["good"]
    ((_, _, problem, attempts),) = letters
    assert reason in str(problem)
    assert attempts == 3


async def test_what_a_plain_listener_ends_its_thread_with_is_a_failed_attempt(
    source: Source, letters: Letters
) -> None:
    def on(event: Any) -> None:
        if event.id == "bad":
            sys.exit("no such customer")

    async with at_work(on, letters) as listening:
        give(listening, source, "bad", "good")
        assert await source.settled(2) == [("bad", False, False), ("good", True, False)]
    assert "SystemExit: no such customer" in str(letters[0].reason)


async def test_an_interceptor_that_ends_the_program_gives_its_event_up(
    source: Source, letters: Letters
) -> None:
    async def around(_envelope: Any, _handle: Any, _receiver: str, _descriptor: Any) -> None:
        sys.exit(2)

    async with at_work(Got().on, letters) as listening:
        listening.begin(around)
        give(listening, source, "bad")
        assert await source.settled(1) == [("bad", False, False)]
    assert "SystemExit" in str(letters[0].reason)


def test_an_interrupt_is_the_operators(source: Source, letters: Letters) -> None:
    async def on(_event: Any) -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        async with at_work(on, letters) as listening:
            give(listening, source, "a")
            await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert source.told == [("a", None, True)]
    assert letters == []


@pytest.mark.parametrize("outside", [True, False])
async def test_a_cancellation_of_its_worker_is_a_failed_attempt_and_the_listener_goes_on(
    caplog: pytest.LogCaptureFixture, outside: bool
) -> None:
    calls: list[str] = []

    async def on(event: Any) -> None:
        calls.append(event.id)
        if event.id == "bad" or calls.count(event.id) == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    with caplog.at_level(logging.WARNING, "evbus.event"):
        source, letters = Source(), Letters()
        async with at_work(on, letters) as listening:
            for each in ("bad", "good"):
                listening.take(source.delivery({"id": each}, each), ORDER, outside=outside)
            await source.settled(2)
            assert await listening.wait_idle(WAIT)
            found = counts(listening.snapshot(), "accepted", *PARTS, "cancelled", "retried")
            assert found == (2, 1, 1, 0, 0, 0, 4, 3)
        assert sorted(source.told) == [("bad", False, False), ("good", True, False)]
        assert [(dead.attempts, str(dead.reason)) for dead in letters] == [
            (3, "the task that handles it was cancelled")
        ]
    said = "listener billing: the handling of OrderPlaced was cancelled, and is tried again"
    handled = "listener billing: OrderPlaced is handled, at attempt 2 (event 'k')"
    assert sorted(caplog.messages) == [handled, *[said] * 3]
    assert sorted(calls) == ["bad"] * 3 + ["good"] * 2


async def test_an_interceptor_that_cancels_its_worker_does_not_do_so_for_ever(
    source: Source, letters: Letters
) -> None:
    async def around(_envelope: Any, _handle: Any, _receiver: str, _descriptor: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async with at_work(print, letters) as listening:
        listening.begin(around)
        give(listening, source, "a")
        assert await source.settled(1) == [("a", False, False)]
    assert [dead.attempts for dead in letters] == [3]


async def test_what_waits_for_its_next_try_is_dropped_with_what_it_came_over_and_given_back_at_the_end() -> (
    None
):
    async def on(event: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    source, origin = Source(), Origin()
    async with at_work(on, retry={"attempts": 9, "min": 60, "max": 60}) as listening:
        listening.take(over(source, origin, "gone"), ORDER, outside=True)
        give(listening, source, "back")
        await until(lambda: listening.snapshot()["cancelled"] == 2)
        assert listening.snapshot()["in_flight"] == 2
        assert not listening.idle
        listening.lost(origin)
        assert (listening.snapshot()["accepted"], source.told) == (1, [])
        await listening.close(WAIT)
        assert source.told == [("back", None, True)]
        assert (list(listening.tried.values()), listening.snapshot()["accepted"]) == ([1], 0)


def test_the_end_of_an_event_loop_is_not_held_up_by_tries() -> None:
    calls: list[str] = []

    async def on(event: Any) -> None:
        calls.append(event.id)
        await asyncio.Event().wait()

    async def main() -> None:
        source = Source()
        spec = listener_spec(OrderPlaced, retry={"attempts": 9, "min": 60, "max": 60})
        listening = Listening(spec, made(on, "billing", None, 1), READER, Letters().dead_letter)
        listening.begin(None)
        give(listening, source, "a")
        await until(lambda: calls)

    go(main)  # cancels what is left
    assert calls == ["a"]


# What is gone


def over(source: Source, origin: Origin, each: str) -> Any:
    delivery = source.delivery({"id": each}, each)
    delivery.origin = origin
    return delivery


@pytest.mark.parametrize("key", [None, lambda event: "the same"], ids=["no key", "one key"])
async def test_what_was_not_begun_is_dropped_with_what_it_came_over(key: Any) -> None:
    source, gate = Source(), Gate(lambda event: event.id)
    first, second = Origin(), Origin()
    async with at_work(gate.on, key=key, concurrency=2) as listening:
        first.watch(listening.lost)
        for each in "abcde":
            listening.take(over(source, first, each), ORDER, outside=True)
        begun = await gate.entered(1 if key else 2)
        await until(lambda: listening.snapshot()["queued"] == 5 - len(begun))
        first.end("the channel was closed")
        assert listening.snapshot()["queued"] == 0
        listening.take(over(source, second, "f"), ORDER, outside=True)
        gate.release(*"abcdef")
        told = await source.settled(len(begun) + 1)
        found = counts(listening.snapshot(), "accepted", "delivered", "queued", "in_flight", "keys")
        assert found == (len(begun) + 1, len(begun) + 1, 0, 0, 0)
    assert sorted(told) == [(each, True, False) for each in sorted([*begun, "f"])]
    assert sorted(gate.done) == sorted([*begun, "f"])


async def test_what_is_gone_is_not_tried_again() -> None:
    source, letters, origin = Source(), Letters(), Origin()
    on, calls = failing(10)

    async def ends(event: Any) -> None:
        origin.end("gone")
        await on(event)

    async with at_work(ends, letters) as listening:
        listening.take(over(source, origin, "a"), ORDER, outside=True)
        await until(lambda: listening.idle)
        assert counts(listening.snapshot(), "accepted", "dead", "in_flight") == (0, 0, 0)
    assert calls == ["a"]
    assert source.told == letters == []


@pytest.mark.parametrize("key", [None, lambda event: "the same"], ids=["no key", "one key"])
async def test_what_came_from_outside_and_was_not_begun_goes_back_at_once(key: Any) -> None:
    source, gate = Source(), Gate(lambda event: event.id)
    async with at_work(gate.on, key=key, concurrency=3) as listening:
        for each in "abcde":
            listening.take(source.delivery({"id": each}, each), ORDER, outside=each != "e")
        begun = await gate.entered(1 if key else 3)
        await until(lambda: listening.snapshot()["queued"] == 5 - len(begun))
        listening.give_back(outside=True)
        back = [each for each in "abcd" if each not in begun]
        assert source.told == [(each, None, True) for each in reversed(back)]
        gate.release(*"abcde")
        assert await listening.wait_idle(WAIT)
    assert sorted(gate.done) == sorted([*begun, "e"])


async def test_a_body_from_outside_that_is_too_large_is_dead_before_it_is_read() -> None:
    source, letters, got = Source(), Letters(), Got()
    async with at_work(got.on, letters) as listening:
        listening.begin(None, max_body=20)
        listening.take(source.delivery(b"{" * 21, "long"), ORDER, outside=True)
        listening.take(source.delivery({"id": "1234567890"}, "right"), ORDER, outside=True)
        listening.take(source.delivery({"id": "1234567890+"}, "own"), ORDER)
        told = sorted(await source.settled(3))
        assert told == [("long", False, False), ("own", True, False), ("right", True, False)]
        assert listening.snapshot()["unreadable"] == 1
    ((_, _, problem, attempts),) = letters
    assert (type(problem), attempts) == (PayloadTooLarge, 0)


async def test_every_event_of_a_listener_is_somewhere_at_every_moment() -> None:
    """The numbers are looked at from outside: what is in the gate is in flight."""

    source, gate, letters = Source(), Gate(lambda event: event.id), Letters()

    async def on(event: Any) -> None:
        await gate.on(event)
        if event.id in "ch":
            raise Rejected(event.id)

    async with at_work(on, letters, concurrency=3, key=lambda event: event.id.replace("b", "a")) as listening:
        give(listening, source, *"abcdefgh")
        for each in "bcadhefg":
            await turns(20)
            found = listening.snapshot()
            assert found["in_flight"] == len(gate.inside)
            assert found["accepted"] == 8 == sum(found[name] for name in PARTS)
            gate.release(each)
        assert await listening.wait_idle(WAIT)
        assert counts(listening.snapshot(), "accepted", *PARTS) == (8, 6, 2, 0, 0, 0)


async def test_at_its_end_a_listener_gives_back_what_it_handles_and_what_waits() -> None:
    source, gate = Source(), Gate(lambda event: event.id)
    async with at_work(gate.on) as listening:
        give(listening, source, *"abc")
        await gate.entered(1)
        await listening.close(WAIT)
        assert sorted(source.told) == [(each, None, True) for each in "abc"]
        assert listening.snapshot()["cancelled"] == 0
        assert listening.idle


def test_a_handler_that_ends_well_although_it_is_cancelled_has_handled_it() -> None:
    async def on(event: Any) -> None:
        inside.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async def main() -> None:
        nonlocal inside
        inside, source = asyncio.Event(), Source()
        async with at_work(on) as listening:
            give(listening, source, "a")
            await inside.wait()
        assert source.told == [("a", True, False)]

    inside = asyncio.Event()
    go(main)


# Keys


@pytest.mark.parametrize("key", ["id", lambda event: event.id], ids=["a name", "a function"])
async def test_one_key_after_the_other_while_different_keys_are_handled_at_once(key: Any) -> None:
    source, gate = Source(), Gate(lambda event: (event.id, event.total))
    async with at_work(gate.on, key=key, concurrency=2) as listening:
        for number, each in enumerate("aaab", 1):
            listening.take(source.delivery({"id": each, "total": number}, number), ORDER)
        # The second and third "a" wait for the first; "b" need not.
        assert await gate.entered(2) == [("a", 1.0), ("b", 4.0)]
        gate.release(("a", 1.0))
        await until(lambda: ("a", 2.0) in gate.inside)
        assert listening.snapshot()["keys"] == 2
        gate.release(("b", 4.0), ("a", 2.0), ("a", 3.0))
        await source.settled(4)
        assert [total for name, total in gate.done if name == "a"] == [1.0, 2.0, 3.0]
        assert gate.most == 2
        assert await listening.wait_idle(WAIT)
        assert listening.snapshot()["keys"] == 0


async def test_a_failure_and_its_retries_keep_the_turn_of_their_key(source: Source) -> None:
    done: list[float] = []
    tried: list[float] = []

    async def on(event: Any) -> None:
        tried.append(event.total)
        await asyncio.sleep(0)
        if tried.count(event.total) < 3:
            raise KeyError
        done.append(event.total)

    async with at_work(on, key="id", concurrency=4) as listening:
        for number in range(10):
            listening.take(source.delivery({"id": "a", "total": number}, number), ORDER)
        await source.settled(10)
    assert done == list(range(10))


async def test_a_key_that_cannot_be_one_makes_a_dead_event() -> None:
    (on, calls), source, letters = failing(0), Source(), Letters()
    async with at_work(on, letters, key=lambda event: [event.id]) as listening:
        give(listening, source, "a")
        assert await source.settled(1) == [("a", False, False)]
    assert calls == []
    assert "hashable" in str(letters[0].reason)


# Plain functions, which a thread does one after another


class Held:
    """A plain listener that waits in each event until it is let go, unless that was let go before.

    :ivar calls: the events that it was called with, in that order.
    :ivar most: how many were inside at once.
    """

    def __init__(self, *free: str) -> None:
        self.calls: list[str] = []
        self.inside: list[str] = []
        self.most = 0
        self._gates: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        self.release(*free)

    def on(self, event: Any) -> None:
        with self._lock:
            self.calls.append(event.id)
            self.inside.append(event.id)
            self.most = max(self.most, len(self.inside))
            gate = self._gates.setdefault(event.id, threading.Event())
        gate.wait(WAIT)
        with self._lock:
            self.inside.remove(event.id)

    def release(self, *ids: str) -> None:
        for each in ids:
            self._gates.setdefault(each, threading.Event()).set()

    async def entered(self, *ids: str) -> None:
        await until(lambda: sorted(self.inside) == [*ids])


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run of a thread take as long as it likes."""
    monkeypatch.setattr(threads, "SHARE", WAIT)


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("timeout", [None, WAIT])
async def test_what_a_thread_has_handled_is_settled_while_it_is_busy_with_the_next(
    timeout: float | None,
) -> None:
    source, held = Source(), Held("a", "b", "d")
    async with at_work(held.on, timeout=timeout) as listening:
        give(listening, source, *"abcd")
        assert await source.settled(2) == [("a", True, False), ("b", True, False)]
        await held.entered("c")
        assert counts(listening.snapshot(), "accepted", *PARTS) == (4, 2, 0, 0, 1, 1)
        held.release("c")
        assert [tag for tag, _, _ in await source.settled(4)] == [*"abcd"]


@pytest.mark.usefixtures("unhurried")
async def test_a_loop_that_is_busy_is_woken_once_for_all_that_a_thread_has_handled() -> None:
    loop, wakes, source = asyncio.get_running_loop(), list[Any](), Source()
    wake, busy, last = loop.call_soon_threadsafe, threading.Event(), threading.Event()

    def counted(call: Any, *args: Any, **kwargs: Any) -> Any:
        wakes.append(call)
        return wake(call, *args, **kwargs)

    def on(event: Any) -> None:
        assert busy.wait(WAIT)
        if event.id == "49":
            last.set()

    async with at_work(on) as listening:
        give(listening, source, *map(str, range(50)))
        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        await turns(3)
        busy.set()
        assert last.wait(WAIT)
        assert len(wakes) == 1
        assert await source.settled(50) == [(str(number), True, False) for number in range(50)]


@pytest.mark.parametrize("timeout", [None, WAIT])
async def test_retries_of_a_plain_function_keep_the_order(
    source: Source, letters: Letters, timeout: float | None
) -> None:
    calls: list[str] = []

    def on(event: Any) -> None:
        calls.append(event.id)
        if event.id in "bd" and calls.count(event.id) < (3 if event.id == "b" else 4):
            raise KeyError(event.id)

    async with at_work(on, letters, timeout=timeout) as listening:
        give(listening, source, *"abcde")
        told = await source.settled(5)
        assert counts(listening.snapshot(), "accepted", *PARTS, "retried") == (5, 4, 1, 0, 0, 0, 4)
    assert told == [(each, each != "d", False) for each in "abcde"]
    assert calls == [*"abbbcddde"]
    assert [(dead.attempts, type(dead.reason)) for dead in letters] == [(3, KeyError)]


async def test_what_cannot_be_read_is_dead_in_its_turn_and_not_tried_again() -> None:
    source, letters, calls = Source(), Letters(), list[str]()
    async with at_work(lambda event: calls.append(event.id), letters) as listening:
        listening.begin(None, max_body=20)
        give(listening, source, "a")
        listening.take(source.delivery(b"{", "bad"), ORDER)
        give(listening, source, "b")
        listening.take(source.delivery({"id": "b" * 20}, "large"), ORDER, outside=True)
        give(listening, source, "c")
        told = await source.settled(5)
    assert told == [(each, each in "abc", False) for each in ("a", "bad", "b", "large", "c")]
    assert calls == ["a", "b", "c"]
    assert [(type(dead.reason), dead.attempts) for dead in letters] == [
        (InvalidPayload, 0),
        (PayloadTooLarge, 0),
    ]


async def test_what_a_plain_function_returns_is_awaited_before_the_next_is_handled() -> None:
    done: list[str] = []

    async def later(each: str) -> None:
        await asyncio.sleep(0)
        done.append(each)
        if done.count(each) == 1:
            raise KeyError

    def on(event: Any) -> Any:
        if event.id == "b":
            return later("b")
        done.append(event.id)
        return None

    for timeout in (None, WAIT):
        source = Source()
        done.clear()
        async with at_work(on, timeout=timeout) as listening:
            give(listening, source, *"abc")
            assert [tag for tag, accepted, _ in await source.settled(3) if accepted] == [*"abc"]
        assert done == ["a", "b", "b", "c"]


async def test_what_a_plain_function_returns_to_be_awaited_has_what_is_left_of_its_time(
    source: Source, letters: Letters
) -> None:
    async with at_work(lambda event: asyncio.Event().wait(), letters, timeout=0.01) as listening:
        give(listening, source, "a")
        assert await source.settled(1) == [("a", False, False)]
    assert [(type(dead.reason), dead.attempts) for dead in letters] == [(DispatchTimeout, 3)]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_so_many_threads_at_most_handle_events_and_none_waits_behind_another(concurrency: int) -> None:
    source, names = Source(), [str(number) for number in range(60)]
    held = Held(*names)
    async with at_work(held.on, concurrency=concurrency) as listening:
        give(listening, source, "slow", *names)
        if concurrency > 1:
            await source.settled(60)
            await held.entered("slow")
        held.release("slow")
        await source.settled(61)
        assert await listening.wait_idle(WAIT)
    assert held.most <= concurrency
    assert sorted(held.calls) == sorted(["slow", *names])
    assert concurrency > 1 or held.calls == ["slow", *names]


async def test_plain_functions_handle_one_event_of_a_key_at_once_and_in_order(source: Source) -> None:
    seen: list[tuple[str, float]] = []
    inside: Counter[str] = Counter()

    def on(event: Any) -> None:
        inside[event.id] += 1
        seen.append((event.id, event.total))
        assert inside[event.id] == 1
        if event.total == 7 and seen.count((event.id, 7)) < 3:
            inside[event.id] -= 1
            raise KeyError
        inside[event.id] -= 1

    async with at_work(on, key="id", concurrency=4) as listening:
        for number in range(60):
            listening.take(source.delivery({"id": "abc"[number % 3], "total": number}, number), ORDER)
        assert {accepted for _, accepted, _ in await source.settled(60)} == {True}
    for each in "abc":
        totals = [total for name, total in seen if name == each]
        assert list(dict.fromkeys(totals)) == [number for number in range(60) if "abc"[number % 3] == each]


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_thread_begins_with_nothing_that_was_dropped_meanwhile(concurrency: int) -> None:
    source, held, first, second = Source(), Held("c", "d", "e", "f"), Origin(), Origin()
    async with at_work(held.on, concurrency=concurrency) as listening:
        first.watch(listening.lost)
        for each in "abcde":
            origin = second if each == "d" else first
            listening.take(over(source, origin, each), ORDER, outside=True)
        await held.entered(*"ab"[:concurrency])
        first.end("the channel was closed")
        listening.take(over(source, second, "f"), ORDER, outside=True)
        held.release("a", "b")
        told = await source.settled(concurrency + 2)
        assert await listening.wait_idle(WAIT)
    assert sorted(told) == [(each, True, False) for each in sorted([*"ab"[:concurrency], "d", "f"])]
    assert sorted(held.calls) == sorted([*"ab"[:concurrency], "d", "f"])
    assert listening.snapshot()["accepted"] == concurrency + 2


@pytest.mark.usefixtures("unhurried")
async def test_at_its_end_a_plain_function_leaves_what_it_was_not_called_with_to_its_source() -> None:
    source, held = Source(), Held("a")
    async with at_work(held.on) as listening:
        give(listening, source, *"abcd")
        await held.entered("b")
        await source.settled(1)
        listening.give_back()
        assert sorted(source.told) == [("a", True, False), ("c", None, True), ("d", None, True)]
        closing = asyncio.ensure_future(listening.close(WAIT))
        await source.settled(4)
        held.release("b", "c", "d")
        await closing
        assert source.told[3:] == [("b", None, True)]
        assert held.calls == ["a", "b"]
        assert listening.idle
        assert counts(listening.snapshot(), "accepted", *PARTS) == (1, 1, 0, 0, 0, 0)


@pytest.mark.usefixtures("unhurried")
async def test_a_plain_function_that_takes_too_long_is_given_up_and_those_behind_it_are_handled() -> None:
    source, letters, held = Source(), Letters(), Held("a", "c", "d")
    async with at_work(held.on, letters, timeout=0.2, retry={**SOON, "attempts": 2}) as listening:
        give(listening, source, *"abcd")
        told = await source.settled(4)
        assert listening.snapshot()["hanging"] == 2
        held.release("b")
        await until(lambda: listening.snapshot()["hanging"] == 0)
    assert told == [(each, each != "b", False) for each in "abcd"]
    assert held.calls == [*"abbcd"]
    assert [(type(dead.reason), dead.attempts) for dead in letters] == [(DispatchTimeout, 2)]


@pytest.mark.usefixtures("unhurried")
async def test_a_worker_that_is_cancelled_tries_its_event_again_and_handles_the_others(
    source: Source,
) -> None:
    calls: list[str] = []
    gate = threading.Event()

    def on(event: Any) -> None:
        calls.append(event.id)
        if event.id == "b" and calls.count("b") == 1:
            task = HANDLING.get()
            assert task is not None
            task.get_loop().call_soon_threadsafe(task.cancel)
            gate.wait(WAIT)

    async with at_work(on) as listening:
        give(listening, source, *"abc")
        assert sorted(await source.settled(3)) == [(each, True, False) for each in "abc"]
        assert counts(listening.snapshot(), "cancelled", "retried", "delivered") == (1, 1, 3)
        gate.set()
    assert sorted(calls) == [*"abbc"]


async def test_an_event_for_which_there_is_no_thread_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start, starts = threading.Thread.start, list[bool]()

    def refusing(thread: threading.Thread) -> None:
        starts.append(True)
        if len(starts) < 4:
            raise RuntimeError("can't start new thread")
        start(thread)

    source, calls = Source(), list[str]()
    async with at_work(lambda event: calls.append(event.id), timeout=WAIT) as listening:
        monkeypatch.setattr(threading.Thread, "start", refusing)
        give(listening, source, *"ab")
        assert await source.settled(2) == [("a", True, False), ("b", True, False)]
        assert listening.snapshot()["retried"] == 2
    assert calls == ["a", "b"]


async def test_each_event_of_a_plain_function_has_its_context_and_its_envelope(source: Source) -> None:
    var: ContextVar[str] = ContextVar("var", default="")
    seen: list[Any] = []

    def on(event: Any, envelope: Any) -> None:
        seen.append((event.id, envelope.headers["x"], var.get(), HANDLING.get() is not None))
        var.set(event.id)

    async with at_work(on) as listening:
        for each in "abc":
            give(listening, source, each, x=each)
        await source.settled(3)
    assert seen == [(each, each, "", True) for each in "abc"]


async def test_dead_events_beyond_those_whose_records_are_under_way_hold_up_the_others(
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(events_listening, "RECORDED", 2)

    (on, calls), source, disk = failing(99, Rejected("no")), Source(), asyncio.Event()

    class Slow(Letters):
        async def dead_letter(self, dead: Any) -> bool:
            await disk.wait()
            return await super().dead_letter(dead)

    async with at_work(on, Slow()) as listening:
        give(listening, source, *"abcdef")
        await until(lambda: len(calls) == 3)
        await turns(20)
        # Two wait for the disk beside the worker, and the worker with the third.
        found = listening.snapshot()
        assert (calls, source.told, found["running"], found["queued"]) == (["a", "b", "c"], [], 1, 3)
        assert not listening.idle
        disk.set()
        assert sorted(await source.settled(6)) == [(each, False, False) for each in "abcdef"]
        assert await listening.wait_idle(WAIT)
    assert calls == list("abcdef")


async def test_a_record_that_the_disk_does_not_take_ends_with_who_is_cancelled_twice() -> None:
    tasks: list[Any] = []

    async def on(event: Any) -> None:
        tasks.append(asyncio.current_task())
        raise Rejected("no")

    class Full(Letters):
        async def dead_letter(self, dead: Any) -> bool:
            tasks.append(asyncio.current_task())
            return await asyncio.Event().wait()

    async with at_work(on, Full()) as listening:
        give(listening, Source(), "a")
        await until(lambda: len(tasks) == 2)
        worker, recording = tasks
        assert worker is not recording
        for _ in range(2):
            worker.cancel()
            await turns(5)
        assert recording.cancelled()
