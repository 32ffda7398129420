"""Frames: who has a slot while some call waits, and coroutines that are begun by hand."""

from __future__ import annotations

import asyncio
from contextvars import Context, ContextVar, copy_context
from typing import Any

import pytest

from evbus.engine.handling.frame import CURRENT, Invocation, resume
from evbus.engine.handling.pool import WorkerPool
from tests.dispatch.rig import caught, turns, within

WHERE: ContextVar[str] = ContextVar("where", default="nowhere")


def free() -> None:
    pass


@pytest.fixture
def pool() -> WorkerPool:
    """Return one with a single slot, which is taken."""
    made = WorkerPool(free)
    made.bound(1, 0)
    assert made.try_enter()
    return made


@pytest.fixture
def root(pool: WorkerPool) -> Invocation:
    """Return a root that has the slot."""
    return Invocation(None, None, None, None, None, pool)


def test_no_message_is_handled_at_first() -> None:
    assert Context().run(CURRENT.get) is None


def test_a_root_gives_its_slot_back_once(pool: WorkerPool, root: Invocation) -> None:
    root.leave()
    root.leave()
    assert pool.active == 0


async def test_a_root_has_its_slot_again_when_no_call_below_waits(pool: WorkerPool, root: Invocation) -> None:
    root.give_way()
    root.give_way()
    assert pool.active == 0
    await root.go_on()
    assert pool.active == 0
    await root.go_on()
    assert (pool.active, root.away) == (1, False)
    root.leave()
    assert pool.active == 0


async def test_a_root_waits_for_its_slot_when_others_have_taken_it(
    pool: WorkerPool, root: Invocation
) -> None:
    root.give_way()
    assert pool.try_enter()
    going = asyncio.ensure_future(root.go_on())
    await turns(3)
    assert not going.done()
    pool.leave()
    await within(going)
    assert (pool.active, root.away) == (1, False)
    root.leave()


@pytest.mark.parametrize("by_worker", [False, True])
async def test_a_slot_that_comes_too_late_is_given_back(
    pool: WorkerPool, root: Invocation, by_worker: bool
) -> None:
    root.give_way()
    assert pool.try_enter()
    going = asyncio.ensure_future(root.go_on())
    await turns(3)
    # Its root ends, as it did not wait for the task with that call.
    if by_worker:
        root.end()
    else:
        root.leave()
    assert pool.active == (2 if by_worker else 1)
    pool.leave()
    if by_worker:
        pool.leave()
    await within(going)
    assert (pool.active, len(pool)) == (0, 0)


async def test_a_slot_is_not_kept_when_another_call_waits_by_now(pool: WorkerPool, root: Invocation) -> None:
    root.give_way()
    assert pool.try_enter()
    going = asyncio.ensure_future(root.go_on())
    await turns(3)
    root.give_way()
    pool.leave()
    await within(going)
    assert (pool.active, root.away, root.blocked) == (0, True, 1)
    await root.go_on()
    assert (pool.active, root.away) == (1, False)
    root.leave()


async def test_who_is_cancelled_has_its_slot_at_once_even_if_there_is_none(
    pool: WorkerPool, root: Invocation
) -> None:
    root.give_way()
    assert pool.try_enter()
    root.retake()
    assert (pool.active, root.away) == (2, False)
    root.give_way()
    assert pool.try_enter() is False
    going = asyncio.ensure_future(root.go_on())
    await turns(3)
    going.cancel()
    assert isinstance(await caught(going), asyncio.CancelledError)
    assert (pool.active, root.away) == (2, False)
    pool.leave()
    root.leave()
    await turns(3)
    assert (pool.active, len(pool)) == (0, 0)


@pytest.mark.parametrize("away", [False, True])
def test_a_worker_has_its_slot_when_its_root_has_ended(
    pool: WorkerPool, root: Invocation, away: bool
) -> None:
    if away:
        root.give_way()
    assert pool.active == (0 if away else 1)
    root.end()
    assert pool.active == 1


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("by_worker", [False, True])
async def test_what_outlives_its_root_keeps_the_slot(
    pool: WorkerPool, root: Invocation, away: bool, by_worker: bool
) -> None:
    pool.bound(3, 0)
    root.below = 2
    if away:
        root.give_way()
    root.ended = True
    if by_worker:
        root.end()
        pool.leave()
    else:
        root.leave()
    assert pool.active == (0 if away else 1)
    if away:
        await root.go_on()
    assert pool.active == 1
    root.done_below()
    assert pool.active == 1
    root.done_below()
    assert (pool.active, root.pool) == (0, None)


def test_what_ends_before_its_root_leaves_it_the_slot(pool: WorkerPool, root: Invocation) -> None:
    root.below = 1
    root.done_below()
    assert pool.active == 1
    root.leave()
    assert pool.active == 0


# Coroutines begun by hand


def begun(context: Context, coroutine: Any) -> Any:
    return resume(context, coroutine, context.run(coroutine.send, None))


async def test_a_coroutine_that_was_begun_by_hand_keeps_its_context() -> None:
    seen = []

    async def work() -> str:
        WHERE.set("inside")
        await asyncio.sleep(0)
        seen.append(WHERE.get())
        await asyncio.sleep(0)
        seen.append(WHERE.get())
        return "done"

    context = copy_context()
    assert await begun(context, work()) == "done"
    assert seen == ["inside", "inside"]
    assert (WHERE.get(), context[WHERE]) == ("nowhere", "inside")


async def test_errors_go_into_it_and_come_out_of_it() -> None:

    async def fails() -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, KeyError("in"))
        try:
            await future
        except KeyError:
            raise ValueError("out") from None

    with pytest.raises(ValueError, match="out"):
        await begun(copy_context(), fails())

    async def forever() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "cancelled"
        return "never"

    task = asyncio.ensure_future(begun(copy_context(), forever()))
    await turns(2)
    task.cancel()
    assert await within(task) == "cancelled"


async def test_it_is_closed_in_its_context() -> None:
    seen = []

    async def work() -> None:
        token = WHERE.set("inside")
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(WHERE.get())
            WHERE.reset(token)

    rest = begun(copy_context(), work())
    rest.send(None)
    rest.close()
    assert seen == ["inside"]
