"""Events between AMQP 0-9-1, AMQP 1.0 and STOMP, with clients of others at the other end.

What does not arrive stands in ``LOST``, and in the tables of docs/interoperability.rst with the reason.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import aclosing
from decimal import Decimal
from typing import Any, NamedTuple

import proton
import pytest

from evbus.api import bus
from evbus.types import Envelope
from tests.interop import foreign
from tests.interop.foreign import WAIT, Message
from tests.servers._activemq import ActiveMQ
from tests.servers._rabbitmq import RabbitMQ

VERSIONS = ("3.10", "4.0", "4.3")
PROTOCOLS = ("amqp", "amqp1", "stomp")
PAIRS = [(sender, receiver) for sender in PROTOCOLS for receiver in PROTOCOLS]

EVENT = Message(
    key="order.created",
    body=b'{"id":1}',
    headers={"tenant": "shöp", "x-tenant": "eu", "ce-id": "7", "n": "5"},
    id="m-1",
    correlation_id="c-1",
    content_type="application/json",
    type="created",
    time=1_700_000_000,
)
#: The headers of an event that have places of their own in a message.
NAMED = ("message-id", "correlation-id", "content-type", "type", "timestamp")

#: What the plugin of RabbitMQ 3 hands over to AMQP 1.0 of other protocols is without them.
_NOT_TO_AMQP1 = {"headers", "type"}


class Place(NamedTuple):
    """An exchange that leads to a queue."""

    exchange: str
    queue: str


@pytest.fixture
def place(each_rabbitmq: RabbitMQ, unique: str) -> Iterator[Callable[[str], Place]]:
    """Return what declares an exchange and the queue behind it, by a name."""
    made: list[Place] = []

    def declared(name: str) -> Place:
        found = Place(f"{unique}-{name}", f"{unique}-{name}")
        foreign.declare(each_rabbitmq, found.exchange, found.queue, EVENT.key)
        made.append(found)
        return found

    yield declared
    for one in made:
        foreign.delete(each_rabbitmq, one.exchange, one.queue)


def url(node: Any, protocol: str) -> str:
    if protocol == "stomp":
        return f"stomp://guest:guest@{node.host}:{node.stomp_port}/"
    return f"amqp://guest:guest@{node.host}:{node.port}/"


def sending(node: RabbitMQ, protocol: str, place: Place) -> dict[str, Any]:
    """Return the profile that sends to the exchange."""
    exchange = place.exchange
    more = {
        "amqp": {"exchange": exchange},
        "amqp1": {
            "address": f"/{'exchanges' if node.version[0] > 3 else 'exchange'}/{exchange}/{{routing_key}}"
        },
        "stomp": {"destination": f"/exchange/{exchange}/{{routing_key}}"},
    }
    return {"url": url(node, protocol), **more[protocol]}


def consuming(node: RabbitMQ, protocol: str, place: Place) -> dict[str, Any]:
    """Return the profile that consumes the queue."""
    queue = place.queue
    more = {
        "amqp": {"queue": queue},
        "amqp1": {"address": f"/{'queues' if node.version[0] > 3 else 'amq/queue'}/{queue}"},
        "stomp": {"destination": f"/amq/queue/{queue}"},
    }
    return {"url": url(node, protocol), **more[protocol]}


def send(node: RabbitMQ, protocol: str, place: Place, message: Message) -> None:
    """Send a message with a client of others."""
    if protocol == "stomp":
        foreign.send_stomp(node, f"/exchange/{place.exchange}/{message.key}", message)
    else:
        {"amqp": foreign.send_amqp, "amqp1": foreign.send_amqp1}[protocol](node, place.exchange, message)


def receive(node: RabbitMQ, protocol: str, place: Place) -> Message:
    """Receive a message with a client of others."""
    if protocol == "stomp":
        return foreign.receive_stomp(node, f"/amq/queue/{place.queue}")
    return {"amqp": foreign.receive_amqp, "amqp1": foreign.receive_amqp1}[protocol](node, place.queue)


def headers_of(message: Message) -> dict[str, str]:
    """Return the headers of an event of evbus that says the same."""
    return {
        **message.headers,
        "message-id": message.id,
        "correlation-id": message.correlation_id,
        "content-type": message.content_type,
        "type": message.type,
        "timestamp": str(message.time),
    }


def message_of(envelope: Envelope) -> Message:
    headers = dict(envelope.headers)
    named = [
        headers.pop(name, "")
        for name in ("message-id", "correlation-id", "content-type", "type", "timestamp")
    ]
    return Message(envelope.routing_key, envelope.body, headers, *named[:4], int(named[4] or 0))


async def put(profile: dict[str, Any], protocol: str, message: Message) -> None:
    async with bus({protocol: {"out": profile}}) as events:
        await events.put(message.key, message.body, "out", headers_of(message))
    assert events.snapshot()["lanes"][f"{protocol}.{protocol}.out"]["delivered"] == 1


async def taken(profile: dict[str, Any], protocol: str) -> Envelope:
    async with bus({protocol: {"in": profile}}) as events, aclosing(events.consume("in")) as deliveries:
        delivery = await asyncio.wait_for(anext(deliveries), WAIT)
        delivery.ack()
        await asyncio.sleep(0)
        return delivery.envelope


def without(message: Message, lost: set[str]) -> dict[str, Any]:
    return {name: value for name, value in message._asdict().items() if name not in lost}


# What evbus sends, as others see it

LOST_BY_OTHERS: dict[tuple[int, str, str], set[str]] = {
    # Its AMQP 1.0 is a plugin: see docs/interoperability.rst.
    (3, "amqp", "amqp1"): {*_NOT_TO_AMQP1, "time"},
    (3, "stomp", "amqp1"): {*_NOT_TO_AMQP1, "time"},
    (3, "amqp1", "amqp"): {"headers", "type", "time"},
}


@pytest.mark.parametrize("each_rabbitmq", VERSIONS, indirect=True)
@pytest.mark.parametrize(("sender", "receiver"), PAIRS)
def test_others_get_what_evbus_sends(
    each_rabbitmq: RabbitMQ, place: Callable[[str], Place], sender: str, receiver: str
) -> None:
    node, here = each_rabbitmq, place("a")
    version = node.version[0]
    if (version, sender, receiver) == (3, "amqp1", "stomp"):
        pytest.skip("RabbitMQ 3 writes NUL bytes into headers, and stomp.py ends a frame at the first one")
    asyncio.run(put(sending(node, sender, here), sender, EVENT))
    found = receive(node, receiver, here)
    lost = LOST_BY_OTHERS.get((version, sender, receiver), set())
    ours = {name: value for name, value in found.headers.items() if name in EVENT.headers}
    assert without(found._replace(headers=ours), lost) == without(EVENT, lost)


# What others send, as evbus sees it

LOST_BY_EVBUS: dict[tuple[int, str, str], set[str]] = {
    (3, "amqp", "amqp1"): _NOT_TO_AMQP1,
    (3, "stomp", "amqp1"): _NOT_TO_AMQP1,
    # A type is no part of AMQP 1.0; what RabbitMQ 4 takes for it RabbitMQ 3 does not know.
    (3, "amqp1", "amqp"): {"type"},
    (3, "amqp1", "amqp1"): {"type"},
    (3, "amqp1", "stomp"): {"type"},
}


@pytest.mark.parametrize("each_rabbitmq", VERSIONS, indirect=True)
@pytest.mark.parametrize(("sender", "receiver"), PAIRS)
def test_evbus_gets_what_others_send(
    each_rabbitmq: RabbitMQ, place: Callable[[str], Place], sender: str, receiver: str
) -> None:
    node, here = each_rabbitmq, place("a")
    send(node, sender, here, EVENT)
    found = message_of(asyncio.run(taken(consuming(node, receiver, here), receiver)))
    lost = LOST_BY_EVBUS.get((node.version[0], sender, receiver), set())
    assert without(found, lost) == without(EVENT, lost)


@pytest.mark.parametrize("each_rabbitmq", VERSIONS, indirect=True)
@pytest.mark.parametrize("receiver", PROTOCOLS)
def test_a_text_of_amqp_1_is_the_body(
    each_rabbitmq: RabbitMQ, place: Callable[[str], Place], receiver: str
) -> None:
    node, here = each_rabbitmq, place("a")
    foreign.send_amqp1(node, here.exchange, EVENT, inferred=False)
    found = asyncio.run(taken(consuming(node, receiver, here), receiver))
    assert found.body == EVENT.body
    assert found.headers.get("type") in (None, "created")
    assert found.headers["tenant"] == EVENT.headers["tenant"]


# ActiveMQ speaks STOMP here, and nothing else


def test_others_get_what_evbus_sends_to_activemq(activemq: ActiveMQ, unique: str) -> None:
    asyncio.run(
        put(
            {"url": url(activemq, "stomp"), "destination": f"/queue/{unique}.{{routing_key}}"}, "stomp", EVENT
        )
    )
    found = foreign.receive_stomp(activemq, f"/queue/{unique}.{EVENT.key}")
    ours = {name: value for name, value in found.headers.items() if name in EVENT.headers}
    # The time is that of the broker, in milliseconds.
    assert found.key == f"{unique}.{EVENT.key}"
    assert without(found._replace(headers=ours), {"key", "time"}) == without(EVENT, {"key", "time"})


def test_evbus_gets_what_others_send_to_activemq(activemq: ActiveMQ, unique: str) -> None:
    foreign.send_stomp(activemq, f"/queue/{unique}.{EVENT.key}", EVENT)
    # A consumer names one destination, and knows the key of what is sent there by the template.
    profile = {
        "url": url(activemq, "stomp"),
        "destination": f"/queue/{unique}.{{routing_key}}",
        "routing_key": EVENT.key,
    }
    found = message_of(asyncio.run(taken(profile, "stomp")))
    assert without(found, {"time"}) == without(EVENT, {"time"})


# From one protocol into another

TIME = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
BOTH = {"int": 5, "long": 2**40, "yes": True, "bytes": b"\xff\xfe", "when": TIME, "none": None, "x-int": 7}
TYPED: dict[str, dict[str, Any]] = {
    "amqp": {**BOTH, "list": [1, "a", True], "table": {"a": {"b": 1}}, "decimal": Decimal("1.25")},
    "amqp1": {
        **BOTH,
        "when": proton.timestamp(TIME.timestamp() * 1000),
        "double": 2.5,
        "int": proton.int32(5),
    },
    "stomp": {"int": "5"},
}
TEXTS = {
    "int": "5",
    "long": str(2**40),
    "yes": "true",
    "bytes": "\ufffd\ufffd",
    "none": "null",
    "x-int": "7",
}
ARRIVED: dict[tuple[str, str], dict[str, Any]] = {
    ("amqp", "amqp"): TYPED["amqp"],
    # Application properties are of simple types (section 3.2.5), and there are decimals of another kind.
    ("amqp", "amqp1"): {**BOTH, "list": '[1,"a",true]', "table": '{"a":{"b":1}}', "decimal": "1.25"},
    ("amqp1", "amqp1"): {**BOTH, "double": 2.5},
    # pika reads 2.5 as 2: the number is a double all the same.
    ("amqp1", "amqp"): {**BOTH, "double": 2},
}


@pytest.mark.parametrize("each_rabbitmq", VERSIONS, indirect=True)
@pytest.mark.parametrize(("source", "target"), [pair for pair in PAIRS if "stomp" not in pair])
def test_a_bridge_keeps_the_types_of_headers(
    each_rabbitmq: RabbitMQ, place: Callable[[str], Place], source: str, target: str
) -> None:
    here, there = place("a"), place("b")
    send(each_rabbitmq, source, here, EVENT._replace(headers=TYPED[source]))
    asyncio.run(bridged(each_rabbitmq, source, here, target, there))
    found = receive(each_rabbitmq, target, there)
    kinds = {name: type(value) for name, value in found.headers.items()}
    expected = ARRIVED[source, target]
    assert found.headers == expected
    assert kinds["yes"] is bool
    if (source, target) == ("amqp", "amqp1"):
        assert kinds["int"] is proton.int32
    lost = {"headers"} | LOST_BY_EVBUS.get((each_rabbitmq.version[0], source, source), set())
    assert without(found, lost) == without(EVENT, lost)


@pytest.mark.parametrize("each_rabbitmq", ["4.0"], indirect=True)
def test_an_exchange_that_looks_at_headers_finds_them_behind_a_bridge(
    each_rabbitmq: RabbitMQ, place: Callable[[str], Place], unique: str
) -> None:
    here, there = place("a"), f"{unique}-headers"
    with foreign.channel(each_rabbitmq) as amqp:
        amqp.exchange_declare(there, "headers", durable=True)
        amqp.queue_declare(there, durable=True)
        amqp.queue_bind(there, there, arguments={"x-match": "all", "int": 5, "yes": True})
    try:
        send(each_rabbitmq, "amqp", here, EVENT._replace(headers={"int": 5, "yes": True}))
        asyncio.run(bridged(each_rabbitmq, "amqp", here, "amqp", Place(there, there)))
        assert foreign.receive_amqp(each_rabbitmq, there).headers == {"int": 5, "yes": True}
    finally:
        foreign.delete(each_rabbitmq, there, there)


@pytest.mark.parametrize("each_rabbitmq", ["4.0"], indirect=True)
@pytest.mark.parametrize(("source", "target"), [pair for pair in PAIRS if "stomp" in pair])
def test_a_bridge_to_or_from_stomp_makes_texts(
    each_rabbitmq: RabbitMQ, place: Callable[[str], Place], source: str, target: str
) -> None:
    here, there = place("a"), place("b")
    send(each_rabbitmq, source, here, EVENT._replace(headers=TYPED[source]))
    asyncio.run(bridged(each_rabbitmq, source, here, target, there))
    found = receive(each_rabbitmq, target, there)
    sent = {name: text for name, text in TEXTS.items() if name in TYPED[source]}
    assert {name: value for name, value in found.headers.items() if name in sent} == sent
    assert without(found, {"headers"}) == without(EVENT, {"headers"})


async def bridged(node: RabbitMQ, source: str, here: Place, target: str, there: Place) -> None:
    """Take one event out of a queue and send it to an exchange."""
    profiles: dict[str, dict[str, Any]] = {source: {"in": consuming(node, source, here)}}
    profiles.setdefault(target, {})["out"] = sending(node, target, there)
    async with bus(profiles) as events:
        await asyncio.wait_for(events.hub.evbus.bridge.run(profiles, "in", "out", count=1), WAIT)
    assert events.snapshot()["lanes"][f"{target}.{target}.out"]["delivered"] == 1
