"""Lanes: whose turn it is, who comes next, and who waits for whom."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.engine.handling.dispatch.lane import Hold, KeyedLane, Queued, find, held, leads_back
from evbus.errors import DispatcherStopped
from tests.dispatch.rig import caught, turns, within


def chain(*holds: Hold) -> Any:
    """Return the chain of holds whose innermost is the last."""
    found = None
    for hold in holds:
        found = (hold, found)
    return found


def test_a_lane_is_there_for_as_long_as_somebody_has_its_turn() -> None:
    lanes: dict[Any, KeyedLane] = {}
    lane = KeyedLane(lanes, "k")
    assert find(lanes, "k") is lane
    lane.pass_on()
    assert lanes == {}


def test_what_cannot_be_a_key_is_refused_with_a_sentence() -> None:
    with pytest.raises(
        TypeError, match="^key is something hashable, such as a string or a number, and no list$"
    ):
        find({}, [1])


def test_turns_come_in_order_to_callers_and_to_messages() -> None:
    async def main() -> None:
        lanes: dict[Any, KeyedLane] = {}
        lane, order, holds = KeyedLane(lanes, "k"), [], [None]

        async def caller(name: str) -> None:
            await lane.turn()
            order.append(name)
            assert lane.hold is not holds[-1]
            holds.append(lane.hold)
            lane.pass_on()

        def begin() -> None:
            order.append("message")
            lane.pass_on()

        first = asyncio.ensure_future(caller("first"))
        await turns(1)
        lane.waiting.append(Queued(begin, lambda: None))
        last = asyncio.ensure_future(caller("last"))
        await turns(1)
        lane.pass_on()
        await within(asyncio.gather(first, last))
        assert order == ["first", "message", "last"]
        assert lanes == {}

    asyncio.run(main())


@pytest.mark.parametrize("granted", [False, True])
def test_a_caller_that_is_cancelled_holds_nobody_up(granted: bool) -> None:
    async def main() -> None:
        lanes: dict[Any, KeyedLane] = {}
        lane = KeyedLane(lanes, "k")
        first, second = (asyncio.ensure_future(lane.turn()) for _ in range(2))
        await turns(1)
        if granted:
            lane.pass_on()
        first.cancel()
        assert isinstance(await caught(first), asyncio.CancelledError)
        if not granted:
            lane.pass_on()
        await within(second)
        lane.pass_on()
        assert lanes == {}

    asyncio.run(main())


def test_what_waits_is_dropped_each_with_an_error_of_its_own() -> None:
    async def main() -> None:
        lanes: dict[Any, KeyedLane] = {}
        lane, dropped = KeyedLane(lanes, "k"), []
        callers = [asyncio.ensure_future(lane.turn()) for _ in range(3)]
        await turns(1)
        lane.waiting.append(Queued(lambda: None, lambda: dropped.append(1)))
        callers[0].cancel()
        lane.drop(DispatcherStopped)
        problems = [await caught(caller) for caller in callers]
        assert [type(one) for one in problems] == [
            asyncio.CancelledError,
            DispatcherStopped,
            DispatcherStopped,
        ]
        assert problems[1] is not problems[2]
        assert dropped == [1]
        assert find(lanes, "k") is lane
        lane.pass_on()
        assert lanes == {}

    asyncio.run(main())


def test_holds_are_told_from_the_innermost() -> None:
    lanes: dict[Any, KeyedLane] = {}
    one, two = (KeyedLane(lanes, key).hold for key in "ab")
    assert list(held(chain(one, two))) == [two, one]
    assert list(held(None)) == []


def test_a_lane_leads_back_to_who_holds_it_and_to_who_waits_for_that() -> None:
    lanes: dict[Any, KeyedLane] = {}
    one, two, three, other = (KeyedLane(lanes, key) for key in "abcd")
    assert leads_back(one, chain(one.hold))
    assert not leads_back(two, chain(one.hold))
    two.hold.waits.append(three)
    assert not leads_back(two, chain(one.hold))
    three.hold.waits += [other, one]
    assert leads_back(two, chain(one.hold))
    assert leads_back(two, chain(one.hold, other.hold))
    assert not leads_back(other, chain(one.hold))
    # Those that wait for each other, but not for who asks, are somebody else's affair.
    other.hold.waits.append(other)
    assert not leads_back(other, chain(one.hold))


def test_a_turn_that_is_passed_on_leads_back_no_longer() -> None:
    async def main() -> None:
        lanes: dict[Any, KeyedLane] = {}
        lane = KeyedLane(lanes, "k")
        own = chain(lane.hold)
        waiting = asyncio.ensure_future(lane.turn())
        await turns(1)
        assert leads_back(lane, own)
        lane.pass_on()
        assert not leads_back(lane, own)
        await within(waiting)
        lane.pass_on()

    asyncio.run(main())
