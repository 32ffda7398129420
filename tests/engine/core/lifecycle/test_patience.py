"""The time that a stop has."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.engine.core.lifecycle import patience as lifecycle_patience
from evbus.engine.core.lifecycle.patience import Patience, within


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(lifecycle_patience.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_seconds_count_from_the_beginning(clock: Clock) -> None:
    patience = Patience(10)
    clock.now += 4
    assert patience.left() == 6
    patience.limit()
    assert patience.left() == 6
    clock.now += 7
    assert patience.left() == 0


def test_with_progress_they_count_from_the_last_delivery_until_there_is_a_limit(clock: Clock) -> None:
    done: list[Any] = []
    patience = Patience(10, lambda: len(done))
    for _ in range(20):
        clock.now += 9
        done.append(1)
        assert patience.left() == 10
    clock.now += 9
    assert patience.left() == 1
    patience.limit()
    assert patience.left() == 10
    clock.now += 4
    done.append(1)
    assert patience.left() == 6


def test_closing_has_a_time_of_its_own_that_all_of_it_shares(clock: Clock) -> None:
    patience = Patience(10)
    assert patience.grace(5) == 5
    clock.now += 11
    assert patience.grace(5) == lifecycle_patience.CLOSING - 1
    clock.now += 11
    assert patience.grace(5) == lifecycle_patience.MOMENT
    assert patience.grace(0.01) == 0.01


def test_its_repr_says_what_is_left(clock: Clock) -> None:
    assert repr(Patience(3)) == "<Patience left=3.0>"
    assert repr(Patience(3, lambda: 0)) == "<Patience left=3.0 steady>"


async def test_who_is_cancelled_while_it_waits_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()
    endless = [asyncio.Event().wait() for _ in range(2)]
    cut_short: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(within(60, endless, cut_short, 1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waiting.cancelled()
    assert asyncio.all_tasks() == before
