"""Events that go to the bus: what they are called there, and which can."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from evbus.engine.handling.dispatch.dispatcher import Dispatcher
from evbus.engine.handling.dispatch.publish import publisher, wire_name
from evbus.errors import DispatchError, HandlerSignatureError
from evbus.types import Envelope
from tests.dispatch.rig import Order, caught, failures, new, running, until


class Stays:
    pass


async def nowhere(profile: str, event: Any) -> None:
    pass


def test_a_message_is_called_by_the_name_of_its_class_or_its_string() -> None:
    assert wire_name(Order) == "Order"
    assert wire_name("on startup") == "on startup"


def test_a_binding_puts_the_event_there() -> None:
    found = []

    async def publish(profile: str, event: Any) -> None:
        found.append((profile, event))

    binding = publisher(Order, "amqp", publish)
    asyncio.run(binding.call(Order(1)))
    assert found == [("amqp", Order(1))]
    assert not binding.handled_here
    assert binding.name == "the bus, profile 'amqp'"
    assert binding.same(publisher(Order, "amqp", nowhere))
    assert not binding.same(publisher(Order, "stomp", nowhere))


@pytest.mark.parametrize("message", ["text", dict, str, object])
def test_strings_and_builtin_types_may_travel(message: Any) -> None:
    assert publisher(message, "amqp", nowhere).message is message


def test_what_cannot_travel_is_refused_when_it_is_bound() -> None:
    with pytest.raises(HandlerSignatureError) as caught_:
        publisher(Stays, "amqp", nowhere)
    assert str(caught_.value) == (
        "Stays cannot be published to 'amqp': its instances cannot travel; make it a dataclass, a msgspec "
        "Struct, an attrs class or a pydantic model"
    )


@pytest.mark.parametrize("profile", ["", 5, None])
def test_a_profile_is_a_name(profile: Any) -> None:
    with pytest.raises(HandlerSignatureError) as caught_:
        publisher(Order, profile, nowhere)
    assert str(caught_.value) == f"publish_to of Order is the name of a profile, and not {profile!r}"


async def test_without_a_hub_there_is_no_bus(dispatcher: Dispatcher) -> None:
    found = failures(dispatcher)
    dispatcher.events.bind(Order, publish_to="amqp")
    async with running(dispatcher):
        problem = await caught(dispatcher.handle(Order(), wait_for_response=True))
        assert isinstance(problem, DispatchError)
        assert "there is no bus to publish to (profile 'amqp')" in str(problem)
        await dispatcher.handle(Order())
        await until(lambda: found)
        assert found[0].handler == "the bus, profile 'amqp'"


def test_headers_of_a_message_that_leaves_the_process_are_left_to_where_it_does() -> None:
    def send(envelope: Envelope) -> None:
        envelope.headers["user"] = "here"

    core = new().core
    core.send = send
    assert core.envelope("Order", {"user": "there"}).headers == {"user": "here"}
    assert core.envelope("Order", {"user": "there"}, sends=False).headers == {"user": "there"}
