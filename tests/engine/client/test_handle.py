"""What a program does with the handle of a bus: send, listen, settle, put."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from evbus import api, testing
from evbus.engine.client.handle import Handle
from evbus.engine.core import broker
from evbus.errors import BusStopped, EvbusError, HandlerSignatureError, InvalidRoutingKey, SettleTimeout
from tests.evbus.kit import WAIT, write
from tests.event.kit import OrderPlaced
from tests.typed import handle

INTERNAL = {"internal": {"*": {}}}
HANGS = "import asyncio\n\n\nasync def publish(hub, ctx, body):\n    await asyncio.Event().wait()\n"


def run(work: Callable[[api.BusHandle], Awaitable[Any]], profiles: Any = INTERNAL, **options: Any) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(WAIT), api.bus(profiles, **options) as events:
            return await work(events)

    return asyncio.run(main())


def test_one_type_serves_programs_and_tests() -> None:
    assert issubclass(api.BusHandle, Handle)
    assert issubclass(testing.Bus, Handle)


def test_what_type_checkers_take_works() -> None:
    asyncio.run(handle.main())


def test_events_are_sent_listened_to_and_waited_for() -> None:
    got: list[OrderPlaced] = []

    async def work(events: api.BusHandle) -> None:
        number = events.subscribe(OrderPlaced, got.append, name="keeper")
        await events.send(OrderPlaced("A-1"), headers={"a": "b"})
        await asyncio.to_thread(events.send_nowait, OrderPlaced("A-2"))
        await events.settle()
        assert got == [OrderPlaced("A-1"), OrderPlaced("A-2")]
        assert await events.unsubscribe(number) is True
        assert await events.unsubscribe(number) is False
        with pytest.raises(HandlerSignatureError):
            await events.send("no event")

    run(work)


def test_a_handle_shows_its_state() -> None:
    async def work(events: api.BusHandle) -> api.BusHandle:
        assert repr(events) == "<BusHandle running>"
        return events

    assert repr(run(work)) == "<BusHandle stopped>"


def test_the_room_has_what_its_init_has() -> None:
    async def work(events: api.BusHandle) -> None:
        got: list[OrderPlaced] = []
        room = events.hub.event
        number = await room.subscribe(OrderPlaced, got.append)
        await room.send(OrderPlaced("A-1"))
        room.send_nowait(OrderPlaced("A-2"))
        assert await room.settle() is True
        assert got == [OrderPlaced("A-1"), OrderPlaced("A-2")]
        assert await room.unsubscribe(number) is True

    run(work)


def test_settle_waits_for_destinations_as_well(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"

    async def work(events: api.BusHandle) -> None:
        for number in range(50):
            await events.put("orders", {"id": number})
        await events.settle(WAIT)
        assert len(path.read_text().splitlines()) == 50

    run(work, {"file": {"default": {"path": str(path)}}})


def test_settle_tells_what_is_left(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", ingress__hangs=HANGS)

    async def work(events: api.BusHandle) -> SettleTimeout:
        events.subscribe(OrderPlaced, lambda event: asyncio.Event().wait(), name="slow")
        await events.send(OrderPlaced())
        await events.put(body=1, profile="stuck")
        with pytest.raises(SettleTimeout) as caught:
            await events.settle(0.2)
        assert isinstance(caught.value, TimeoutError)
        return caught.value

    profiles = {"internal": {"default": {}}, "hangs": {"stuck": {}}}
    problem = run(work, profiles, plugin_dirs=[root], drain_timeout=0, dead_store=str(tmp_path / "dead"))
    assert problem.seconds == 0.2
    assert str(problem) == (
        "the bus did not settle within 0.2 s: the lane hangs.hangs.stuck has 1 event left; "
        "the listener slow is not done with 1 event"
    )


def test_a_listener_that_settles_is_told_that_it_would_wait_for_itself() -> None:
    said: list[str] = []

    async def work(events: api.BusHandle) -> None:
        async def impatient(event: OrderPlaced) -> None:
            try:
                await events.settle()
            except EvbusError as exc:
                said.append(str(exc))

        events.subscribe(OrderPlaced, impatient)
        await events.send(OrderPlaced())
        await events.settle()

    run(work)
    assert said == ["listener impatient-1 waits for its own end: settle() is for the others"]


async def test_send_nowait_is_refused_when_the_bus_was_stopped() -> None:
    async with api.bus(INTERNAL) as events:
        events.send_nowait(OrderPlaced())
    with pytest.raises(BusStopped):
        events.send_nowait(OrderPlaced())
    with pytest.raises(BusStopped):
        await events.send(OrderPlaced())


@pytest.mark.parametrize(
    ("args", "kwargs", "routing_key", "body"),
    [
        (({"id": 1},), {}, None, b'{"id":1}'),
        (("text",), {}, None, b'"text"'),
        (({"id": 1}, "default"), {}, None, b'{"id":1}'),
        (("orders", {"id": 1}), {}, "orders", b'{"id":1}'),
        (("orders",), {"body": 1}, "orders", b"1"),
        (("orders", 1, "default", {"a": "b"}), {}, "orders", b"1"),
    ],
)
def test_the_order_of_put_is_that_of_the_hub(args: Any, kwargs: Any, routing_key: Any, body: Any) -> None:
    async def work(events: api.BusHandle) -> list[bytes]:
        await events.put(*args, **kwargs)
        events.put_nowait(*args, **kwargs)
        await events.hub.evbus.broker.put(*args, **kwargs)
        events.hub.evbus.broker.put_nowait(*args, **kwargs)
        queue = await events.hub.ingress.internal.get(routing_key)
        return [await queue.get() for _ in range(4)]

    assert run(work) == [body] * 4


def test_what_is_no_order_is_refused() -> None:
    async def work(events: api.BusHandle) -> None:
        with pytest.raises(InvalidRoutingKey, match="a routing key is a string or None, not dict"):
            await events.put({"id": 1}, 2, "default")  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="put got several values for body"):
            events.put_nowait("orders", 1, body=2)  # type: ignore[call-overload]

    run(work)


def test_two_texts_that_were_body_and_profile_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    broker._tell_order.cache_clear()

    async def work(events: api.BusHandle) -> None:
        await events.put("text", "default")
        events.hub.evbus.broker.put_nowait("text", "default")
        await events.put("orders", "text")

    run(work)
    told = [record.getMessage() for record in caplog.records if "put(text" in record.getMessage()]
    assert len(told) == 1
    assert told[0].endswith("as in pop-evbus 6 and 7, write put(body=..., profile='default')")


# Brokers


def through(rabbitmq: Any, unique: str) -> dict[str, Any]:
    exchange = {"name": unique, "type": "topic", "durable": False}
    return {"amqp": {"default": {"url": rabbitmq.url, "exchange": exchange}}}


async def test_what_is_sent_once_a_listener_is_ready_comes_to_it(
    rabbitmq: Any, unique: str, tmp_path: Path
) -> None:
    got = asyncio.Queue[str]()

    async def on(order: OrderPlaced) -> None:
        got.put_nowait(order.id)

    async with api.bus(through(rabbitmq, unique), dead_store=str(tmp_path / "dead.jsonl")) as events:
        for number in range(5):
            listening = events.subscribe(OrderPlaced, on, group=f"{unique}-{number}")
            await events.ready()
            await events.send(OrderPlaced(str(number)))
            assert await asyncio.wait_for(got.get(), WAIT) == str(number)
            await events.unsubscribe(listening)


def test_a_program_without_a_loop_waits_until_a_listener_is_ready(
    rabbitmq: Any, unique: str, tmp_path: Path
) -> None:
    got = queue.Queue[str]()

    def on(order: OrderPlaced) -> None:
        got.put(order.id)

    with api.sync_bus(through(rabbitmq, unique), dead_store=str(tmp_path / "dead.jsonl")) as events:
        events.subscribe(OrderPlaced, on, group=unique)
        events.ready()
        events.send(OrderPlaced("1"))
        assert got.get(timeout=WAIT) == "1"
