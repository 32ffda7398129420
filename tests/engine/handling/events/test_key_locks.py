"""Turns by key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.engine.handling.events.key_locks import KeyLocks
from evbus.errors import InvalidPayload
from tests.event.kit import go


class Places:
    """Stands for the workers: counts the places that are taken."""

    def __init__(self) -> None:
        self.taken = 0

    def leave(self) -> None:
        self.taken -= 1

    def take(self) -> None:
        self.taken += 1


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_those_of_one_key_have_their_turns_in_the_order_in_which_they_came() -> None:
    async def main() -> None:
        places: Any = Places()
        keys, log = KeyLocks(places), list[int]()

        async def work(number: int, gate: asyncio.Event) -> None:
            await keys.acquire("a")
            log.append(number)
            await gate.wait()
            keys.release("a")

        gates = [asyncio.Event() for _ in range(3)]
        tasks = [asyncio.ensure_future(work(number, gate)) for number, gate in enumerate(gates)]
        await turns()
        assert (log, len(keys), places.taken) == ([0], 1, -2)
        for number, gate in enumerate(gates):
            gate.set()
            await tasks[number]
            await turns()
        assert (log, len(keys), places.taken) == ([0, 1, 2], 0, 0)

    go(main)


def test_other_keys_do_not_wait() -> None:
    async def main() -> None:
        places: Any = Places()
        keys = KeyLocks(places)
        for key in (1, "1", None, (1, 2), 2.5):
            await keys.acquire(key)
        assert (len(keys), places.taken) == (5, 0)
        for key in (1, "1", None, (1, 2), 2.5):
            keys.release(key)
        assert len(keys) == 0

    go(main)


def test_who_is_cancelled_while_waiting_holds_nobody_up() -> None:
    async def main() -> None:
        places: Any = Places()
        keys = KeyLocks(places)
        await keys.acquire("a")
        second, third = (asyncio.ensure_future(keys.acquire("a")) for _ in range(2))
        await turns()
        second.cancel()
        await asyncio.wait({second})
        assert places.taken == -1
        keys.release("a")
        await third
        assert places.taken == 0
        keys.release("a")
        assert len(keys) == 0

    go(main)


def test_who_is_cancelled_with_the_turn_in_its_hand_passes_it_on() -> None:
    async def main() -> None:
        places: Any = Places()
        keys = KeyLocks(places)
        await keys.acquire("a")
        second, third = (asyncio.ensure_future(keys.acquire("a")) for _ in range(2))
        await turns()
        keys.release("a")
        second.cancel()
        await asyncio.wait({second})
        await third
        keys.release("a")
        assert (len(keys), second.cancelled()) == (0, True)

    go(main)


@pytest.mark.parametrize("key", [[], {}, set()], ids=str)
def test_what_cannot_be_a_key_is_told(key: Any) -> None:
    places: Any = Places()
    keys = KeyLocks(places)
    with pytest.raises(InvalidPayload) as caught:
        go(lambda: keys.acquire(key))
    kind = type(key).__name__
    assert str(caught.value) == (
        f"the key of a listener is something hashable, such as a string, and no {kind}"
    )
    assert len(keys) == 0
