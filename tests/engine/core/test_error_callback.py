"""The error callback: told of one thing after another, and never waited for."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from evbus.engine.core import error_callback
from evbus.engine.core.broker import IN_CALLBACK
from evbus.engine.core.error_callback import ErrorCallback
from evbus.errors import BusStopped
from tests.evbus.kit import WAIT


def nothing() -> None:
    pass


def item(number: int) -> dict[str, Any]:
    return {"number": number}


@pytest.mark.parametrize("kind", ["plain", "async", "returns an awaitable"])
async def test_it_is_told_of_one_after_another_in_their_order(kind: str) -> None:
    told: list[int] = []
    running = 0

    def plain(data: dict[str, Any]) -> None:
        nonlocal running
        running += 1
        assert running == 1
        told.append(data["number"])
        running -= 1

    async def later(data: dict[str, Any]) -> None:
        nonlocal running
        running += 1
        await asyncio.sleep(0)
        running -= 1
        plain(data)

    def returning(data: dict[str, Any]) -> Any:
        return later(data)

    functions = {"plain": plain, "async": later, "returns an awaitable": returning}

    ended = asyncio.Event()
    callback = ErrorCallback(functions[kind], ended.set)
    assert not callback.busy
    for number in range(5):
        callback.tell(item(number))
    assert callback.busy
    await ended.wait()
    assert not callback.busy
    callback.tell(item(5))
    await callback.wait(WAIT)
    assert not callback.busy
    await callback.close(0)
    assert told == list(range(6))


async def test_a_plain_function_runs_in_a_thread_and_may_put_while_the_bus_drains() -> None:
    seen: list[Any] = []

    def on_error(data: dict[str, Any]) -> None:
        seen.append((threading.current_thread() is threading.main_thread(), IN_CALLBACK.get()))

    callback = ErrorCallback(on_error, nothing)
    callback.tell(item(1))
    await callback.wait(WAIT)
    assert seen == [(False, True)]


async def test_one_that_fails_or_is_cancelled_from_within_is_logged_and_told_of_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[int] = []

    async def on_error(data: dict[str, Any]) -> None:
        told.append(data["number"])
        raise [ValueError("no"), asyncio.CancelledError()][data["number"]]

    callback = ErrorCallback(on_error, nothing)
    callback.tell(item(0))
    callback.tell(item(1))
    await callback.wait(WAIT)
    await callback.close(0)
    assert told == [0, 1]
    assert caplog.text.count("the function named by error_callback_ref failed") == 2
    assert "was not told" not in caplog.text


@pytest.mark.parametrize("plain", [True, False])
async def test_one_that_puts_what_a_stopping_bus_does_not_take_is_logged_once_in_a_line(
    plain: bool, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []

    def on_error(data: dict[str, Any]) -> None:
        told.append(data["number"])
        raise BusStopped

    async def later(data: dict[str, Any]) -> None:
        on_error(data)

    callback = ErrorCallback(on_error if plain else later, nothing)
    for number in range(5):
        callback.tell(item(number))
    await callback.wait(WAIT)
    await callback.close(0)
    assert told == list(range(5))
    (record,) = caplog.records
    assert record.exc_info is None
    assert record.getMessage().endswith("puts events, and the bus, which stops, takes none any more")


async def test_what_is_too_much_is_skipped_with_one_warning_and_counted_in_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(error_callback, "MAX_UNTOLD", 2)
    told: list[int] = []
    begun = asyncio.Event()

    async def on_error(data: dict[str, Any]) -> None:
        told.append(data["number"])
        begun.set()
        await asyncio.Event().wait()

    callback = ErrorCallback(on_error, nothing)
    callback.tell(item(0))
    await begun.wait()
    for number in range(1, 6):
        callback.tell(item(number))
    await callback.wait(0)
    assert callback.busy
    await callback.close(WAIT)
    assert not callback.busy
    assert told == [0]
    assert caplog.text.count("is too slow: it is not told of all") == 1
    assert "was not told of 6 failures" in caplog.text


async def test_one_that_cannot_be_cancelled_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    gate, stubborn = asyncio.Event(), asyncio.Event()

    async def on_error(data: dict[str, Any]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stubborn.set()
            await gate.wait()

    callback = ErrorCallback(on_error, nothing)
    callback.tell(item(0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await callback.close(0.001)
    assert stubborn.is_set()
    gate.set()
    await callback.wait(WAIT)
    assert "was not told of 1 failures" in caplog.text
