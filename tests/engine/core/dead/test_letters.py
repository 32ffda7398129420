"""What becomes of events that were given up."""

from __future__ import annotations

import asyncio
import functools
import threading
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.core import error_callback
from evbus.engine.core.dead import letters
from evbus.engine.core.dead.store import DeadStore
from evbus.engine.core.settings import DeliverySettings, Retry
from evbus.errors import Rejected
from evbus.types import Envelope
from tests.evbus.rig import HANG, SOON, WAIT, Rig, Target, counts, turns, until


def refusing(*reasons: str) -> Target:
    return Target(plan=[Rejected(reason) for reason in reasons])


LETTERS = DeliverySettings(retry=SOON, dead_letter="dead")


async def test_a_dead_letter_says_where_it_comes_from_and_why(rig: Rig) -> None:
    dead = Target()
    rig.add(refusing("never\nthis"), "orders", LETTERS)
    rig.add(dead, "dead")
    for number in range(2):
        rig.put_nowait(number, "orders", {"a": "b"})
    await rig.deliver()
    (letter,) = dead.letters
    assert (letter.body, letter.headers) == (
        b"0",
        {
            "a": "b",
            "content-type": "application/json",
            "evbus-dead-lane": "plugin0.provider.orders",
            "evbus-dead-profile": "orders",
            "evbus-dead-reason": "never\\nthis",
            "evbus-dead-attempts": "1",
        },
    )
    assert rig.dead() == []
    assert rig.check()["bus"]["accepted"] == 2  # a letter is no new event


async def test_each_dead_event_has_its_own_reason(rig: Rig) -> None:
    async def refuse(events: Any) -> list[Any]:
        return [Rejected(f"reason {event.body.decode()}") for event in events]

    rig.to(Target(batching=True, plan=[refuse]))
    await rig.deliver(3)
    assert [record.dead["reason"] for record in rig.dead()] == ["reason 0", "reason 1", "reason 2"]


async def test_a_dead_letter_that_dies_goes_to_the_store(rig: Rig) -> None:
    rig.add(refusing("first"), "orders", LETTERS)
    rig.add(refusing("second"), "dead", LETTERS)
    await rig.deliver(1, "orders")
    (record,) = rig.dead()
    assert (record.dead["reason"], record.headers["evbus-dead-reason"]) == ("second", "first")


async def test_a_lane_may_get_its_own_dead_letters_and_they_go_round_once(rig: Rig) -> None:
    target = refusing("one", "two", "three", "four")
    rig.add(target, "*", LETTERS)
    await rig.deliver(2)
    assert len(target.tried) == 4
    assert [record.headers["evbus-dead-attempts"] for record in rig.dead()] == ["1", "1"]
    assert counts(rig.check()["lanes"]["plugin0.provider.*"], "accepted", "dead") == (4, 4)


@pytest.mark.parametrize("name", ["dead", "*"])
async def test_a_lane_that_delivers_at_once_gets_dead_letters_too(rig: Rig, name: str) -> None:
    got: list[Any] = []
    rig.add(refusing("never"), "orders", LETTERS)
    rig.add(Target(batching=True), name, publish_nowait=lambda ctx, events: got.extend(events))
    await rig.deliver(1, "orders")
    assert any("evbus-dead-lane" in event.headers for event in got)


async def test_letters_of_lanes_that_end_go_to_the_store_and_into_no_ended_lane(tmp_path: Path) -> None:
    class Turncoat(Target):
        """Refuses for good when it is cancelled."""

        async def publish(self, *_args: Any, **_named: Any) -> None:
            self.hanging.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise Rejected("cancelled") from None

    rig = Rig(tmp_path, drain_timeout=0)
    target = rig.to(Turncoat(), "orders", LETTERS)
    rig.add(Target(), "dead")
    async with rig.running():
        await rig.put(1, "orders")
        await target.hanging.wait()
    found = rig.check()["lanes"]
    assert found["plugin1.provider.dead"]["accepted"] == 0
    assert rig.dead_lettered() == [b"1"]


async def test_a_store_that_fails_does_not_stop_the_lane(rig: Rig, caplog: Any, monkeypatch: Any) -> None:
    def add(*_args: Any, **_named: Any) -> bool:
        raise RuntimeError("a bug")

    monkeypatch.setattr(letters.DeadStore, "add", add)
    target = refusing("never")
    rig.add(target)
    await rig.deliver(3)
    assert target.got == [b"1", b"2"]
    assert "a dead event could not be recorded" in caplog.text


# The error callback


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_the_callback_is_told_and_may_put_while_the_bus_drains(rig: Rig, kind: str) -> None:
    good = Target()
    rig.add(refusing("never", "never"), "orders")
    rig.add(good, "errors")
    told: list[Any] = []

    async def in_loop(data: Any) -> None:
        told.append(data)
        await rig.put("put", "errors")

    def in_thread(data: Any) -> None:
        assert threading.current_thread() is not threading.main_thread()
        told.append(data)
        rig.put_nowait("put", "errors")

    rig.on_error = in_loop if kind == "async" else in_thread
    await rig.deliver(2, "orders")
    assert [(data["body"], data["plugin"], data["profile"]) for data in told] == [
        (b"0", "plugin0", "orders"),
        (b"1", "plugin0", "orders"),
    ]
    assert isinstance(told[0]["exception"], Rejected)
    assert good.got == [b'"put"'] * 2


async def test_a_plain_function_may_return_something_to_await(rig: Rig) -> None:
    told = []

    async def later(data: Any) -> None:
        told.append(data["body"])

    rig.on_error = later
    rig.add(refusing("never"))
    await rig.deliver(1)
    assert told == [b"0"]


@pytest.mark.parametrize("problem", [ValueError("boom"), asyncio.CancelledError()])
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_callback_that_fails_is_logged_and_called_again(
    rig: Rig, problem: BaseException, kind: str, caplog: Any
) -> None:
    told = []

    async def in_loop(data: Any) -> None:
        in_thread(data)

    def in_thread(data: Any) -> None:
        told.append(data["body"])
        raise problem

    rig.on_error = in_loop if kind == "async" else in_thread
    rig.add(refusing("never", "never"))
    await rig.deliver(3)
    assert told == [b"0", b"1"]
    assert caplog.text.count("the function named by error_callback_ref failed") == 2


async def test_a_slow_callback_stops_no_lane_and_is_not_told_of_more_than_it_can_take(
    rig: Rig, monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setattr(error_callback, "MAX_UNTOLD", 5)

    target, gate, told = refusing(*(["never"] * 20)), asyncio.Event(), []

    async def on_error(data: Any) -> None:
        await gate.wait()
        told.append(data["body"])

    rig.on_error = on_error
    rig.add(target)
    async with rig.running():
        for number in range(30):
            await rig.put(number)
        await until(lambda: len(target.got) == 10)
        gate.set()
    assert len(told) in (5, 6)  # one may have been under way
    assert len(rig.dead()) == 20
    assert caplog.text.count("is too slow") == 1


async def test_a_callback_that_never_ends_is_cancelled_and_the_next_start_has_one_again(
    tmp_path: Path,
) -> None:
    rig, told, target = Rig(tmp_path, drain_timeout=0), [], Target()

    async def on_error(data: Any) -> None:
        told.append(data["body"])
        if len(told) == 1:
            await asyncio.Event().wait()

    rig.on_error = on_error
    for number in range(2):
        rig.lanes.clear()
        target.plan.append(Rejected("never"))
        rig.add(target)
        async with rig.running():
            await rig.put(number)
            await until(lambda: len(told) > number)  # noqa: B023 - awaited at once
    assert told == [b"0", b"1"]


async def test_a_callback_that_cannot_be_cancelled_does_not_keep_stop_waiting(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("evbus.engine.core.lifecycle.bus.CLOSE_TIMEOUT", 0.01)

    rig, gate, running = Rig(tmp_path, drain_timeout=0), asyncio.Event(), asyncio.Event()

    async def on_error(data: Any) -> None:
        running.set()
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    rig.on_error = on_error
    rig.add(refusing("never"))
    async with rig.running():
        await rig.put(1)
        await running.wait()
    gate.set()
    await turns(5)


# What a stop gives up


@pytest.mark.parametrize(("failures", "attempts"), [(0, 1), (3, 4)])
async def test_what_a_stop_gives_up_has_the_attempts_that_were_made(
    tmp_path: Path, failures: int, attempts: int
) -> None:
    rig = Rig(tmp_path, drain_timeout=0)
    target = rig.to(
        Target(plan=[*[ValueError("no")] * failures, HANG]),
        delivery=DeliverySettings(retry=Retry(attempts=0, min=1e-9, max=1e-9)),
    )
    async with rig.running():
        await rig.put(1)
        await target.hanging.wait()
        await rig.put(2)
    assert [record.dead["attempts"] for record in rig.dead()] == [attempts, 0]


async def test_an_event_of_a_batch_that_waits_for_its_next_try_has_the_attempts_before(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, drain_timeout=0)

    async def half(events: list[Envelope]) -> list[Any]:
        return [None if index % 2 else ValueError("no") for index in range(len(events))]

    lane = rig.add(
        Target(batching=True, plan=[half]),
        delivery=DeliverySettings(retry=Retry(attempts=9, min=1000, max=1000)),
    )
    rig.fill(4)
    async with rig.running():
        await until(lambda: lane.counters.retried)
    assert [(record.body, record.dead["attempts"]) for record in rig.dead()] == [(0, 1), (2, 1)]


async def test_the_callback_is_told_of_what_a_stop_gives_up(tmp_path: Path) -> None:
    rig, told = Rig(tmp_path, drain_timeout=0), list[Any]()
    target = rig.to(Target(plan=[HANG]))
    rig.on_error = told.append
    async with rig.running():
        rig.put_nowait(1)
        await target.hanging.wait()
        rig.put_nowait(2)
    assert [(data["body"], data["plugin"], str(data["exception"])) for data in told] == [
        (b"1", "plugin0", "not delivered when the bus stopped"),
        (b"2", "plugin0", "not delivered when the bus stopped"),
    ]


# The report


async def test_the_report_never_names_the_store_as_the_place_of_what_is_not_there(tmp_path: Path) -> None:
    rig = Rig(tmp_path, drain_timeout=0)
    rig.path.mkdir()
    rig.add(refusing("never"))
    async with rig.running():
        await rig.put(1)
    report = rig.bus.report
    assert report is not None
    assert (report.dead, report.lost, report.undelivered) == (1, 1, {})
    assert str(report).startswith(
        "everything was delivered but 1 dead before the stop; 1 dead event is lost: cannot write "
        f"{rig.path}: it is a folder"
    )
    assert "written" not in str(report)


async def test_the_report_counts_what_died_whatever_the_limit_of_the_store(
    rig: Rig, monkeypatch: Any
) -> None:
    monkeypatch.setattr("tests.evbus.rig.DeadStore", functools.partial(DeadStore, limit=3_000))

    rig.to(Target(plan=[Rejected("never")] * 100))

    def written() -> int:
        store = rig.bus.snapshot()["dead_store"]
        return int(store["stored"]) + int(store["lost"])

    async with rig.running():
        for number in range(100):
            await rig.put(number)
            if not number % 5:  # so that no batch is as large as the store may be
                await until(functools.partial(lambda count: written() == count, number + 1))
    report, store = rig.bus.report, rig.bus.snapshot()["dead_store"]
    assert report is not None
    kept = len(rig.dead())
    assert 0 < kept < 100
    assert (report.dead, report.lost) == (100, 100 - kept)
    assert (store["stored"], store["lost"]) == (kept, 100 - kept)
    assert str(report).startswith(
        f"everything was delivered but 100 dead before the stop; {100 - kept} dead events are lost: the "
        f"dead store {rig.path} is at its limit; the others are written to {rig.path} ("
    )


# From another thread, when the loop is blocked


async def test_what_is_left_can_be_recorded_while_the_loop_is_blocked(rig: Rig) -> None:
    target = rig.to(Target(plan=[HANG]))
    rig.on_error = lambda data: None
    async with rig.running():
        for number in range(3):
            await rig.put(number)
        await target.hanging.wait()
        rig.put_nowait(3)
        reports: list[Any] = []
        thread = threading.Thread(target=lambda: reports.append(rig.bus.record_undelivered()))
        thread.start()
        thread.join(WAIT)  # the loop stands still meanwhile
        (report,) = reports
        assert (report.undelivered, report.lost) == ({"plugin0.provider.*": 4}, 0)
        assert sorted(rig.dead_lettered()) == [b"0", b"1", b"2", b"3"]
        rig.bus.hurry()
    assert len(rig.dead_lettered()) == 4
