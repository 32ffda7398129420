"""Telling a plugin's failures from our own cancellation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.engine.kit.waiting import Deadline
from evbus.engine.kit.waiting import call as call_once
from evbus.errors import DeliveryError, DeliveryTimeout
from tests.evbus.rig import turns, until, within

TINY = 1e-6


@pytest.fixture(params=["call", "Deadline"])
def call(request: Any) -> Any:
    """Return both ways of awaiting a plugin, one after the other."""
    return (
        call_once if request.param == "call" else lambda coroutine, seconds: Deadline(seconds).call(coroutine)
    )


async def value() -> int:
    return 5


async def value_later() -> int:
    await asyncio.sleep(0)
    return 5


async def stray() -> None:
    raise asyncio.CancelledError


async def stray_later() -> None:
    await asyncio.sleep(0)
    raise asyncio.CancelledError


async def awaits_cancelled() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def fails() -> None:
    await asyncio.sleep(0)
    raise KeyError("x")


async def times_out_itself() -> None:
    await asyncio.sleep(0)
    raise TimeoutError("its own")


async def forever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("seconds", [0, 20])
@pytest.mark.parametrize("plugin", [value, value_later])
def test_the_result_comes_out(plugin: Any, seconds: float, call: Any) -> None:
    assert asyncio.run(call(plugin(), seconds)) == 5


@pytest.mark.parametrize("seconds", [0, 20])
@pytest.mark.parametrize("plugin", [stray, stray_later, awaits_cancelled])
def test_a_plugin_that_cancels_itself_failed_to_deliver(plugin: Any, seconds: float, call: Any) -> None:
    with pytest.raises(DeliveryError, match="cancelled from within"):
        asyncio.run(call(plugin(), seconds))


def cancel_this_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@pytest.mark.parametrize("turns_before", [0, 1, 2])
@pytest.mark.parametrize("turns_after", [0, 1])
@pytest.mark.parametrize("seconds", [0, 20])
async def test_a_plugin_that_cancels_its_task_has_failed_unless_it_ends_well_and_the_task_goes_on(
    turns_before: int, turns_after: int, seconds: float, call: Any
) -> None:
    async def plugin() -> int:
        await turns(turns_before)
        cancel_this_task()
        await turns(turns_after)
        return 5

    task = asyncio.current_task()
    assert task is not None
    for _ in range(2):
        if turns_after:
            with pytest.raises(DeliveryError, match="cancelled from within"):
                await call(plugin(), seconds)
        else:
            assert await call(plugin(), seconds) == 5
        assert task.cancelling() == 0
        await turns(2)


async def test_who_cancels_the_task_as_well_as_its_plugin_does_ends_it(call: Any) -> None:
    async def plugin() -> None:
        await asyncio.sleep(0)
        cancel_this_task()
        try:
            await asyncio.sleep(0)
        finally:
            cancelled.append("from within")
            await forever()

    cancelled: list[str] = []
    task = asyncio.ensure_future(call(plugin(), 20))
    await until(lambda: cancelled)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(task)


@pytest.mark.parametrize(("plugin", "kind"), [(fails, KeyError), (times_out_itself, TimeoutError)])
def test_its_own_errors_stay_what_they_are(plugin: Any, kind: type[Exception], call: Any) -> None:
    with pytest.raises(kind) as caught:
        asyncio.run(call(plugin(), 20))
    assert not isinstance(caught.value, DeliveryError)


def test_what_takes_too_long_says_so(call: Any) -> None:
    with pytest.raises(DeliveryTimeout, match=r"delivery.timeout"):
        asyncio.run(call(forever(), TINY))


def test_a_plugin_that_ends_well_when_it_is_told_to_end_has_delivered(call: Any) -> None:
    async def stubborn() -> int:
        try:
            await forever()
        except asyncio.CancelledError:
            return 7
        return 0

    assert asyncio.run(call(stubborn(), TINY)) == 7


@pytest.mark.parametrize("seconds", [0, 20])
async def test_our_own_cancellation_stays_one_and_reaches_the_plugin(seconds: float, call: Any) -> None:
    seen = []

    async def plugin() -> None:
        try:
            await forever()
        finally:
            seen.append("ended")

    task = asyncio.ensure_future(call(plugin(), seconds))
    await turns(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(task)
    assert seen == ["ended"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_plugin_that_fails_when_it_is_cancelled_makes_no_noise(caplog: Any, call: Any) -> None:
    async def plugin() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            raise ConnectionError("lost") from None

    task = asyncio.ensure_future(call(plugin(), 20))
    await turns(3)
    task.cancel()
    with pytest.raises((asyncio.CancelledError, ConnectionError)):
        await within(task)
    assert caplog.text == ""


async def test_a_cancellation_in_the_moment_of_the_deadline_is_not_lost_in_what_a_plugin_makes_of_it(
    call: Any,
) -> None:
    async def plugin() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as exc:
            raise ConnectionError("not connected") from exc

    async def both() -> None:
        # The task is told of the two together, at its next step.
        asyncio.get_running_loop().call_at(0, task.cancel)
        await call(plugin(), TINY)

    async def late() -> None:
        await call(plugin(), TINY)

    with pytest.raises(ConnectionError, match="not connected"):
        await within(late())
    for _ in range(10):
        task = asyncio.ensure_future(both())
        await asyncio.wait({task})
        assert task.cancelled()


def test_a_plugin_finds_its_own_task_and_timeouts_work_inside_it(call: Any) -> None:
    async def plugin() -> str:
        assert asyncio.current_task() is not None
        try:
            await asyncio.wait_for(forever(), TINY)
        except TimeoutError:
            return "timed out inside"
        return ""

    assert asyncio.run(call(plugin(), 20)) == "timed out inside"


async def test_one_timer_serves_many_calls_in_turn_and_at_once() -> None:
    deadline = Deadline(0.05)
    for _ in range(3):
        assert await deadline.call(value_later()) == 5
    slow = [asyncio.ensure_future(deadline.call(forever())) for _ in range(3)]
    await turns(2)
    quick = asyncio.ensure_future(deadline.call(value_later()))
    await asyncio.wait([*slow, quick])
    assert quick.result() == 5
    for task in slow:
        assert isinstance(task.exception(), DeliveryTimeout)
    assert await deadline.call(value_later()) == 5
    deadline.close()
