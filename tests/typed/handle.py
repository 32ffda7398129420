"""What mypy sees of the handle of a bus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_type

from evbus import testing
from evbus.api import BusHandle, Envelope, EventListener, SyncBus, bus, event, event_listener


@event()
@dataclass
class OrderPlaced:
    order_id: str


@event()
@dataclass
class Paid:
    total: float


class Repo:
    pass


def on(event: OrderPlaced) -> None: ...


async def with_hub(hub: Any, event: OrderPlaced) -> None: ...


def with_envelope(event: OrderPlaced, envelope: Envelope) -> None: ...


def injected(event: OrderPlaced, repo: Repo) -> None: ...


def on_other(event: Paid) -> None: ...


def keep(event: Any) -> None: ...


class Listener(EventListener[OrderPlaced]):
    def __init__(self, hub: Any) -> None: ...

    def on(self, event: OrderPlaced) -> None: ...


class OtherListener(EventListener[Paid]):
    def on(self, event: Paid) -> None: ...


def decorated() -> Callable[[OrderPlaced], str]:
    @event_listener(OrderPlaced, concurrency=3)
    def listener(event: OrderPlaced) -> str:
        return event.order_id

    return listener


async def right(events: BusHandle | testing.Bus) -> None:
    await events.send(OrderPlaced("A-1"), headers={"tenant": "t1"})
    events.send_nowait(OrderPlaced("A-1"))
    number: str = events.subscribe(OrderPlaced, on)
    events.subscribe(OrderPlaced, with_hub, name="billing", group="shop", metadata=1)
    events.subscribe(OrderPlaced, with_envelope, concurrency=3, retry={"attempts": 2})
    events.subscribe(OrderPlaced, injected)
    events.subscribe(OrderPlaced, Listener)
    events.subscribe("OrderPlaced", keep)
    assert_type(await events.unsubscribe(number), bool)
    await events.ready()
    await events.settle()
    await events.put({"id": 1})
    await events.put({"id": 1}, profile="orders")
    await events.put("orders", {"id": 1}, "default")
    await events.put(body=OrderPlaced("A-1"))
    events.put_nowait("orders", {"id": 1})
    assert_type(decorated()(OrderPlaced("A-1")), str)


def right_without_a_loop(events: SyncBus, test: testing.SyncBus) -> None:
    events.send(OrderPlaced("A-1"), headers={"tenant": "t1"})
    events.put({"id": 1}, profile="orders")
    events.put_nowait("orders", {"id": 1})
    assert_type(events.unsubscribe("x"), bool)
    events.ready()
    number: str = test.subscribe(OrderPlaced, on, concurrency=3)
    assert_type(test.expect(OrderPlaced), OrderPlaced)
    assert_type(test.handled(OrderPlaced, listener=number, count=2), list[OrderPlaced])
    assert_type(test.sent(OrderPlaced), list[OrderPlaced])
    test.subscribe(OrderPlaced, on_other)  # type: ignore[arg-type]
    events.put_nowait(5, 6, 7)  # type: ignore[call-overload]


def wrong(events: BusHandle) -> None:
    events.subscribe(OrderPlaced, on_other)  # type: ignore[arg-type]
    events.subscribe(OrderPlaced, OtherListener)  # type: ignore[arg-type]
    events.subscribe(OrderPlaced, on, concurency=3)  # type: ignore[call-overload]
    events.subscribe(OrderPlaced, on, concurrency="3")  # type: ignore[call-overload]
    events.put_nowait(5, 6, 7)  # type: ignore[call-overload]
    event_listener(OrderPlaced, concurency=3)  # type: ignore[call-arg]


async def main() -> None:
    async with bus({"internal": {"default": {}}}) as events:
        assert_type(events, BusHandle)
        events.hub.dispatch.init.provide(Repo, Repo())
        await right(events)
