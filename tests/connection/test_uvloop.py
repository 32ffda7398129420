"""STOMP and AMQP 1.0 on another event loop: there and back."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop

from evbus.types import Subscription
from tests.connection import amqp1_kit, stomp_kit


@pytest.fixture(scope="module", autouse=True)
def what_stays_with_the_process() -> None:
    """Make the pipe that libuv keeps for all loops, which so is none that a test leaves behind."""
    uvloop.new_event_loop().close()


def run(main: Coroutine[Any, Any, None]) -> None:
    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def there_and_back(kit: Any, node: Any, key: str) -> None:
    data = {"url": kit.url(node)}
    async with kit.opened(kit.new_hub(), **data) as ctx:
        assert await ctx.state.publish([kit.event(key, b"x" * 100_000, {"a": "b"})]) == [None]
    async with kit.consuming(kit.new_hub(), Subscription(name=key), **data) as following:
        delivery = await following()
        assert (delivery.envelope.body, delivery.envelope.headers["a"]) == (b"x" * 100_000, "b")
        delivery.ack()


def test_stomp_goes_there_and_back(rabbitmq: Any, unique: str) -> None:
    run(there_and_back(stomp_kit, rabbitmq, unique))


def test_stomp_goes_there_and_back_with_activemq(activemq: Any, unique: str) -> None:
    run(there_and_back(stomp_kit, activemq, unique))


def test_amqp_1_0_goes_there_and_back(rabbitmq4: Any, unique: str) -> None:
    rabbitmq4.declare_queue(unique)
    run(there_and_back(amqp1_kit, rabbitmq4, unique))
