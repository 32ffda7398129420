"""A lane whose plugin takes a batch before it has answered for the one before."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.core.lane import worker
from evbus.engine.core.settings import DeliverySettings, Retry
from evbus.errors import DeliveryTimeout, Rejected, Unavailable
from tests.evbus.rig import HANG, SOON, Rig, Target, counts, numbers, turns, until

LANE = "plugin0.provider.*"
THREES = DeliverySettings(batch=3, retry=SOON)

FAILURES = ("raises", "down", "partly", "each", "refused", "cancelled")


@pytest.fixture(autouse=True, params=["sends", "begins"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let each test run with a plugin that has to wait, and with one that takes batches at once."""
    monkeypatch.setattr(Target, "begins", request.param == "begins")
    return str(request.param)


def bodies(start: int, stop: int) -> list[bytes]:
    return numbers(stop)[start:]


def overlapping(plan: Sequence[Any] = ()) -> Target:
    return Target(batching=True, overlap=True, plan=plan)


@pytest.fixture
def target(rig: Rig) -> Target:
    """Return the target of a lane that takes batches of three."""
    return rig.to(overlapping(), delivery=THREES)


def hold(target: Target, count: int) -> list[asyncio.Future[Any]]:
    """Let the next tries wait for these: for None (all is well), an exception, or outcomes."""
    answers: list[asyncio.Future[Any]] = [asyncio.get_running_loop().create_future() for _ in range(count)]

    def waits_for(answer: asyncio.Future[Any]) -> Any:
        async def wait(events: Sequence[Any]) -> Any:
            what = await answer
            if isinstance(what, BaseException):
                raise what
            return what or [None] * len(events)

        return wait

    target.plan.extend(waits_for(answer) for answer in answers)
    return answers


def failure(what: str) -> Any:
    """Return the answer for a batch of three that fails in some way."""
    return {
        "none": None,
        "raises": ValueError("again"),
        "down": Unavailable("down"),
        "partly": [None, ValueError("again"), None],
        "each": [ValueError("again"), Unavailable("down"), ValueError("again")],
        "refused": [None, Rejected("never"), ValueError("again")],
        "cancelled": asyncio.CancelledError(),
    }[what]


def failed(what: str, events: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return which of a batch are tried again after such a failure, and which are dead."""
    if what in ("none", "partly", "refused"):
        again = {"none": [], "partly": [events[1]], "refused": [events[2]]}[what]
        return again, [events[1]] if what == "refused" else []
    return events, []


# How many, and when


async def test_a_second_batch_is_handed_over_before_the_first_is_answered_and_no_third(
    target: Target,
    rig: Rig,
) -> None:
    first, second = hold(target, 2)
    rig.fill(10)
    async with rig.running():
        await until(lambda: len(target.tried) == 2)
        await turns(20)
        assert target.tried == [bodies(0, 3), bodies(3, 6)]
        assert counts(rig.check()["lanes"][LANE], "in_flight", "queued", "delivered") == (6, 4, 0)
        first.set_result(None)
        await until(lambda: len(target.tried) == 3)
        assert rig.check()["lanes"][LANE]["in_flight"] == 6
        second.set_result(None)
    assert target.tried == [bodies(0, 3), bodies(3, 6), bodies(6, 9), [b"9"]]
    assert rig.check()["lanes"][LANE]["delivered"] == 10


async def test_batches_answered_in_another_order_are_counted_in_that_of_their_events(rig: Rig) -> None:
    lane = rig.add(target := overlapping(), delivery=THREES)
    first, second = hold(target, 2)
    rig.fill(6)
    async with rig.running():
        await until(lambda: len(target.tried) == 2)
        second.set_result(None)
        await until(lambda: len(target.got) == 3)
        await turns(20)
        assert rig.check()["lanes"][LANE]["delivered"] == 0
        first.set_result(None)
        await until(lambda: lane.idle)
    assert rig.check()["lanes"][LANE]["delivered"] == 6


async def test_never_more_than_two_batches_are_in_flight_however_small_the_parts(rig: Rig) -> None:
    lane = rig.add(target := overlapping(), delivery=DeliverySettings(batch=4, retry=SOON))
    seen = set()

    async def slow(events: Any) -> list[Any]:
        seen.add(lane.counters.in_flight)
        await turns(7)
        return [None] * len(events)

    target.plan.extend([slow] * 200)
    async with rig.running():
        for number in range(200):
            rig.put_nowait(number)
            rig.check()
            await turns((0, 1, 0, 3)[number % 4])
    assert max(seen) == 8
    assert max(map(len, target.tried)) <= 4
    assert target.got == numbers(200)


async def test_single_events_do_not_wait_for_one_another(target: Target, rig: Rig) -> None:
    answers = hold(target, 6)
    async with rig.running():
        for number in range(7):
            await rig.put(number)
            await until(lambda number=number: len(target.tried) == min(number + 1, 6))
        assert target.tried == [[body] for body in numbers(6)]
        for answer in answers:
            answer.set_result(None)
    assert target.got == numbers(7)


@pytest.mark.parametrize("concurrency", [2, 3])
async def test_several_workers_have_one_batch_each(rig: Rig, concurrency: int) -> None:
    target = rig.to(overlapping(), delivery=DeliverySettings(batch=3, concurrency=concurrency, retry=SOON))
    answers = hold(target, concurrency)
    rig.fill(20)
    async with rig.running():
        await until(lambda: len(target.tried) == concurrency)
        await turns(20)
        assert len(target.tried) == concurrency
        for answer in answers:
            answer.set_result(None)
    assert sorted(target.got, key=int) == numbers(20)


@pytest.mark.parametrize(("batching", "overlap"), [(True, False), (False, False), (False, True)])
async def test_other_plugins_are_called_again_once_they_have_answered(
    rig: Rig, batching: bool, overlap: bool
) -> None:
    target = rig.to(Target(batching=batching, overlap=overlap), delivery=THREES)
    (answer,) = hold(target, 1)
    rig.fill(10)
    async with rig.running():
        await until(lambda: target.tried)
        await turns(20)
        assert len(target.tried) == 1
        answer.set_result(None)
    assert target.got == numbers(10)


# Failures


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("second", ["none", *FAILURES])
@pytest.mark.parametrize("first", FAILURES)
async def test_what_failed_of_the_first_batch_is_tried_again_before_the_second_and_both_before_the_next(
    target: Target, rig: Rig, first: str, second: str, backwards: bool
) -> None:
    answers = list(zip(hold(target, 2), (first, second), strict=True))
    rig.fill(12)
    async with rig.running():
        await until(lambda: len(target.tried) == 2)
        for answer, what in reversed(answers) if backwards else answers:
            await turns(5)
            assert target.tried == [bodies(0, 3), bodies(3, 6)]
            answer.set_result(failure(what))
    (one, lost), (two, lost_too) = failed(first, bodies(0, 3)), failed(second, bodies(3, 6))
    again = [body for tried in target.tried[2:] for body in tried]
    assert again == [*one, *two, *bodies(6, 12)]
    assert rig.dead_lettered() == [*lost, *lost_too]
    assert sorted([*target.got, *rig.dead_lettered()], key=int) == numbers(12)
    dead = len(lost + lost_too)
    found = counts(rig.check()["lanes"][LANE], "retried", "dead", "delivered")
    assert found == (len(one + two), dead, 12 - dead)


async def test_nothing_new_is_sent_while_a_failure_is_dealt_with(rig: Rig) -> None:
    lane = rig.add(target := overlapping(), delivery=THREES)
    first, second, again = hold(target, 3)
    rig.fill(6)
    async with rig.running():
        await until(lambda: len(target.tried) == 2)
        first.set_result([None, None, ValueError("again")])
        await rig.put(6)
        await turns(20)
        assert len(target.tried) == 2  # not even what failed, as long as the second is under way
        second.set_result(None)
        await until(lambda: len(target.tried) == 3)
        await rig.put(7)
        await turns(20)
        assert target.tried[2:] == [[b"2"]]
        assert lane.state == "retrying"
        again.set_result(None)
    assert target.got == [b"0", b"1", b"3", b"4", b"5", b"2", b"6", b"7"]


class Remembering(Target):
    """Fails once; ``afterwards`` holds what it is called with from then on."""

    begins = False  # what is begun was handed over before

    def __init__(self) -> None:
        super().__init__(batching=True, overlap=True)
        self.failing = asyncio.Event()
        self.failed = False
        self.afterwards: list[bytes] = []

    async def publish_batch(self, ctx: Any, events: Any) -> Any:
        first = not self.tried
        if self.failed:
            self.afterwards += [event.body for event in events]
        outcomes = await super().publish_batch(ctx, events)
        if first:
            await self.failing.wait()
            self.failed = True
            raise Unavailable("the queue was deleted")
        return outcomes


@pytest.mark.parametrize("earlier", range(10))
async def test_no_batch_is_handed_over_once_the_plugin_knows_that_one_before_failed(
    rig: Rig, earlier: int
) -> None:
    lane = rig.add(target := Remembering(), delivery=THREES)
    async with rig.running():
        rig.fill(3)
        await until(lambda: target.tried)
        for number in range(3, 6):
            rig.put_nowait(number)
        await turns(earlier)
        target.failing.set()
        await until(lambda: lane.counters.delivered == 6)
    first = target.tried[0]
    assert target.afterwards[: len(first)] == first
    behind = target.afterwards[len(first) :]
    assert behind == bodies(6 - len(behind), 6)


@pytest.mark.parametrize("attempts", [1, 2, 4])
async def test_events_of_both_batches_get_exactly_their_attempts(rig: Rig, attempts: int) -> None:
    target = rig.to(
        overlapping(), delivery=DeliverySettings(batch=3, retry=Retry(attempts=attempts, min=1e-9, max=1e-9))
    )

    async def poisons(events: Any) -> list[Any]:
        await turns(3)
        return [ValueError("no good") if event.body in (b"1", b"4") else None for event in events]

    target.plan.extend([poisons] * 50)
    await rig.deliver(9)
    tries = Counter(body for tried in target.tried for body in tried)
    assert tries == {body: attempts if body in (b"1", b"4") else 1 for body in numbers(9)}
    assert [record.dead["attempts"] for record in rig.dead()] == [attempts] * 2
    assert (rig.dead_lettered(), rig.check()["lanes"][LANE]["retried"]) == ([b"1", b"4"], 2 * (attempts - 1))


@pytest.mark.parametrize("hanging", [1, 2])
async def test_a_batch_that_hangs_is_given_up_in_time_and_tried_again_first(rig: Rig, hanging: int) -> None:
    lane = rig.add(target := overlapping(plan=[HANG] * hanging), delivery=THREES, timeout=0.05)
    rig.fill(9)
    async with rig.running():
        await until(lambda: len(target.got) == 9)
    assert target.cancelled == hanging
    again = [body for tried in target.tried[2:] for body in tried]
    assert again == [*bodies(0, 3 * hanging), *bodies(6, 9)]
    assert lane.last_error == str(DeliveryTimeout(0.05))
    assert rig.dead() == []


async def test_wrong_answers_are_failures_of_their_batch_alone(target: Target, rig: Rig) -> None:
    first, second = hold(target, 2)
    rig.fill(6)
    async with rig.running():
        await until(lambda: len(target.tried) == 2)
        first.set_result([None])
        second.set_result(None)
    assert target.tried[2:] == [[body] for body in bodies(0, 3)]
    assert rig.check()["lanes"][LANE]["delivered"] == 6


# A destination that is not ready


class Gate:
    """What a plugin's ``ready`` returns."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.opened.set()

    def ready(self, _ctx: Any) -> Any:
        return None if self.opened.is_set() else ("not connected", self._until())

    async def _until(self) -> None:
        await self.opened.wait()


async def test_nothing_is_sent_to_a_destination_that_is_not_ready(rig: Rig) -> None:
    target, gate = overlapping(), Gate()
    gate.opened.clear()
    lane = rig.add(target, delivery=THREES, ready=gate.ready)
    rig.fill(4)
    async with rig.running():
        await until(lambda: lane.state == "waiting")
        await turns(20)
        assert (target.tried, lane.last_error) == ([], "not connected")
        gate.opened.set()
    assert target.tried == [bodies(0, 3), [b"3"]]
    assert rig.check()["lanes"][LANE]["retried"] == 0


@pytest.mark.parametrize("answer", [None, Unavailable("lost")])
async def test_a_destination_that_is_not_ready_any_more_still_answers_for_what_it_has(
    rig: Rig, answer: Any
) -> None:
    target, gate = overlapping(), Gate()
    lane = rig.add(target, delivery=THREES, ready=gate.ready)
    (first,) = hold(target, 1)
    async with rig.running():
        await rig.put(0)
        await until(lambda: target.tried)
        gate.opened.clear()
        await rig.put(1)
        await turns(20)
        assert target.tried == [[b"0"]]
        first.set_result(answer)
        await until(lambda: lane.state == "waiting")
        await turns(20)
        assert target.tried == [[b"0"]]
        gate.opened.set()
    assert target.got == [b"0", b"1"]


async def test_what_is_delivered_at_once_when_the_destination_is_back_makes_no_empty_batch(
    rig: Rig,
) -> None:
    target, gate = overlapping(), Gate()
    gate.opened.clear()

    def publish_nowait(_ctx: Any, events: Any) -> None:
        if not gate.opened.is_set():
            raise asyncio.QueueFull
        target.got += [event.body for event in events]

    lane = rig.add(target, delivery=THREES, ready=gate.ready, publish_nowait=publish_nowait)
    async with rig.running():
        rig.put_nowait(0)
        await until(lambda: lane.state == "waiting")
        gate.opened.set()
        rig.put_nowait(1)
        await until(lambda: len(target.got) == 2)
        await turns(20)
    assert target.got == [b"0", b"1"]
    assert [] not in target.tried


# Stopping


async def stopped(rig: Rig, target: Target, count: int = 9) -> tuple[list[asyncio.Future[Any]], Any]:
    """Start a bus that has sent two batches of three, and return their answers and the task."""
    answers = hold(target, 2)
    rig.fill(count)
    task = asyncio.ensure_future(rig.start())
    await until(lambda: len(target.tried) == 2)
    return answers, task


async def test_a_stop_delivers_what_is_in_flight_and_what_is_queued(target: Target, rig: Rig) -> None:
    (first, second), task = await stopped(rig, target)
    stop = asyncio.ensure_future(rig.stop())
    await turns(20)
    second.set_result(ValueError("again"))
    first.set_result([None, ValueError("again"), None])
    await stop
    await task
    assert [body for tried in target.tried[2:] for body in tried] == [b"1", *bodies(3, 9)]
    assert sorted(target.got, key=int) == numbers(9)
    assert rig.dead() == []


@pytest.mark.parametrize(
    ("first", "second", "known"),
    [
        ("open", "open", []),
        ("open", None, bodies(3, 6)),
        ("open", "partly", [b"3", b"5"]),
        ("open", "raises", []),
        ("partly", "open", [b"0", b"2"]),
    ],
)
@pytest.mark.parametrize("hurry", [False, True])
async def test_a_stop_in_the_middle_counts_what_is_known_and_records_the_rest(
    tmp_path: Path, first: Any, second: Any, known: list[bytes], hurry: bool
) -> None:
    rig = Rig(tmp_path, **({} if hurry else {"drain_timeout": 0}))
    target = rig.to(overlapping(), delivery=THREES)
    answers, task = await stopped(rig, target)
    for answer, what in zip(answers, (first, second), strict=True):
        if what != "open":
            answer.set_result(failure(what or "none"))
    await turns(20)
    stop = asyncio.ensure_future(rig.stop())
    await turns(5)
    if hurry:
        rig.bus.hurry()
    await stop
    await task
    found = rig.check()["lanes"][LANE]
    assert target.got == known
    assert rig.dead_lettered() == [body for body in numbers(9) if body not in known]
    assert (found["delivered"], found["dead"]) == (len(known), 9 - len(known))


async def test_a_stop_while_a_failure_is_dealt_with_counts_the_batch_behind(tmp_path: Path) -> None:
    rig = Rig(tmp_path, drain_timeout=0)
    target = rig.to(overlapping(), delivery=THREES)
    (first, second), task = await stopped(rig, target)
    target.plan.append(HANG)
    first.set_result([None, ValueError("again"), None])
    second.set_result(None)
    await target.hanging.wait()
    await rig.stop()
    await task
    assert target.got == [b"0", b"2", *bodies(3, 6)]
    assert (rig.dead_lettered(), rig.check()["lanes"][LANE]["delivered"]) == ([b"1", *bodies(6, 9)], 5)


async def test_a_plugin_that_swallows_its_cancellation_gets_no_further_events(tmp_path: Path) -> None:
    rig = Rig(tmp_path, drain_timeout=0)
    target = rig.to(overlapping(), delivery=THREES)
    (first, second), task = await stopped(rig, target)

    async def stubborn(events: Any) -> list[Any]:
        target.hanging.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return [None] * len(events)
        raise AssertionError

    target.plan.append(stubborn)
    first.set_result([None, None, ValueError("again")])
    second.set_result(None)
    await target.hanging.wait()
    await rig.stop()
    await task
    assert target.tried == [bodies(0, 3), bodies(3, 6), [b"2"]]
    assert sorted(target.got, key=int) == bodies(0, 6)
    assert rig.dead_lettered() == bodies(6, 9)


# Workers


class Buggy:
    """A lane's sender with a bug that shows at some calls."""

    batching, immediate, overlap, begins = True, False, True, False

    def __init__(self, lane: Any, *calls: int) -> None:
        self.plain, lane.sender = lane.sender, self
        self.calls, self.number = calls, 0

    def not_ready(self) -> None:
        return None

    def begin(self, events: Any) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    async def send(self, events: Any, *turn: Any) -> Any:
        self.number += 1
        if self.number in self.calls:
            await turns(2)
            raise RuntimeError("a bug")
        return await self.plain.send(events, *turn)


@pytest.mark.parametrize("calls", [(1,), (2,), (1, 2), (2, 5), (1, 3, 4)])
async def test_a_worker_that_fails_is_started_again_and_loses_nothing(
    rig: Rig, monkeypatch: Any, caplog: Any, calls: tuple[int, ...]
) -> None:
    monkeypatch.setattr(worker, "RESTART", 0)
    lane = rig.add(target := overlapping(), delivery=DeliverySettings(batch=4, retry=SOON))
    Buggy(lane, *calls)

    async def slow(events: Any) -> list[Any]:
        await turns(5)
        return [None] * len(events)

    target.plan.extend([slow] * 10)
    rig.fill(20)
    async with rig.running():
        await until(lambda: lane.idle)
    assert target.got == numbers(20)
    assert (rig.dead(), rig.check()["lanes"][LANE]["delivered"]) == ([], 20)
    assert "the worker failed and is started again" in caplog.text


async def test_a_batch_that_was_answered_when_the_worker_fails_is_not_sent_again(
    rig: Rig, monkeypatch: Any
) -> None:
    monkeypatch.setattr(worker, "RESTART", 0)
    target = overlapping()
    Buggy(rig.add(target, delivery=THREES), 1)
    await rig.deliver(7)
    assert target.tried == [bodies(3, 6), [*bodies(0, 3)], [b"6"]]


async def test_a_worker_that_was_started_again_is_woken_by_the_next_event(rig: Rig, monkeypatch: Any) -> None:
    monkeypatch.setattr(worker, "RESTART", 0)
    lane = rig.add(target := overlapping(), delivery=THREES)
    Buggy(lane, 1)  # while the worker waits for further events
    async with rig.running():
        for number in range(3):
            await rig.put(number)
            await until(lambda: lane.idle)
            await turns(20)
        assert target.got == numbers(3)


class Second(Target):
    """Answers for its first batch by a future, with outcomes that it changes when it hears of them."""

    def __init__(self) -> None:
        super().__init__(batching=True, overlap=True)
        self.answer: asyncio.Future[Any] | None = None

    def begin_batch(self, ctx: Any, events: list[Any]) -> asyncio.Future[Any] | None:
        if self.answer is not None:
            return None
        self.answer = asyncio.get_running_loop().create_future()
        self.answer.add_done_callback(lambda answer: answer.result().__setitem__(0, Unavailable("not yet")))
        return self.answer


@pytest.mark.parametrize("how", ["begins"], indirect=True)
async def test_what_a_plugin_makes_of_an_outcome_counts_also_when_something_else_wakes_the_worker(
    rig: Rig,
) -> None:
    lane = rig.add(target := Second(), delivery=THREES)
    async with rig.running():
        await rig.put(0)
        await until(lambda: target.answer is not None)
        assert target.answer is not None
        await turns(5)  # the worker waits for further events
        with rig.queue.lock:
            lane.buffer.announce(1)
        target.answer.set_result([Rejected("as it seems")])
        await until(lambda: lane.idle)
    assert target.got == [b"0"]
    assert lane.counters.dead == 0
