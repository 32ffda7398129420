"""What is around listeners: pipeline plugins, and what becomes of what handlers raise."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from evbus.api import session
from evbus.engine.handling.events.declare import event
from tests.evbus.kit import running, write
from tests.event.kit import INTERNAL, SOON, Got, OrderPlaced, dead, listening, new_hub, settled

ALL = ("session", "trace", "stamp", "dedupe", "compress", "sign")
KEYS = ("2026:0123456789abcdef",)

#: Keeps what it sees in ``hub.pipeline.SEEN``, and refuses what has the header ``refuse``.
LOOKS = """
from evbus.errors import Rejected
from evbus.engine.stages.receiver import RECEIVER


async def handle(hub, envelope, call_next):
    seen = vars(hub.pipeline).setdefault("SEEN", [])
    seen.append((RECEIVER.get(), "before", envelope.routing_key))
    if "refuse" in envelope.headers:
        raise Rejected("the interceptor refuses it")
    result = await call_next(envelope)
    seen.append((RECEIVER.get(), "after", result))
    return result
"""


@event()
@dataclasses.dataclass
class Long:
    text: str = "again " * 1000
    key: str = "a"
    number: int = 0


async def test_an_interceptor_runs_around_each_listener(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", pipeline__looks=LOOKS)

    async def billing(event: Any) -> str:
        return "billed"

    def shipping(event: Any) -> str:
        return "shipped"

    async with listening(plugin_dirs=[str(root)], pipeline=["looks"]) as hub:
        hub.event.init.subscribe(OrderPlaced, billing)
        hub.event.init.subscribe(OrderPlaced, shipping, group="out")
        await hub.event.init.send(OrderPlaced())
    assert sorted(hub.pipeline.SEEN) == [
        ("billing", "after", "billed"),
        ("billing", "before", "OrderPlaced"),
        ("out", "after", "shipped"),
        ("out", "before", "OrderPlaced"),
    ]


#: Keeps the descriptors that it gets in ``hub.pipeline.TOLD``.
TOLD = """
def send(hub, envelope, descriptor):
    vars(hub.pipeline).setdefault("TOLD", []).append(descriptor)


async def handle(hub, envelope, call_next, listener_descriptor):
    hub.pipeline.TOLD.append(listener_descriptor)
    return await call_next(envelope)
"""


async def test_an_interceptor_may_take_the_descriptor_of_the_event_and_of_the_listener(
    tmp_path: Path,
) -> None:
    root = write(tmp_path / "plugins", pipeline__told=TOLD)

    async def command() -> None: ...

    async with listening(plugin_dirs=[str(root)]) as hub:
        got = Got()
        hub.event.init.subscribe(OrderPlaced, got.on, name="billing", group="shop", per_process=True)
        await hub.event.init.send(OrderPlaced())
        await settled(hub)
        sent, listener = hub.pipeline.TOLD
        assert sent is hub.event.REGISTRY.of(OrderPlaced) is listener.event
        assert (listener.name, listener.group, listener.per_process) == ("billing", "shop", True)
        hub.pipeline.TOLD.clear()
        # Neither of these is an event, and no listener gets the second.
        await hub.evbus.broker.put(routing_key="OrderPlaced", body={"id": "x"})
        await settled(hub)
        hub.dispatch.commands.bind("command", command)
        hub.dispatch.init.start()
        await hub.dispatch.init.handle("command", wait_for_response=True)
        await hub.dispatch.init.stop()
        assert [getattr(told, "name", None) for told in hub.pipeline.TOLD] == [
            None,
            "billing",
            None,
            None,
        ]


async def test_what_an_interceptor_refuses_is_dead_and_reaches_no_listener(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", pipeline__looks=LOOKS)

    got = Got()
    store = tmp_path / "dead.jsonl"
    async with listening(plugin_dirs=[str(root)], pipeline=["looks"], dead_store=str(store)) as hub:
        hub.event.init.subscribe(OrderPlaced, got.on, name="billing", retry=SOON)
        await hub.event.init.send(OrderPlaced(), headers={"refuse": "1"})
    (line,) = dead(store)
    assert line["dead"]["reason"] == "Rejected: the interceptor refuses it"
    assert got == []


async def test_a_failure_is_tried_again_within_the_interceptors(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", pipeline__looks=LOOKS)

    calls = list[int]()

    async def on(event: Any) -> int:
        calls.append(1)
        if len(calls) < 3:
            raise KeyError
        return len(calls)

    async with listening(plugin_dirs=[str(root)], pipeline=["looks"]) as hub:
        hub.event.init.subscribe(OrderPlaced, on, name="billing", retry=SOON)
        await hub.event.init.send(OrderPlaced())
    assert hub.pipeline.SEEN == [("billing", "before", "OrderPlaced"), ("billing", "after", 3)]


@pytest.mark.parametrize("kind", ["asynchronous", "plain"])
async def test_with_all_of_them_a_listener_gets_what_was_sent_in_its_session(kind: str) -> None:
    got = list[Any]()

    def plain(event: Any) -> None:
        got.append((event, dict(session.current())))

    async def asynchronous(event: Any) -> None:
        plain(event)

    async with listening(pipeline=ALL, sign_keys=KEYS, compress_over=100) as hub:
        hub.event.init.subscribe(Long, plain if kind == "plain" else asynchronous)
        with session.use(user="joe"):
            await hub.event.init.send(Long())
        await hub.event.init.send(Long(key="b"))
    assert got == [(Long(), {"user": "joe"}), (Long(key="b"), {})]


async def test_each_listener_handles_a_signed_event_once_and_a_second_delivery_not_at_all() -> None:
    one, other = Got(), Got()
    async with listening(pipeline=["stamp", "dedupe"]) as hub:
        hub.event.init.subscribe(OrderPlaced, one.on, name="one")
        hub.event.init.subscribe(OrderPlaced, other.on, name="other")
        for _ in range(2):
            await hub.event.init.send(OrderPlaced("same"), headers={"ce-id": "1"})
        await hub.event.init.send(OrderPlaced("new"), headers={"ce-id": "2"})
    assert one == other == [OrderPlaced("same"), OrderPlaced("new")]
    assert hub.pipeline.DEDUPE.dropped == 2


async def test_keys_keep_their_order_when_bodies_are_compressed() -> None:
    got = list[tuple[str, int]]()

    async def on(event: Any) -> None:
        for _ in range(event.number % 4):
            await asyncio.sleep(0)
        got.append((event.key, event.number))

    async with listening(pipeline=["compress"], compress_over=100) as hub:
        hub.event.init.subscribe(Long, on, key="key", concurrency=8)
        for number in range(60):
            await hub.event.init.send(Long(key="abc"[number % 3], number=number))
    for key in "abc":
        numbers = [number for name, number in got if name == key]
        assert (numbers, len(numbers)) == (sorted(numbers), 20)


# Handlers that raise what is no ``Exception``.


class Odd(BaseException):
    """What some libraries use to get past ``except Exception``."""


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("options", [{}, {"key": "id"}, {"timeout": 20}])
async def test_it_is_a_failed_attempt_and_told(
    plain: bool, options: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = list[str]()

    def handle(event: Any) -> None:
        calls.append(event.id)
        if calls.count("a") < 3 and event.id == "a":
            raise Odd("panicked")

    async def wait(event: Any) -> None:
        await asyncio.sleep(0)
        handle(event)

    hub = new_hub(dead_store=str(tmp_path / "dead.jsonl"))
    async with running(hub, INTERNAL):
        hub.event.init.subscribe(
            OrderPlaced, handle if plain else wait, name="odd", prefetch=1, retry=SOON, **options
        )
        for each in "ab":
            await hub.event.init.send(OrderPlaced(each))
        await settled(hub)
        (told,) = hub.event.init.subscriptions()
    assert calls == ["a", "a", "a", "b"]
    assert (told["handled"], told["retried"], told["cancelled"], told["dead"]) == (2, 2, 0, 0)
    assert "OrderPlaced fails and is tried again: DeliveryError: it raised Odd: panicked" in caplog.text
