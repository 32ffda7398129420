"""What a listener of RabbitMQ holds and has not begun: when it stops, and when its connection breaks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest

from evbus.types import Subscription
from tests.evbus.kit import new_hub, running
from tests.event.kit import send
from tests.ingress.amqp_kit import eventually
from tests.transports.kit import WAIT
from tests.transports.listening import Inbox, order

pytestmark = pytest.mark.parametrize("each_rabbitmq", ["3.10", "4.0", "4.3"], indirect=True)


def profiles(node: Any, unique: str, port: int = 0) -> dict[str, Any]:
    data = {
        "url": f"amqp://guest:guest@{node.host}:{port or node.port}/",
        "exchange": {"name": unique, "type": "topic", "auto_delete": True},
        "queue": {"type": "quorum"},
        "reconnect": {"min": 0.01, "max": 0.1},
    }
    return {"amqp": {"default": data}}


def hub_in(folder: Any) -> Any:
    return new_hub(dead_store=folder / "dead.jsonl", drain_timeout=WAIT)


async def test_what_was_not_begun_goes_back_at_once_when_the_listener_stops(
    each_rabbitmq: Any, unique: str, tmp_path: Any
) -> None:

    gate = asyncio.Event()

    async def handle(_event: Any) -> None:
        await gate.wait()

    kind = order(unique, durable=True)
    inbox = Inbox(kind, handle)
    sender, hub = hub_in(tmp_path), hub_in(tmp_path)
    inbox.listen(hub)
    async with running(sender, profiles(each_rabbitmq, unique)), AsyncExitStack() as stack:
        await stack.enter_async_context(running(hub, profiles(each_rabbitmq, unique)))
        await send(sender, *(kind(number) for number in range(8)))
        assert (await inbox.next()).number == 0
        (found,) = hub.event.init.subscriptions(unique)
        while found["queued"] < 7:
            await asyncio.sleep(0.01)
            (found,) = hub.event.init.subscriptions(unique)
        stopping = asyncio.ensure_future(stack.aclose())
        wanted = Subscription(name=unique, group="inbox")
        consumed = sender.evbus.bridge.consume.func(
            sender, profiles(each_rabbitmq, unique), "default", wanted
        )
        async with aclosing(consumed) as deliveries:
            others = [await asyncio.wait_for(anext(deliveries), WAIT) for _ in range(7)]
            assert not stopping.done()
            # Nobody has begun with them, and where the broker can tell, they were never delivered.
            counts = {delivery.delivery_count or 0 for delivery in others}
            assert counts == ({0} if each_rabbitmq.version >= (4, 3) else {1})
            for delivery in others:
                delivery.ack()
            gate.set()
            await asyncio.wait_for(stopping, WAIT)
        assert [event.number for event in inbox.got] == [0]
    assert each_rabbitmq.queue_depth(f"{unique}::inbox") == 0
    each_rabbitmq.delete_queue(f"{unique}::inbox")


async def test_behind_closings_each_event_is_handled_and_what_was_not_begun_only_once(
    each_rabbitmq: Any, unique: str, tmp_path: Any, proxy: Callable[..., Any]
) -> None:
    way = proxy(each_rabbitmq.port)
    closings = 5

    kind = order(unique, durable=True)

    async def handle(event: Any) -> None:
        if event.number % 4 == 3 and handled[event.number] == 1 and len(cut) < closings:
            cut.add(event.number)
            way.cut()
            await asyncio.wait_for(inbox_hub_lost(), WAIT)

    async def inbox_hub_lost() -> None:
        connects = [one["connects"] for one in hub.connection.init.states().values()]
        await eventually(
            lambda: [one["connects"] for one in hub.connection.init.states().values()] != connects,
            "it is connected again",
        )

    handled: Counter[int] = Counter()
    cut: set[int] = set()

    async def counting(event: Any) -> None:
        handled[event.number] += 1
        await asyncio.sleep(0.02)  # as slow as a listener is that holds what it has not begun
        await handle(event)

    inbox = Inbox(kind, counting)
    sender, hub = hub_in(tmp_path), hub_in(tmp_path)
    inbox.listen(hub)
    async with (
        running(sender, profiles(each_rabbitmq, unique)),
        running(hub, profiles(each_rabbitmq, unique, way.port)),
    ):
        await send(sender, *(kind(number) for number in range(24)))
        await eventually(lambda: len(handled) == 24, "everything is handled")
    assert set(handled) == set(range(24))
    # What was running, and what the acknowledgement of may have been under way; it held ten.
    assert sum(handled.values()) <= 24 + 2 * closings
    assert not (tmp_path / "dead.jsonl").exists()
    assert each_rabbitmq.queue_depth(f"{unique}::inbox") == 0
    each_rabbitmq.delete_queue(f"{unique}::inbox")
