"""Turns by key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.engine.handling.events.workers import Workers
from evbus.errors import InvalidPayload
from tests.event.kit import go


async def nothing(job: object) -> None:
    pass


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_those_of_one_key_have_their_turns_in_the_order_in_which_they_came() -> None:
    keys, log = Workers(nothing, 1, "w"), list[int]()

    async def work(number: int, gate: asyncio.Event) -> None:
        await keys.acquire("a")
        log.append(number)
        await gate.wait()
        keys.release("a")

    gates = [asyncio.Event() for _ in range(3)]
    tasks = [asyncio.ensure_future(work(number, gate)) for number, gate in enumerate(gates)]
    await turns()
    assert (log, len(keys.locks), keys.active) == ([0], 1, -2)
    for number, gate in enumerate(gates):
        gate.set()
        await tasks[number]
        await turns()
    assert (log, len(keys.locks), keys.active) == ([0, 1, 2], 0, 0)


async def test_other_keys_do_not_wait() -> None:
    keys = Workers(nothing, 1, "w")
    for key in (1, "1", None, (1, 2), 2.5):
        await keys.acquire(key)
    assert (len(keys.locks), keys.active) == (5, 0)
    for key in (1, "1", None, (1, 2), 2.5):
        keys.release(key)
    assert len(keys.locks) == 0


async def test_who_is_cancelled_while_waiting_holds_nobody_up() -> None:
    keys = Workers(nothing, 1, "w")
    await keys.acquire("a")
    second, third = (asyncio.ensure_future(keys.acquire("a")) for _ in range(2))
    await turns()
    second.cancel()
    await asyncio.wait({second})
    assert keys.active == -1
    keys.release("a")
    await third
    assert keys.active == 0
    keys.release("a")
    assert len(keys.locks) == 0


async def test_who_is_cancelled_with_the_turn_in_its_hand_passes_it_on() -> None:
    keys = Workers(nothing, 1, "w")
    await keys.acquire("a")
    second, third = (asyncio.ensure_future(keys.acquire("a")) for _ in range(2))
    await turns()
    keys.release("a")
    second.cancel()
    await asyncio.wait({second})
    await third
    keys.release("a")
    assert (len(keys.locks), second.cancelled()) == (0, True)


@pytest.mark.parametrize("key", [[], {}, set()], ids=str)
def test_what_cannot_be_a_key_is_told(key: Any) -> None:
    keys = Workers(nothing, 1, "w")
    with pytest.raises(InvalidPayload) as caught:
        go(lambda: keys.acquire(key))
    kind = type(key).__name__
    assert str(caught.value) == (
        f"the key of a listener is something hashable, such as a string, and no {kind}"
    )
    assert len(keys.locks) == 0
