"""The dispatcher without a hub, messages, and handlers that do what a test tells them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from evbus.engine.handling.dispatch.dispatcher import Dispatcher
from evbus.engine.handling.pool import WorkerPool
from tests.evbus.rig import turns, until, within

__all__ = [
    "Gate",
    "Order",
    "Paid",
    "Urgent",
    "assert_empty",
    "caught",
    "failures",
    "new",
    "running",
    "turns",
    "until",
    "within",
]


@dataclass
class Order:
    number: int = 0


@dataclass
class Urgent(Order):
    pass


@dataclass
class Paid:
    number: int = 0


class Gate:
    """A handler that waits until it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.entered: list[Any] = []
        self.ended: list[Any] = []
        self.cancelled: list[Any] = []

    async def __call__(self, message: Any) -> Any:
        self.entered.append(message)
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled.append(message)
            raise
        self.ended.append(message)
        return message

    def open(self) -> None:
        self.opened.set()


def new(**options: Any) -> Dispatcher:
    return Dispatcher(**options)


def failures(dispatcher: Dispatcher) -> list[Any]:
    """Return a list that gets the failures that nobody waits for."""
    found: list[Any] = []
    dispatcher.core.on_failure = found.append
    return found


async def caught(awaitable: Any) -> BaseException | None:
    """Return what something raises."""
    try:
        await within(awaitable)
    except BaseException as exc:
        return exc
    return None


def assert_empty(dispatcher: Dispatcher) -> None:
    for router in dispatcher.routers:
        assert not router.locks, router
        for pool in (router.pool, router._nested):
            _assert_unused(pool)
    assert not dispatcher.core.alone


def _assert_unused(pool: WorkerPool) -> None:
    assert (pool.active, len(pool), pool.behind) == (0, 0, 0), pool
    assert not pool._workers, pool
    assert pool._busy == 0, pool


@contextlib.asynccontextmanager
async def running(dispatcher: Dispatcher) -> AsyncIterator[Dispatcher]:
    """Start a dispatcher; stop it afterwards, and see that nothing is left behind."""
    before = asyncio.all_tasks()
    dispatcher.start()
    try:
        yield dispatcher
    finally:
        report = await within(dispatcher.stop())
    assert report.unhandled == {}
    # The tasks of callers may still be told of their end.
    await turns(20)
    assert asyncio.all_tasks() <= before
    assert_empty(dispatcher)
