"""The examples of aspyx-event, whose two texts have the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import pytest

from evbus.api import Envelope, EventDescriptor, EventListener, EventListenerDescriptor, event, event_listener
from tests.evbus.kit import write
from tests.event.kit import SOON, listening, settled

seen: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()


# As written there: @dataclass stands above @event().
@dataclass
@event()
class HelloEvent:
    world: str


@event_listener(HelloEvent)
class HelloEventListener(EventListener[HelloEvent]):
    # constructor

    def __init__(self) -> None:
        pass

    # implement

    def on(self, event: HelloEvent) -> None:
        seen.append(event)


# The texts have no file for a listener; here those in the folders called listener are found.
LISTENER = "from tests.seeds.test_aspyx_event import HelloEventListener as It, event_listener, HelloEvent\n"
FOUND = LISTENER + "@event_listener(HelloEvent)\nclass HelloEventListener(It): ...\n"


async def test_the_first_example(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", listener__hello=FOUND)

    async with listening(plugin_dirs=[str(root)]) as hub:
        # Their environment and its EventManager are the hub; sending is awaited, as it waits while the
        # bus is full.
        event_manager = hub.event.init
        await event_manager.send(HelloEvent("world"))
        await settled(hub)
        (found,) = event_manager.subscriptions()
    assert seen == [HelloEvent("world")]
    # "name of the listener, if not specified the class name is used"
    assert found["name"] == "HelloEventListener"
    # "The name attribute will be used as a queue name!", "if not specified the class name is used"
    assert found["events"] == ["HelloEvent"]


async def test_a_listener_may_also_be_subscribed_while_the_bus_runs() -> None:
    async with listening() as hub:
        # Awaited or not: there is nothing to wait for here.
        id_ = await hub.event.init.subscribe(event_type=HelloEvent, callback=HelloEventListener)
        await hub.event.init.send(HelloEvent("world"))
        await settled(hub)
        assert await hub.event.init.unsubscribe(id_) is True
    assert seen == [HelloEvent("world")]


@event(name="hello.model", durable=True)
class HelloModel(pydantic.BaseModel):
    world: str


async def test_an_event_is_a_dataclass_or_a_pydantic_model() -> None:
    async with listening() as hub:
        hub.event.init.subscribe(HelloModel, seen.append, name="mine", per_process=True)
        await hub.event.init.send(HelloModel(world="world"))
        await settled(hub)
        (found,) = hub.event.init.subscriptions("hello.model")
    assert seen == [HelloModel(world="world")]
    assert (found["name"], found["per_process"]) == ("mine", True)


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_the_on_method_can_be_sync_or_async_and_listeners_are_injectable(asynchronous: bool) -> None:
    class Base(EventListener[HelloEvent]):
        def __init__(self, greeting: Greeting) -> None:
            self.greeting = greeting

    class Plain(Base):
        def on(self, event: HelloEvent) -> None:
            seen.append(f"{self.greeting.text} {event.world}")

    class Asynchronous(Base):
        async def on(self, event: HelloEvent) -> None:
            seen.append(f"{self.greeting.text} {event.world}")

    async with listening() as hub:
        hub.dispatch.init.provide(Greeting, Greeting("hello"))
        hub.event.init.subscribe(HelloEvent, Asynchronous if asynchronous else Plain)
        await hub.event.init.send(HelloEvent("world"))
        await settled(hub)
    assert seen == ["hello world"]


@dataclass
class Greeting:
    text: str


# class EnvelopePipeline(ABC): "an interceptor that both covers the sending and receiving side". Here it is a
# file in a folder called pipeline, and no class with a decorator; get_body, set and get of the envelope are
# its body and its headers; handle goes on by what it is given, so that a session can be around the listener.
PIPELINE = """
from tests.seeds import test_aspyx_event as here


def send(hub, envelope, event_descriptor):
    here.on_send(envelope, event_descriptor)


async def handle(hub, envelope, call_next, event_listener_descriptor):
    here.on_handle(envelope, event_listener_descriptor)
    return await call_next(envelope)
"""


def on_send(envelope: Envelope, event_descriptor: EventDescriptor) -> None:
    envelope.headers["session"] = "17"
    seen.append((envelope.body, event_descriptor.name, event_descriptor.cls, event_descriptor.durable))


def on_handle(envelope: Envelope, event_listener_descriptor: EventListenerDescriptor) -> None:
    listener = event_listener_descriptor
    seen.append((envelope.headers["session"], listener.name, listener.event.name, listener.per_process))


async def test_an_envelope_pipeline_is_told_what_it_handles(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", pipeline__captured=PIPELINE)

    async with listening(plugin_dirs=[str(root)], pipeline=["captured"]) as hub:
        hub.event.init.subscribe(HelloEvent, HelloEventListener, per_process=True)
        await hub.event.init.send(HelloEvent("world"))
        await settled(hub)
    assert seen == [
        (b'{"world":"world"}', "HelloEvent", HelloEvent, False),
        ("17", "HelloEventListener", "HelloEvent", True),
        HelloEvent("world"),
    ]


async def test_headers_can_be_passed_to_an_event() -> None:
    async def on(event: HelloEvent, envelope: Envelope) -> None:
        seen.append((event.world, envelope.headers["tenant"]))

    async with listening() as hub:
        hub.event.init.subscribe(HelloEvent, on)
        await hub.event.init.send(HelloEvent("world"), headers={"tenant": "acme"})
        await settled(hub)
    assert seen == [("world", "acme")]


# @catch() def handle(self, exception: Exception): here all exceptions reach the function on the hub that
# the option error_callback_ref names. EventManager(LocalProvider(), ...) is the profile internal.
MODULE = """
from tests.seeds.test_aspyx_event import seen


def handle(hub, data):
    exception = data["exception"]
    seen.append(exception)
"""


async def test_exceptions_of_listeners_reach_one_handler(tmp_path: Path) -> None:
    root = write(tmp_path / "plugins", evbus__module=MODULE)
    problem = RuntimeError("no")

    def fail(event: HelloEvent) -> None:
        raise problem

    options = {"plugin_dirs": [str(root)], "error_callback_ref": "evbus.module.handle"}
    async with listening({"internal": {"default": {}}}, **options) as hub:
        hub.event.init.subscribe(HelloEvent, fail, retry=SOON)
        await hub.event.init.send(HelloEvent("world"))
        await settled(hub)
    assert seen == [problem]
