"""A start that listeners have a part in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.errors import ProfileError
from tests.evbus.kit import WAIT, new_hub, running
from tests.event.kit import OrderPlaced, settled


async def test_a_start_that_a_listener_cannot_go_along_with_keeps_what_was_sent() -> None:
    got: list[int] = []

    hub = new_hub()

    async def on(event: OrderPlaced) -> None:
        got.append(event.total)

    wrong = hub.event.init.subscribe(OrderPlaced, on, profile="elsewhere")
    hub.evbus.broker.put_nowait("OrderPlaced", OrderPlaced("A-1", 1))
    starting = asyncio.ensure_future(hub.evbus.init.start({"internal": {"default": {}}}))
    with pytest.raises(ProfileError, match="there is no profile that 'elsewhere' matches"):
        await asyncio.wait_for(hub.evbus.init.join(), WAIT)
    await asyncio.gather(starting, return_exceptions=True)
    assert await hub.event.init.unsubscribe(wrong)
    hub.event.init.subscribe(OrderPlaced, on)
    async with running(hub, {"internal": {"default": {}}}):
        await hub.event.init.send(OrderPlaced("A-2", 2))
        await settled(hub)
    assert got == [1, 2]


async def test_a_bus_that_was_cancelled_leaves_no_listener_behind() -> None:
    got: list[Any] = []

    hub = new_hub()

    async def on(event: OrderPlaced) -> None:
        got.append(event.total)

    hub.event.init.subscribe(OrderPlaced, on, per_process=True)
    for _ in range(2):
        bus = asyncio.ensure_future(hub.evbus.init.start({"internal": {"default": {}}}))
        await asyncio.wait_for(hub.evbus.init.join(), WAIT)
        bus.cancel()
        await asyncio.wait({bus})
        assert [found["listening"] for found in hub.event.init.subscriptions()] == [False]
    async with running(hub, {"internal": {"default": {}}}):
        await hub.event.init.send(OrderPlaced("A-1", 1))
        await settled(hub)
    assert got == [1]
