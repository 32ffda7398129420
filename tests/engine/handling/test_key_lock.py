"""Locks of keys: whose turn it is, who comes next, and who waits for whom."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.engine.handling.key_lock import KeyLock, find, held, leads_back
from evbus.errors import DispatcherStopped
from tests.dispatch.rig import caught, turns, within


def chain(*holds: Any) -> Any:
    """Return the chain of holds whose innermost is the last."""
    found = None
    for hold in holds:
        found = (hold, found)
    return found


def test_a_lock_is_there_for_as_long_as_somebody_has_its_turn() -> None:
    locks: dict[Any, KeyLock] = {}
    lock = KeyLock(locks, "k")
    assert find(locks, "k") is lock
    lock.release()
    assert locks == {}


def test_what_cannot_be_a_key_is_refused_with_a_sentence() -> None:
    with pytest.raises(
        TypeError, match="^key is something hashable, such as a string or a number, and no list$"
    ):
        find({}, [1])


async def test_turns_come_in_order_to_callers_and_to_messages() -> None:
    locks: dict[Any, KeyLock] = {}
    lock, order, holds = KeyLock(locks, "k"), [], [None]

    async def caller(name: str) -> None:
        await lock.acquire()
        order.append(name)
        assert lock.hold is not holds[-1]
        holds.append(lock.hold)
        lock.release()

    def begin() -> None:
        order.append("message")
        lock.release()

    first = asyncio.ensure_future(caller("first"))
    await turns(1)
    lock.waiting.append((begin, lambda: None))
    last = asyncio.ensure_future(caller("last"))
    await turns(1)
    lock.release()
    await within(asyncio.gather(first, last))
    assert order == ["first", "message", "last"]
    assert locks == {}


@pytest.mark.parametrize("granted", [False, True])
async def test_a_caller_that_is_cancelled_holds_nobody_up(granted: bool) -> None:
    locks: dict[Any, KeyLock] = {}
    lock = KeyLock(locks, "k")
    first, second = (asyncio.ensure_future(lock.acquire()) for _ in range(2))
    await turns(1)
    if granted:
        lock.release()
    first.cancel()
    assert isinstance(await caught(first), asyncio.CancelledError)
    if not granted:
        lock.release()
    await within(second)
    lock.release()
    assert locks == {}


async def test_what_waits_is_dropped_each_with_an_error_of_its_own() -> None:
    locks: dict[Any, KeyLock] = {}
    lock, dropped = KeyLock(locks, "k"), []
    callers = [asyncio.ensure_future(lock.acquire()) for _ in range(3)]
    await turns(1)
    lock.waiting.append((lambda: None, lambda: dropped.append(1)))
    callers[0].cancel()
    lock.drop(DispatcherStopped)
    problems = [await caught(caller) for caller in callers]
    assert [type(one) for one in problems] == [
        asyncio.CancelledError,
        DispatcherStopped,
        DispatcherStopped,
    ]
    assert problems[1] is not problems[2]
    assert dropped == [1]
    assert find(locks, "k") is lock
    lock.release()
    assert locks == {}


def test_holds_are_told_from_the_innermost() -> None:
    locks: dict[Any, KeyLock] = {}
    one, two = (KeyLock(locks, key).hold for key in "ab")
    assert list(held(chain(one, two))) == [two, one]
    assert list(held(None)) == []


def test_a_lock_leads_back_to_who_holds_it_and_to_who_waits_for_that() -> None:
    locks: dict[Any, KeyLock] = {}
    one, two, three, other = (KeyLock(locks, key) for key in "abcd")
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


async def test_a_lock_that_is_released_leads_back_no_longer() -> None:
    locks: dict[Any, KeyLock] = {}
    lock = KeyLock(locks, "k")
    own = chain(lock.hold)
    waiting = asyncio.ensure_future(lock.acquire())
    await turns(1)
    assert leads_back(lock, own)
    lock.release()
    assert not leads_back(lock, own)
    await within(waiting)
    lock.release()
