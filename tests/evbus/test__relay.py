"""Deliveries from outside in the lanes: what settles them, and when."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from evbus.errors import BusStopped, Rejected
from evbus.evbus._relay import Tracker
from evbus.evbus._route import Totals
from evbus.evbus._settings import Delivery as Settings
from evbus.types import Delivery, Envelope
from tests.evbus.rig import HANG, SOON, Rig, Target, turns, until, within


class Acks:
    """Deliveries and what became of them: numbers in the order in which they were acknowledged."""

    def __init__(self) -> None:
        self.acked: list[int] = []

    def make(self, number: int) -> Delivery:
        return Delivery(Envelope("in", body=b"%d" % number), self._settle, number)

    def _settle(self, tag: int, accepted: bool, requeue: bool) -> None:
        assert accepted
        self.acked.append(tag)


def relay(rig: Rig, acks: Acks, *numbers: int, profile: str = "out") -> None:
    for number in numbers:
        delivery = acks.make(number)
        rig.bus.relay(delivery, delivery.envelope.replace(profile=profile), rig.bus.destinations(profile))


@pytest.fixture
def acks() -> Acks:
    return Acks()


@pytest.fixture
def rig(tmp_path: Any) -> Rig:
    return Rig(tmp_path)


@pytest.mark.parametrize("batching", [True, False])
def test_what_is_delivered_is_acknowledged_in_order(rig: Rig, acks: Acks, batching: bool) -> None:
    target = Target(batching=batching)

    async def main() -> None:
        rig.add(target)
        async with rig.running():
            relay(rig, acks, *range(20))
            await within(rig.bus.relayed(9))
            assert acks.acked == [*range(20)]
        assert target.got == [b"%d" % number for number in range(20)]
        found = rig.check()
        assert (found["bus"]["relayed"], found["bus"]["accepted"]) == (20, 0)

    asyncio.run(main())


def test_a_delivery_is_acknowledged_when_every_lane_is_done_with_it(rig: Rig, acks: Acks) -> None:
    quick, slow = Target(), Target()
    slow.plan.append(HANG)

    async def main() -> None:
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

    asyncio.run(main())


def test_a_dead_event_is_on_the_disk_before_its_delivery_is_acknowledged(rig: Rig, acks: Acks) -> None:
    target, other = Target(), Target()
    target.plan.append(Rejected("never"))
    seen: list[list[bytes]] = []
    acks.make = lambda number: Delivery(  # type: ignore[method-assign]
        Envelope("in", body=b"%d" % number), lambda *_: seen.append(rig.buried()), number
    )

    async def main() -> None:
        rig.add(target)
        rig.add(other)
        async with rig.running():
            relay(rig, acks, 1)
            await within(rig.bus.relayed(9))
        assert other.got == [b"1"]

    asyncio.run(main())
    assert seen == [[b"1"]]


def test_what_the_dead_store_cannot_take_is_not_acknowledged(
    tmp_path: Any, acks: Acks, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    rig, target = Rig(tmp_path / "file"), Target()
    target.plan.append(Rejected("never"))

    async def main() -> None:
        rig.add(target)
        async with rig.running():
            relay(rig, acks, 1)
            await within(rig.bus.relayed(9))

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert acks.acked == []
    assert "a dead event cannot be recorded, and stays with its source" in caplog.text


def test_a_dead_letter_profile_has_it_before_it_is_acknowledged(rig: Rig, acks: Acks) -> None:
    refusing, parking = Target(), Target()
    refusing.plan.append(Rejected("never"))
    parking.plan.append(HANG)

    async def main() -> None:
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

    asyncio.run(main())


def test_a_dead_letter_that_is_not_delivered_leaves_all_to_the_source(rig: Rig, acks: Acks) -> None:
    refusing, parking = Target(), Target()
    refusing.plan.append(Rejected("never"))
    parking.plan.append(HANG)

    async def main() -> None:
        rig.add(refusing, "out", Settings(retry=SOON, dead_letter="parking"))
        rig.add(parking, "parking")
        async with rig.running():
            relay(rig, acks, 1)
            await within(parking.hanging.wait())
            rig.bus.hurry()
        await within(rig.bus.relayed(9))

    asyncio.run(main())
    assert (acks.acked, rig.dead()) == ([], [])


def test_what_a_policy_drops_is_acknowledged(rig: Rig, acks: Acks) -> None:
    target = Target()
    target.plan.append(HANG)

    async def main() -> None:
        lane = rig.add(target, "out", Settings(buffer=2, on_full="drop_oldest"))
        async with rig.running():
            relay(rig, acks, 0)
            await within(target.hanging.wait())
            relay(rig, acks, 1, 2, 3, 4)
            assert acks.acked == [1, 2]
            target.release.set()
        assert acks.acked == [1, 2, 0, 3, 4]
        assert lane.counters.dropped == 2

    asyncio.run(main())


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_bus_that_ends_leaves_what_is_not_delivered_to_the_source(rig: Rig, acks: Acks, lanes: int) -> None:
    targets = [Target() for _ in range(lanes)]

    async def main() -> None:
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

    asyncio.run(main())
    assert acks.acked == []
    assert rig.buried() == [b"own"] * lanes


def test_waiting_for_the_rest_ends_with_the_time_or_the_bus(rig: Rig, acks: Acks) -> None:
    target = Target()
    target.plan.append(HANG)

    async def main() -> None:
        rig.add(target)
        async with rig.running():
            relay(rig, acks, 1)
            await within(rig.bus.relayed(0.001))
            waiting = asyncio.ensure_future(rig.bus.relayed(60))
            await within(target.hanging.wait())
            rig.bus.hurry()
            await within(waiting)
        assert acks.acked == []

    asyncio.run(main())


def test_what_no_lane_can_have_is_dead_in_each(rig: Rig, acks: Acks) -> None:
    first, second = Target(), Target()

    async def main() -> None:
        rig.add(first)
        rig.add(second)
        async with rig.running():
            delivery = acks.make(1)
            rig.bus.refuse(delivery, delivery.envelope, rig.bus.destinations("out"), Rejected("odd"))
            await within(rig.bus.relayed(9))
        assert [lane["dead"] for lane in rig.check()["lanes"].values()] == [1, 1]

    asyncio.run(main())
    assert (acks.acked, first.got) == ([1], [])
    assert [record.dead["reason"] for record in rig.dead()] == ["odd", "odd"]


def test_a_bus_that_does_not_run_takes_nothing(rig: Rig, acks: Acks) -> None:
    async def main() -> None:
        rig.add(Target())
        with pytest.raises(BusStopped):
            rig.bus.destinations("out")
        async with rig.running():
            lanes = rig.bus.destinations("out")
        delivery = acks.make(1)
        for hand_over in (
            lambda: rig.bus.relay(delivery, delivery.envelope, lanes),
            lambda: rig.bus.refuse(delivery, delivery.envelope, lanes, Rejected("odd")),
        ):
            with pytest.raises(BusStopped):
                hand_over()
        await within(rig.bus.relayed(9))

    asyncio.run(main())
    assert acks.acked == []


def test_nothing_is_kept_of_what_is_settled(acks: Acks) -> None:
    async def flush() -> bool:
        return True

    async def main() -> None:
        tracker = Tracker(Totals(), threading.Lock(), lambda _lane, _dead: None, flush)
        delivery = acks.make(1)
        event, letter = delivery.envelope, delivery.envelope.replace(profile="parking")
        tracker.track(delivery, event, 2)
        assert repr(tracker) == "<Tracker unsettled=1 relayed=1>"
        tracker.follow(event, letter, 1)
        tracker.died([event])
        tracker.done([letter, Envelope("own")])
        tracker.done([event])
        await within(tracker.quiet(9))
        assert repr(tracker) == "<Tracker unsettled=0 relayed=1>"
        assert tracker.give_back([event, letter]) == [event, letter]

    asyncio.run(main())
    assert acks.acked == [1]
