"""One measurement of typed events within one process: `python events_case.py SIDE CASE N`.

Every side gets the same events, made before the clock starts, and sends one after the other, each awaited.
The clock stops when the last is handled. Then what was handled is compared with what was sent: each event
exactly once for each listener, equal, and another object than was sent. It prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from sides.common import LIMIT, Clock, run
from sides.orders import Handled, Listener, OrderPlaced, made, maker

LISTENERS = 10
WARM_UP = 500

Send = Callable[[Any], Awaitable[object]]

HANDLED = Handled()


def listeners(case: str) -> list[Listener]:
    """Return the listeners of a case: one, one that is a plain function, or ten."""
    if case == "plain":
        return [HANDLED.plain()]
    return [HANDLED.asynchronous() for _ in range(LISTENERS if case == "ten" else 1)]


async def measured(
    send: Send, count: int, each: int, *, make: Any = None, copied: bool = True, pause: int = 0
) -> dict[str, float]:
    """Send some events to warm up, then ``count`` of them against the clock.

    :param make: what makes an event of its name and number.
    :param pause: a turn of the loop after so many events, for a side whose ``send`` never gives one.
    """
    result: dict[str, float] = {}
    for some in (min(WARM_UP, count), count):
        events = made(some, make)
        done = HANDLED.expect(some * each)
        clock = Clock()
        if pause:
            for start in range(0, some, pause):
                for event in events[start : start + pause]:
                    await send(event)
                await asyncio.sleep(0)
        else:
            for event in events:
                await send(event)
        await done
        result = clock.result(some)
        await asyncio.sleep(0.02)  # time for what comes twice
        HANDLED.check(events, each, copied=copied)
    return result


async def evbus_side(case: str, count: int) -> dict[str, float]:
    """Measure evbus with the profile that does without a broker; nothing is set for speed."""
    from evbus.api import bus, event

    kind, make = maker(case)
    event()(kind)
    async with bus({"internal": {"default": {}}}) as running:
        wanted = listeners(case)
        for number, listener in enumerate(wanted):
            running.hub.event.init.subscribe(kind, listener, name=f"listener-{number}")
        return await measured(running.hub.event.init.send, count, len(wanted), make=make)


async def aspyx_side(case: str, count: int) -> dict[str, float]:
    """Measure aspyx-event with a provider that does without a broker.

    The LocalProvider of its documentation is not in the package. This one does what its providers for brokers
    do, and no more: the body is JSON by its own serializers, and goes to ``dispatch_event``. It is decoded
    once for all listeners, which is cheaper than what those do. Without a pause all events become tasks at
    once, and it has 25 to 45 thousand events/s where it has 45 thousand with one.
    """
    from aspyx_event import EventManager, event

    class Envelope(EventManager.AbstractEnvelope):  # type: ignore[misc]
        def encode(self) -> Any:
            return self.to_json(self.event)

        def decode(self, message: Any) -> Any:
            return self.from_json(message, OrderPlaced)

    class Factory(EventManager.EnvelopeFactory):  # type: ignore[misc]
        def for_send(self, provider: Any, event: Any) -> Any:
            envelope = Envelope()
            envelope.event = event
            return envelope

        def for_receive(self, provider: Any, message: Any, descriptor: Any) -> Any:
            envelope = Envelope(message)
            envelope.event = envelope.decode(message)
            return envelope

    class Provider(EventManager.Provider):  # type: ignore[misc]
        def listen_to_subscription(self, subscription: Any) -> None:
            pass

        async def send(self, envelope: Any, event_descriptor: Any) -> None:
            received = self.create_receiver_envelope(envelope.encode(), event_descriptor)
            self.manager.dispatch_event(event_descriptor.name, received.event)

    event()(OrderPlaced)
    manager = EventManager(Provider(Factory()))
    wanted = listeners(case)
    for number, listener in enumerate(wanted):
        await manager.subscribe(OrderPlaced, listener, name=f"listener-{number}")
    return await measured(manager.send_event, count, len(wanted), pause=100)


async def iambus_side(case: str, count: int) -> dict[str, float]:
    """Measure iambus, which encodes nothing: its handlers get the object that was sent."""
    from iambus import Dispatcher

    dispatcher = Dispatcher(listen_for_signals=False)
    wanted = listeners(case)
    for listener in wanted:
        dispatcher.events.bind(OrderPlaced, listener)
    dispatcher.start()
    return await measured(dispatcher.events.handle, count, len(wanted), copied=False)


async def faststream(broker: Any, test: Any, case: str, count: int) -> dict[str, float]:
    """Measure FastStream in memory: with logging off, and pydantic, which was as fast here as msgspec."""
    wanted, (kind, make) = listeners(case), maker(case)
    for listener in wanted:
        listener.__annotations__["event"] = kind
        broker.subscriber("orders")(listener)

    async def send(event: Any) -> None:
        await broker.publish(event, "orders")

    async with test(broker):
        return await measured(send, count, len(wanted), make=make)


async def nats_side(case: str, count: int) -> dict[str, float]:
    """Measure the test broker of NATS; with Kafka's the fastest that FastStream has."""
    from faststream.nats import NatsBroker, TestNatsBroker

    return await faststream(NatsBroker(logger=None), TestNatsBroker, case, count)


async def rabbit_side(case: str, count: int) -> dict[str, float]:
    """Measure the test broker of RabbitMQ."""
    from faststream.rabbit import RabbitBroker, TestRabbitBroker

    return await faststream(RabbitBroker(logger=None), TestRabbitBroker, case, count)


SIDES: dict[str, Callable[[str, int], Awaitable[dict[str, float]]]] = {
    "evbus": evbus_side,
    "aspyx-event": aspyx_side,
    "iambus": iambus_side,
    "nats": nats_side,
    "rabbit": rabbit_side,
}


async def main(side: str, case: str, count: int) -> dict[str, float]:
    return await SIDES[side](case, count)


if __name__ == "__main__":
    signal.alarm(LIMIT)
    print(json.dumps(run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
