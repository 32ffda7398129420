"""A listener at work, on deliveries that a test makes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from evbus.errors import DispatchTimeout, InvalidPayload, Rejected
from evbus.event import _listening
from evbus.event._declare import listener_spec
from evbus.event._listener import made
from evbus.event._listening import Dead, Listening
from evbus.event._reader import Loader, Reader
from evbus.event._registry import Registry
from evbus.serialize import _json
from tests.evbus.rig import until
from tests.event.kit import SOON, WAIT, Gate, OrderPlaced, Source, go, known

ORDER = known(OrderPlaced)
READER = Reader(lambda content_type: Loader(_json.load, _json.typed), Registry().named)


class Graves(list[Dead]):
    """Records what is dead; ``recorded`` is what it says of that, or what it raises."""

    recorded: Any = True

    async def bury(self, dead: Dead) -> bool:
        self.append(dead)
        if isinstance(self.recorded, Exception):
            raise self.recorded
        return bool(self.recorded)


@contextlib.asynccontextmanager
async def at_work(function: Any, graves: Graves | None = None, **options: Any) -> AsyncIterator[Listening]:
    spec = listener_spec(OrderPlaced, **{"retry": SOON, **options})
    graves = Graves() if graves is None else graves
    listener = made(function, "billing", None, spec.concurrency)
    listening = Listening(spec, listener, READER, graves.bury)
    listening.begin(None)
    yield listening
    await listening.close(WAIT)


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


def test_a_delivery_is_settled_only_after_its_handler_has_ended() -> None:
    async def main() -> None:
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
            assert await listening.quiet(WAIT)
            assert listening.snapshot()["handled"] == 2
            assert listening.idle

    go(main)


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_so_many_are_handled_at_once(concurrency: int) -> None:
    async def main() -> None:
        source, gate = Source(), Gate(lambda event: event.id)
        async with at_work(gate.on, concurrency=concurrency) as listening:
            give(listening, source, *"abcdefgh")
            assert "".join(await gate.entered(concurrency)) == "abcdefgh"[:concurrency]
            assert listening.snapshot()["running"] == concurrency
            assert listening.snapshot()["queued"] == 8 - concurrency
            gate.release(*"abcdefgh")
            await source.settled(8)
            assert gate.most == concurrency

    go(main)


def test_so_many_plain_functions_run_at_once() -> None:
    async def main() -> None:
        source, barrier = Source(), threading.Barrier(9)
        async with at_work(lambda event: barrier.wait(WAIT), concurrency=9) as listening:
            give(listening, source, *"abcdefghi")
            assert {accepted for _, accepted, _ in await source.settled(9)} == {True}

    go(main)


# Failures


def test_what_fails_is_tried_again_until_it_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        (on, calls), source, graves = failing(2), Source(), Graves()
        async with at_work(on, graves) as listening:
            give(listening, source, "a")
            assert await source.settled(1) == [("a", True, False)]
            assert (calls, graves) == (["a"] * 3, [])
            counts = listening.snapshot()
            assert (counts["retried"], counts["dead"]) == (2, 0)

    with caplog.at_level(logging.WARNING, "evbus.event"):
        go(main)
    assert caplog.messages == ["listener billing: OrderPlaced fails and is tried again: KeyError: 'a'"] * 2


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_what_fails_as_often_as_it_is_tried_is_dead(attempts: int) -> None:
    async def main() -> None:
        (on, calls), source, graves = failing(99), Source(), Graves()
        async with at_work(on, graves, retry={**SOON, "attempts": attempts}) as listening:
            give(listening, source, "a")
            assert await source.settled(1) == [("a", False, False)]
            assert calls == ["a"] * attempts
            (dead,) = graves
            assert (dead.listener, type(dead.reason), dead.attempts) == ("billing", KeyError, attempts)
            assert dead.envelope.body == b'{"id":"a"}'
            assert listening.snapshot()["dead"] == 1

    go(main)


def test_with_no_attempts_named_it_is_tried_for_ever() -> None:
    async def main() -> None:
        (on, calls), source = failing(50), Source()
        async with at_work(on, retry={**SOON, "attempts": 0}) as listening:
            give(listening, source, "a")
            assert await source.settled(1) == [("a", True, False)]
            assert len(calls) == 51

    go(main)


def test_what_a_listener_rejects_is_not_tried_again() -> None:
    async def main() -> None:
        (on, calls), source, graves = failing(99, Rejected("no such customer")), Source(), Graves()
        async with at_work(on, graves) as listening:
            give(listening, source, "a")
            await source.settled(1)
            assert calls == ["a"]
            assert (str(graves[0].reason), graves[0].attempts) == ("no such customer", 1)

    go(main)


def test_a_message_that_does_not_fit_is_dead_untried_and_counted() -> None:
    async def main() -> None:
        (on, calls), source, graves = failing(0), Source(), Graves()
        async with at_work(on, graves) as listening:
            listening.take(source.delivery({"total": "x"}, 1), ORDER)
            listening.take(source.delivery({}, 2, evbus_message="Unheard"), ORDER)
            assert await source.settled(2) == [(1, False, False), (2, False, False)]
            assert calls == []
            assert [type(dead.reason) for dead in graves] == [InvalidPayload] * 2
            assert str(graves[1].reason) == "it is a Unheard, and there is no event of that name here"
            assert [dead.attempts for dead in graves] == [0, 0]
            counts = listening.snapshot()
            assert (counts["unreadable"], counts["dead"], counts["handled"]) == (2, 2, 0)

    go(main)


@pytest.mark.parametrize("recorded", [False, OSError("disk full")])
def test_what_is_dead_and_cannot_be_recorded_stays_with_its_source(
    recorded: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        (on, _), source, graves = failing(99, Rejected("no")), Source(), Graves()
        graves.recorded = recorded
        async with at_work(on, graves) as listening:
            give(listening, source, "a")
            assert await listening.quiet(WAIT)
            assert source.told == []

    go(main)
    assert caplog.messages == ["listener billing: a dead event cannot be recorded, and stays where it is"]


@pytest.mark.parametrize("kind", ["plain", "asynchronous", "failing"])
def test_on_error_is_told_of_what_was_given_up(kind: str) -> None:
    told: list[Any] = []

    def plain(event: Any, exception: Exception) -> None:
        told.append((event, exception))
        if kind == "failing":
            raise ValueError("in on_error")

    async def asynchronous(event: Any, exception: Exception) -> None:
        told.append((event, exception))

    async def main() -> None:
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

    go(main)


def test_a_handler_that_takes_too_long_is_cancelled_and_tried_again() -> None:
    cancelled: list[str] = []

    async def on(event: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(event.id)
            raise

    async def main() -> None:
        source, graves = Source(), Graves()
        async with at_work(on, graves, timeout=1e-6) as listening:
            give(listening, source, "a")
            await source.settled(1)
        assert cancelled == ["a"] * 3
        assert type(graves[0].reason) is DispatchTimeout
        assert str(graves[0].reason) == "OrderPlaced was not handled within 1e-06 s"

    go(main)


def test_a_handler_that_is_fast_enough_has_no_trouble_with_its_timeout() -> None:
    async def main() -> None:
        (on, calls), source = failing(0), Source()
        async with at_work(on, timeout=WAIT) as listening:
            give(listening, source, "a", "b")
            assert [accepted for _, accepted, _ in await source.settled(2)] == [True, True]
            assert calls == ["a", "b"]

    go(main)


def test_the_pauses_between_attempts_are_those_of_its_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float, float]] = []

    def pause(failures: int, least: float, most: float) -> float:
        asked.append((failures, least, most))
        return 0

    async def main() -> None:
        (on, _), source = failing(99), Source()
        async with at_work(on, retry={"attempts": 4, "min": 2.5, "max": 60}) as listening:
            give(listening, source, "a")
            await source.settled(1)

    monkeypatch.setattr(_listening, "backoff", pause)
    go(main)
    assert asked == [(1, 2.5, 60.0), (2, 2.5, 60.0), (3, 2.5, 60.0)]


# Cancellation


async def raises_it() -> None:
    raise asyncio.CancelledError


async def cancels_its_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@pytest.mark.parametrize("way", [raises_it, cancels_its_task])
def test_what_cancels_itself_comes_again_and_the_listener_goes_on(
    way: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def on(event: Any) -> None:
        if event.id == "bad":
            await way()

    async def main() -> None:
        source = Source()
        async with at_work(on) as listening:
            give(listening, source, "bad", "good", "bad", "good")
            told = await source.settled(4)
            assert sorted(told) == [("bad", False, True)] * 2 + [("good", True, False)] * 2
            assert listening.snapshot()["cancelled"] == 2

    with caplog.at_level(logging.WARNING, "evbus.event"):
        go(main)
    said = "listener billing: the handling of OrderPlaced was cancelled; it is delivered again"
    assert caplog.messages == [said] * 2


def test_at_its_end_a_listener_gives_back_what_it_handles_and_what_waits() -> None:
    async def main() -> None:
        source, gate = Source(), Gate(lambda event: event.id)
        async with at_work(gate.on) as listening:
            give(listening, source, *"abc")
            await gate.entered(1)
            await listening.close(WAIT)
            assert sorted(source.told) == [(each, False, True) for each in "abc"]
            assert listening.snapshot()["cancelled"] == 0
            assert listening.idle

    go(main)


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
def test_one_key_after_the_other_while_different_keys_are_handled_at_once(key: Any) -> None:
    async def main() -> None:
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
            assert await listening.quiet(WAIT)
            assert listening.snapshot()["keys"] == 0

    go(main)


def test_a_failure_and_its_retries_keep_the_turn_of_their_key() -> None:
    done: list[float] = []
    tried: list[float] = []

    async def on(event: Any) -> None:
        tried.append(event.total)
        await asyncio.sleep(0)
        if tried.count(event.total) < 3:
            raise KeyError
        done.append(event.total)

    async def main() -> None:
        source = Source()
        async with at_work(on, key="id", concurrency=4) as listening:
            for number in range(10):
                listening.take(source.delivery({"id": "a", "total": number}, number), ORDER)
            await source.settled(10)
        assert done == list(range(10))

    go(main)


def test_a_key_that_cannot_be_one_makes_a_dead_event() -> None:
    async def main() -> None:
        (on, calls), source, graves = failing(0), Source(), Graves()
        async with at_work(on, graves, key=lambda event: [event.id]) as listening:
            give(listening, source, "a")
            assert await source.settled(1) == [("a", False, False)]
        assert calls == []
        assert "hashable" in str(graves[0].reason)

    go(main)
