"""Deliveries from outside in the lanes: what settles them, and when."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from typing import Any

import pytest

from evbus.engine.core.lane.relay import Tracker
from evbus.engine.core.queue import Queue
from evbus.engine.core.settings import DeliverySettings as Settings
from evbus.engine.core.settings import Retry
from evbus.errors import BusStopped, DeliveryError, Rejected, Unavailable
from evbus.types import Delivery, Envelope, Origin
from tests.evbus.rig import HANG, SOON, Rig, Target, numbers, turns, until, within


class Acks:
    """Deliveries and what became of them: numbers in the order in which they were acknowledged."""

    def __init__(self) -> None:
        self.acked: list[int] = []

    def make(self, number: int, origin: Origin | None = None) -> Delivery:
        return Delivery(Envelope("in", body=b"%d" % number), self._settle, number, origin=origin)

    def _settle(self, tag: int, accepted: bool, requeue: bool) -> None:
        assert accepted
        self.acked.append(tag)


def relay(rig: Rig, acks: Acks, *numbers: int, profile: str = "out", origin: Origin | None = None) -> None:
    for number in numbers:
        delivery = acks.make(number, origin)
        rig.bus.relaying().relay(
            delivery, delivery.envelope.replace(profile=profile), rig.bus.lanes_of(profile)
        )


@pytest.fixture
def acks() -> Acks:
    return Acks()


@pytest.mark.parametrize("batching", [True, False])
async def test_what_is_delivered_is_acknowledged_in_order(rig: Rig, acks: Acks, batching: bool) -> None:
    target = rig.to(Target(batching=batching))
    async with rig.running():
        relay(rig, acks, *range(20))
        await within(rig.bus.relayed(9))
        assert acks.acked == [*range(20)]
    assert target.got == [b"%d" % number for number in range(20)]
    found = rig.check()
    assert (found["bus"]["relayed"], found["bus"]["accepted"]) == (20, 0)


async def test_a_delivery_is_acknowledged_when_every_lane_is_done_with_it(rig: Rig, acks: Acks) -> None:
    quick, slow = Target(), Target()
    slow.plan.append(HANG)

    rig.add(quick)
    rig.add(slow)
    async with rig.running():
        relay(rig, acks, 1)
        await until(lambda: quick.got and slow.hanging.is_set())
        await turns(5)
        assert acks.acked == []
        slow.release.set()
        await within(rig.bus.relayed(9))
    assert acks.acked == [1]


async def test_a_dead_event_is_on_the_disk_before_its_delivery_is_acknowledged(rig: Rig, acks: Acks) -> None:
    other = Target()
    target = Target(plan=[Rejected("never")])
    seen: list[list[bytes]] = []
    acks.make = lambda number, origin=None: Delivery(  # type: ignore[method-assign]
        Envelope("in", body=b"%d" % number), lambda *_: seen.append(rig.dead_lettered()), number
    )

    rig.add(target)
    rig.add(other)
    async with rig.running():
        relay(rig, acks, 1)
        await within(rig.bus.relayed(9))
    assert other.got == [b"1"]
    assert seen == [[b"1"]]


async def test_what_the_dead_store_cannot_take_is_not_acknowledged(
    tmp_path: Any, acks: Acks, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    rig = Rig(tmp_path / "file")
    target = Target(plan=[Rejected("never")])

    with caplog.at_level(logging.ERROR):
        rig.add(target)
        async with rig.running():
            relay(rig, acks, 1)
            await within(rig.bus.relayed(9))
    assert acks.acked == []
    assert "a dead event cannot be recorded, and stays with its source" in caplog.text


async def test_a_dead_letter_profile_has_it_before_it_is_acknowledged(rig: Rig, acks: Acks) -> None:
    refusing, parking = Target(), Target()
    refusing.plan.append(Rejected("never"))
    parking.plan.append(HANG)

    rig.add(refusing, "out", Settings(retry=SOON, dead_letter="parking"))
    rig.add(parking, "parking")
    async with rig.running():
        relay(rig, acks, 1)
        await within(parking.hanging.wait())
        await turns(5)
        assert acks.acked == []
        parking.release.set()
        await within(rig.bus.relayed(9))
        assert acks.acked == [1]
    assert parking.letters[0].headers["evbus-dead-reason"] == "never"
    rig.check()


async def test_a_dead_letter_that_is_not_delivered_leaves_all_to_the_source(rig: Rig, acks: Acks) -> None:
    refusing, parking = Target(), Target()
    refusing.plan.append(Rejected("never"))
    parking.plan.append(HANG)

    rig.add(refusing, "out", Settings(retry=SOON, dead_letter="parking"))
    rig.add(parking, "parking")
    async with rig.running():
        relay(rig, acks, 1)
        await within(parking.hanging.wait())
        rig.bus.hurry()
    await within(rig.bus.relayed(9))
    assert (acks.acked, rig.dead()) == ([], [])


async def test_what_a_policy_drops_is_acknowledged(rig: Rig, acks: Acks) -> None:
    target = Target(plan=[HANG])

    lane = rig.add(target, "out", Settings(buffer=2, on_full="drop_oldest"))
    async with rig.running():
        relay(rig, acks, 0)
        await within(target.hanging.wait())
        relay(rig, acks, 1, 2, 3, 4)
        assert acks.acked == [1, 2]
        target.release.set()
    assert acks.acked == [1, 2, 0, 3, 4]
    assert lane.counters.dropped == 2


@pytest.mark.parametrize("lanes", [1, 2])
async def test_a_bus_that_ends_leaves_what_is_not_delivered_to_the_source(
    rig: Rig, acks: Acks, lanes: int
) -> None:
    targets = [Target() for _ in range(lanes)]

    for target in targets:
        target.plan.append(HANG)
        rig.add(target)
    async with rig.running():
        relay(rig, acks, 1, 2)
        rig.put_nowait(b"own", "out")
        await within(targets[0].hanging.wait())
        rig.bus.hurry()
    assert rig.bus.report is not None
    assert sum(rig.bus.report.undelivered.values()) == lanes
    rig.check()
    assert acks.acked == []
    assert rig.dead_lettered() == [b"own"] * lanes


async def test_waiting_for_the_rest_ends_with_the_time_or_the_bus(rig: Rig, acks: Acks) -> None:
    target = rig.to(Target(plan=[HANG]))
    async with rig.running():
        relay(rig, acks, 1)
        await within(rig.bus.relayed(0.001))
        waiting = asyncio.ensure_future(rig.bus.relayed(60))
        await within(target.hanging.wait())
        rig.bus.hurry()
        await within(waiting)
    assert acks.acked == []


async def test_what_no_lane_can_have_is_dead_in_each(rig: Rig, acks: Acks) -> None:
    first, second = Target(), Target()

    rig.add(first)
    rig.add(second)
    async with rig.running():
        delivery = acks.make(1)
        rig.bus.relaying().refuse(delivery, delivery.envelope, rig.bus.lanes_of("out"), Rejected("odd"))
        await within(rig.bus.relayed(9))
    assert [lane["dead"] for lane in rig.check()["lanes"].values()] == [1, 1]
    assert (acks.acked, first.got) == ([1], [])
    assert [record.dead["reason"] for record in rig.dead()] == ["odd", "odd"]


async def test_a_bus_that_does_not_run_takes_nothing(rig: Rig, acks: Acks) -> None:
    rig.add(Target())
    with pytest.raises(BusStopped):
        rig.bus.relaying()
    async with rig.running():
        lanes = rig.bus.lanes_of("out")
    delivery = acks.make(1)
    for hand_over in (
        lambda: rig.bus.relaying().relay(delivery, delivery.envelope, lanes),
        lambda: rig.bus.relaying().refuse(delivery, delivery.envelope, lanes, Rejected("odd")),
    ):
        with pytest.raises(BusStopped):
            hand_over()
    await within(rig.bus.relayed(9))
    assert acks.acked == []


async def test_nothing_is_kept_of_what_is_settled(acks: Acks) -> None:
    async def flush() -> bool:
        return True

    tracker = Tracker(Queue(), lambda _lane, _dead: None, flush)
    delivery = acks.make(1)
    event, letter = delivery.envelope, delivery.envelope.replace(profile="parking")
    tracker.track(delivery, event, 2)
    assert repr(tracker) == "<Tracker unsettled=1 relayed=1>"
    tracker.follow(event, letter, 1)
    tracker.done([event], died=True)
    tracker.done([letter, Envelope("own")])
    tracker.done([event])
    await within(tracker.wait_idle(9))
    assert repr(tracker) == "<Tracker unsettled=0 relayed=1>"
    assert tracker.give_back([event, letter]) == [event, letter]
    assert acks.acked == [1]


@pytest.mark.parametrize("batching", [True, False])
async def test_what_no_lane_has_begun_with_is_dropped_with_what_it_came_over(
    rig: Rig, acks: Acks, batching: bool
) -> None:
    other = Target()
    target = Target(batching=batching, plan=[HANG])

    first, second = Origin(), Origin()
    lane = rig.add(target, "out", delivery=Settings(batch=2, retry=SOON))
    rig.add(other)
    async with rig.running():
        relay(rig, acks, *range(6), origin=first)
        await rig.put(b"own", "out")
        await within(target.hanging.wait())
        await until(lambda: len(other.got) == 7)
        flying = lane.counters.in_flight
        first.end("the connection was lost")
        rig.check()
        assert (lane.counters.accepted, lane.snapshot()["queued"]) == (flying + 1, 1)
        relay(rig, acks, *range(6), origin=second)
        target.release.set()
        await within(rig.bus.relayed(9))
        # What was in flight cannot be called back.
        again = [b"%d" % number for number in range(6)]
        assert target.got == [*again[:flying], b"own", *again]
        assert acks.acked[-6:] == [*range(6)]
        rig.check()


@pytest.mark.parametrize("batching", [True, False])
async def test_what_comes_again_is_not_tried_again(rig: Rig, acks: Acks, batching: bool) -> None:
    origin = Origin()

    async def fails(events: list[Envelope]) -> list[Exception]:
        origin.end("the connection was lost")
        return [Unavailable("down") for _ in events]

    target = Target(batching=batching, plan=[fails])

    lane = rig.add(target, delivery=Settings(retry=SOON))
    async with rig.running():
        relay(rig, acks, 1, origin=origin)
        await until(lambda: lane.idle)
        rig.check()
        await rig.put(b"own", "out")
        await until(lambda: target.got)
    assert (target.tried, acks.acked) == ([[b"1"], [b"own"]], [])
    assert (lane.counters.accepted, lane.counters.delivered) == (1, 1)


@pytest.mark.parametrize("how", ["batching", "one by one", "overlapping"])
@pytest.mark.parametrize("why", ["fails", "is down"])
async def test_under_way_is_never_more_than_was_taken_however_often_the_source_is_lost(
    rig: Rig, acks: Acks, how: str, why: str
) -> None:
    target = Target(
        batching=how != "one by one", overlap=how == "overlapping", plan=[Unavailable("it is down")] * 1000
    )
    up: list[bool] = []

    def ready(_ctx: Any) -> tuple[str, Any] | None:
        return None if up else ("it is down", until(lambda: up))

    options = {"ready": ready} if why == "is down" else {}
    slowly = Settings(batch=3, retry=Retry(attempts=3, min=60, max=60))
    lane = rig.add(target, delivery=slowly, **options)
    async with rig.running():
        for _ in range(6):
            origin = Origin()
            relay(rig, acks, *range(4), origin=origin)
            await turns(20)
            found = rig.check()["lanes"][str(lane.key)]
            assert found["queued"] + found["in_flight"] == 4
            origin.end("lost")
            assert lane.idle
        rig.check()
        up.append(True)
        target.plan.clear()
        if why == "is down":
            relay(rig, acks, *range(4), origin=Origin())
            await within(rig.bus.relayed(9))
    again = numbers(4) if why == "is down" else []
    assert (target.got, acks.acked) == (again, [*range(len(again))])
    assert lane.counters.accepted == lane.counters.delivered == len(again)


async def test_what_comes_again_is_not_sent_once_its_destination_is_ready(rig: Rig, acks: Acks) -> None:
    target, origin, up = Target(batching=True), Origin(), asyncio.Event()

    async def until_up() -> None:
        await up.wait()

    lane = rig.add(target, ready=lambda _: None if up.is_set() else ("it is down", until_up()))
    async with rig.running():
        relay(rig, acks, *range(4), origin=origin)
        await until(lambda: lane.state == "waiting")
        assert lane.counters.in_flight == 4
        origin.end("the connection was lost")
        up.set()
        await until(lambda: lane.idle)
        rig.check()
        relay(rig, acks, *range(4), origin=Origin())
        await within(rig.bus.relayed(9))
    assert target.got == numbers(4)
    assert (lane.counters.accepted, acks.acked) == (4, [*range(4)])


async def test_an_event_that_is_equal_to_one_that_comes_again_is_delivered(rig: Rig) -> None:
    origin, acked = Origin(), list[int]()

    async def fails(events: list[Envelope]) -> list[Exception]:
        origin.end("the connection was lost")
        return [Unavailable("down") for _ in events]

    target = Target(batching=True, plan=[fails])

    lane = rig.add(target, delivery=Settings(retry=SOON))
    async with rig.running():
        lanes = rig.bus.lanes_of("out")
        for number, each in enumerate((origin, None)):
            event = Envelope("out", body=b"the same")
            delivery = Delivery(event, lambda tag, *_: acked.append(tag), number, origin=each)
            rig.bus.relaying().relay(delivery, event, lanes)
        await within(rig.bus.relayed(9))
        await until(lambda: lane.idle)
        rig.check()
    assert (target.got, acked) == ([b"the same"], [1])


async def test_what_is_sent_alone_is_looked_at_again_before(rig: Rig, acks: Acks) -> None:
    origin = Origin()
    refused = DeliveryError("one of these")

    async def all_refused(events: list[Envelope]) -> list[Exception]:
        return [refused for _ in events]

    async def lost(events: list[Envelope]) -> list[None]:
        origin.end("the connection was lost")
        return [None for _ in events]

    target = Target(batching=True, plan=[all_refused, lost])

    lane = rig.add(target, delivery=Settings(retry=SOON))
    async with rig.running():
        relay(rig, acks, *range(3), origin=origin)
        await until(lambda: lane.idle)
        rig.check()
    assert target.tried == [numbers(3), [b"0"]]
    assert lane.counters.accepted == 1


async def test_what_waits_for_the_one_that_is_sent_alone_is_dropped_too(rig: Rig, acks: Acks) -> None:
    origin = Origin()
    target = Target(batching=True, plan=[ValueError("one of them is bad"), HANG])

    lane = rig.add(target, delivery=Settings(retry=SOON))
    async with rig.running():
        relay(rig, acks, *range(4), origin=origin)
        await within(target.hanging.wait())
        assert [len(events) for events in target.tried] == [4, 1]
        origin.end("the connection was lost")
        assert lane.counters.in_flight + lane.snapshot()["queued"] == 1
        rig.check()
        target.release.set()
        await until(lambda: lane.idle)
        assert lane.counters.accepted == lane.counters.delivered == len(target.got) == 1
        assert len(target.tried) == 2
        rig.check()
    assert acks.acked == []


class Refusing(Target):
    async def publish_batch(self, _ctx: Any, events: list[Envelope]) -> Any:
        return [Rejected("no") for _ in events]


async def test_a_thousand_dead_ones_are_settled_after_few_syncs_and_not_before(
    rig: Rig, acks: Acks, monkeypatch: Any
) -> None:
    # What was settled when the file was synced, and how many lines that had then.
    synced: list[tuple[int, int]] = [(0, 0)]
    real = os.fsync

    def fsync(fd: int) -> None:
        lines = rig.path.read_bytes().count(b"\n")
        settled = len(acks.acked)
        real(fd)
        synced.append((settled, lines))

    monkeypatch.setattr("evbus.engine.kit.append.os.fsync", fsync)

    rig.add(Refusing(batching=True), "out", delivery=Settings(batch=5, retry=SOON))
    async with rig.running():
        relay(rig, acks, *range(1_000))
        await until(lambda: len(acks.acked) == 1_000)
    assert all(settled <= lines for (_, lines), (settled, _) in itertools.pairwise(synced))
    assert (synced[-1][1], len(rig.dead_lettered())) == (1_000, 1_000)
    assert len(synced) <= 200
