"""Once for each key: after a success never again, after a failure once more, and never at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus.engine.stages.once import DUPLICATE, Memory, Once
from tests.evbus.rig import turns


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Work:
    """Something to be done that waits until the test says how it ends."""

    def __init__(self) -> None:
        self.begun: list[asyncio.Future[Any]] = []

    async def __call__(self) -> Any:
        future = asyncio.get_running_loop().create_future()
        self.begun.append(future)
        return await future


def once() -> Once:
    return Once(Memory(60, 100))


def returning(value: Any) -> Callable[[], Awaitable[Any]]:
    async def call() -> Any:
        return value

    return call


async def failing() -> None:
    raise KeyError("no")


async def test_what_has_succeeded_is_not_done_again() -> None:
    guard = once()
    assert await guard.run("a", returning(1)) == 1
    assert await guard.run("a", returning(2)) is DUPLICATE
    assert await guard.run("b", returning(3)) == 3
    assert (guard.dropped, len(guard.window)) == (1, 2)
    assert repr(guard) == "<Once running=0 remembered=2 dropped=1>"


async def test_what_has_failed_is_done_again() -> None:
    guard = once()
    with pytest.raises(KeyError):
        await guard.run("a", failing)
    assert await guard.run("a", returning(2)) == 2
    assert guard.dropped == 0


async def test_a_second_waits_while_the_first_is_under_way_and_drops_when_it_succeeds() -> None:
    guard, work = once(), Work()
    runs = [asyncio.ensure_future(guard.run("a", work)) for _ in range(3)]
    await turns(10)
    assert len(work.begun) == 1
    work.begun[0].set_result("done")
    assert await asyncio.gather(*runs) == ["done", DUPLICATE, DUPLICATE]
    assert guard.dropped == 2


@pytest.mark.parametrize("how", ["raises", "is cancelled"])
async def test_after_a_failure_one_of_those_that_wait_does_it(how: str) -> None:
    guard, work = once(), Work()
    runs = [asyncio.ensure_future(guard.run("a", work)) for _ in range(3)]
    await turns(10)
    if how == "raises":
        work.begun[0].set_exception(KeyError("no"))
    else:
        runs[0].cancel()
    await turns(10)
    assert len(work.begun) == 2
    work.begun[1].set_result("done")
    first, *others = await asyncio.gather(*runs, return_exceptions=True)
    assert isinstance(first, KeyError if how == "raises" else asyncio.CancelledError)
    assert sorted(map(repr, others)) == ["'done'", "DUPLICATE"]


async def test_who_is_cancelled_while_waiting_disturbs_nobody() -> None:
    guard, work = once(), Work()
    runs = [asyncio.ensure_future(guard.run("a", work)) for _ in range(3)]
    await turns(10)
    runs[1].cancel()
    await turns(10)
    assert runs[1].cancelled()
    work.begun[0].set_result("done")
    assert await runs[0] == "done"
    assert await runs[2] is DUPLICATE


def test_another_window_can_take_the_place_of_the_one_in_memory() -> None:
    class Everything:
        def __contains__(self, key: Hashable) -> bool:
            return True

        def __len__(self) -> int:
            return 0

        def add(self, key: Hashable) -> None: ...

    assert asyncio.run(Once(Everything()).run("a", returning(1))) is DUPLICATE


def test_memory_forgets_after_its_seconds() -> None:
    clock = Clock()
    memory = Memory(10, 100, clock)
    memory.add("a")
    clock.now += 9.9
    assert "a" in memory
    clock.now += 0.1
    assert "a" not in memory
    memory.add("b")
    assert (len(memory), memory.forgotten, repr(memory)) == (1, 0, "<Memory 1 of 100 keys, 10 s>")


def test_memory_holds_no_more_than_its_limit_and_forgets_the_oldest() -> None:
    memory = Memory(10, 3, Clock())
    for key in "abcad":
        memory.add(key)
    assert [key for key in "abcd" if key in memory] == ["a", "c", "d"]
    assert (len(memory), memory.forgotten) == (3, 1)


@given(steps=st.lists(st.tuples(st.integers(0, 5), st.floats(0, 4)), max_size=60), limit=st.integers(1, 6))
def test_memory_remembers_exactly_the_newest_within_its_seconds(
    steps: list[tuple[int, float]], limit: int
) -> None:
    clock, added = Clock(), dict[int, float]()
    memory = Memory(10, limit, clock)
    for key, pause in steps:
        clock.now += pause
        memory.add(key)
        added.pop(key, None)
        added[key] = clock.now
        recent = [one for one, at in added.items() if clock.now < at + 10][-limit:]
        assert {one for one in range(6) if one in memory} == set(recent)
        assert len(memory) == len(recent)
