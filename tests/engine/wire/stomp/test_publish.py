"""SEND frames: destinations, headers, and what cannot be carried."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from evbus.engine.wire.stomp.frame import Frame, Parser
from evbus.engine.wire.stomp.library import parse
from evbus.engine.wire.stomp.profile import Profile
from evbus.engine.wire.stomp.publish import Frames
from evbus.engine.wire.stomp.session import Product, sender_headers
from evbus.errors import InvalidHeader, InvalidRoutingKey
from evbus.types import Envelope, SharedHeaders

NOW = 1_700_000_000.0


def frames(broker: Product = Product.RABBITMQ, **data: Any) -> Frames:
    profile = msgspec.convert({"url": "stomp://h", **data}, type=Profile, strict=False)
    return Frames(profile, broker, clock=lambda: NOW)


def sent(made: Frames, event: Envelope) -> Frame:
    # A SEND is built as a MESSAGE is; the parser, which knows what brokers send only, is told that it is one.
    raw = made.frame(event, 7)
    assert raw.startswith(b"SEND\n")
    (found,) = Parser(parse).feed(b"MESSAGE" + raw[4:])
    assert isinstance(found, Frame)
    return found


def test_a_frame_has_a_destination_a_length_a_type_and_a_receipt() -> None:
    found = sent(frames(), Envelope("p", "orders", b"a\0b"))
    assert found.body == b"a\0b"
    assert found.headers == {
        "destination": "/queue/orders",
        "persistent": "true",
        "content-type": "application/octet-stream",
        "content-length": "3",
        "receipt": "7",
    }


def test_headers_of_the_event_travel_escaped_and_those_of_frames_do_not() -> None:
    headers = {
        "content-type": "text/plain",
        "ce-id": "1",
        "a:b": "c\r\nd\\:e",
        "reply-to": "/queue/r",
        "correlation-id": "c",
        "destination": "/queue/elsewhere",
        "Receipt": "9",
        "content-length": "0",
        "transaction": "t",
        "priority": "9",
        "x-queue-type": "quorum",
        "x-death": "[]",
        "x-first-death-queue": "q",
        "auto-delete": "true",
    }
    found = sent(frames(priority=3), Envelope("p", "orders", b"", headers)).headers
    assert found["content-type"] == "text/plain"
    assert (found["ce-id"], found["reply-to"], found["correlation-id"]) == ("1", "/queue/r", "c")
    assert found["a:b"] == "c\r\nd\\:e"
    assert (found["destination"], found["receipt"], found["content-length"]) == ("/queue/orders", "7", "0")
    assert found["priority"] == "3"
    assert not {
        "transaction",
        "x-queue-type",
        "x-death",
        "x-first-death-queue",
        "auto-delete",
        "Receipt",
    } & set(found)


def test_headers_of_the_profile_win_and_those_that_declare_are_rabbitmqs() -> None:
    data = {"headers": {"x-a": "profile", "content-type": "a/b"}, "declare": {"x-queue-type": "quorum"}}
    event = Envelope("p", "k", b"", {"x-a": "event", "content-type": "c/d"})
    found = sent(frames(**data), event).headers
    assert (found["x-a"], found["content-type"], found["x-queue-type"]) == ("profile", "a/b", "quorum")
    assert "x-queue-type" not in sent(frames(Product.ACTIVEMQ, **data), event).headers


def test_expiry_is_said_as_each_broker_wants_it() -> None:
    event = Envelope("p", "k", b"")
    rabbit, active = (sent(frames(broker, expiry=1.5), event).headers for broker in list(Product)[:2])
    assert (rabbit["expiration"], rabbit.get("expires")) == ("1500", None)
    assert (active.get("expiration"), active["expires"]) == (None, "1700000001500")


@pytest.mark.parametrize(
    ("broker", "template", "key", "destination"),
    [
        (Product.RABBITMQ, "/topic/all.{routing_key}", "a.b", "/topic/all.a.b"),
        (Product.RABBITMQ, "/queue/{routing_key}", "a/b", "/queue/a%2Fb"),
        (Product.ACTIVEMQ, "/queue/{routing_key}", "a/b", "/queue/a/b"),
        (Product.RABBITMQ, "{routing_key}", "/exchange/e/k", "/exchange/e/k"),
        (Product.RABBITMQ, "/queue/fixed", "", "/queue/fixed"),
    ],
)
def test_a_destination_is_made_of_the_routing_key(
    broker: Product, template: str, key: str, destination: str
) -> None:
    assert frames(broker, destination=template).destination(key) == destination


@pytest.mark.parametrize(
    ("template", "key", "sentence"),
    [
        ("/queue/{routing_key}", "", "no routing key"),
        ("/queue/{routing_key}", "a\0", "NUL"),
        ("/queue/{routing_key}", "x" * 256, "256 bytes"),
        ("/queue/{routing_key}", "a%2Fb", "%2F"),
        ("{routing_key}", "orders", "no '/'"),
    ],
)
def test_a_routing_key_that_makes_no_destination_is_refused(template: str, key: str, sentence: str) -> None:
    with pytest.raises(InvalidRoutingKey, match=sentence):
        frames(destination=template).frame(Envelope("p", key, b""), 1)


@pytest.mark.parametrize("key", ["a,b", "a?x=y", "a ", " a", "\ta", " ", ","])
@pytest.mark.parametrize("template", ["/queue/{routing_key}", "/topic/{routing_key}"])
def test_a_routing_key_that_activemq_takes_for_another_is_refused(template: str, key: str) -> None:
    with pytest.raises(InvalidRoutingKey, match="makes no destination"):
        frames(Product.ACTIVEMQ, destination=template).destination(key)
    assert frames(Product.OTHER, destination=template).destination(key) == template.replace(
        "{routing_key}", key
    )


def test_a_routing_key_that_is_a_whole_destination_of_activemq_is_one() -> None:
    made = frames(Product.ACTIVEMQ, destination="{routing_key}")
    assert made.destination("/queue/a b:c/d.*>") == "/queue/a b:c/d.*>"
    with pytest.raises(InvalidRoutingKey, match="comma, which separates destinations"):
        made.destination("/queue/a,/queue/b")
    # What a profile says by itself is the user's own.
    assert frames(Product.ACTIVEMQ, destination="/queue/a,/queue/b").destination("x,y") == "/queue/a,/queue/b"


def test_headers_that_activemq_obeys_are_left_out_for_it() -> None:
    obeyed = {"JMSExpiration": "5", "JMSXGroupID": "g", "AMQ_SCHEDULED_DELAY": "7", "transformation": "t"}
    event = Envelope("p", "k", b"", {**obeyed, "jms": "1"})
    assert not set(obeyed) & set(sent(frames(Product.ACTIVEMQ), event).headers)
    assert sent(frames(Product.ACTIVEMQ), event).headers["jms"] == "1"
    assert set(obeyed) <= set(sent(frames(), event).headers)


def test_the_id_and_the_time_of_an_event_go_by_names_that_are_not_the_frames() -> None:
    event = Envelope("p", "k", b"", {"message-id": "m", "timestamp": "17"})
    for broker, stamp in ((Product.RABBITMQ, "timestamp"), (Product.ACTIVEMQ, "amqp-timestamp")):
        found = sent(frames(broker), event).headers
        assert (found["amqp-message-id"], found[stamp]) == ("m", "17")
        assert "message-id" not in found
        assert sender_headers({**found, "message-id": "7"}, broker).items() >= event.headers.items()
    # ActiveMQ says when it got the message.
    assert "timestamp" not in sender_headers({"timestamp": "1"}, Product.ACTIVEMQ)


@pytest.mark.parametrize("text", ["noon", "-1", "1.5", " 7", "", "9" * 30, "٣"])
def test_a_time_that_is_none_is_refused_for_rabbitmq(text: str) -> None:
    with pytest.raises(InvalidHeader, match="'timestamp' cannot be sent: it is no whole number of seconds"):
        frames().frame(Envelope("p", "k", b"", {"timestamp": text}), 1)
    sent(frames(Product.ACTIVEMQ), Envelope("p", "k", b"", {"timestamp": text}))


@pytest.mark.parametrize("name", ["type", "correlation-id", "Content-Type", "message-id", "amqp-message-id"])
def test_a_property_that_is_too_long_is_refused_for_rabbitmq(name: str) -> None:
    with pytest.raises(InvalidHeader, match="more than 255 bytes"):
        frames().frame(Envelope("p", "k", b"", {name: "ü" * 128}), 1)
    sent(frames(), Envelope("p", "k", b"", {name: "ü" * 127, "other": "x" * 1000}))
    sent(frames(Product.ACTIVEMQ), Envelope("p", "k", b"", {name: "ü" * 128}))


def test_the_routing_key_goes_along_where_the_destination_does_not_tell_it() -> None:
    event = Envelope("p", "orders", b"")
    assert sent(frames(destination="/queue/all"), event).headers["evbus-routing-key"] == "orders"
    assert "evbus-routing-key" not in sent(frames(), event).headers


@pytest.mark.parametrize(
    "headers", [{"a": "b\0"}, {"a\0": "b"}, {"": "b"}, {"a": "\ud800"}, {"a": 1}, {"x" * 256: "a"}]
)
def test_a_header_that_stomp_cannot_carry_is_refused_without_its_value(headers: Any) -> None:
    with pytest.raises(InvalidHeader, match="cannot be sent") as caught:
        frames().frame(Envelope("p", "k", b"", {**headers, "token": "geheim\0"}), 1)
    assert "geheim" not in str(caught.value)


def test_shared_headers_are_written_once_and_stay_apart_from_others() -> None:
    made, shared = frames(), SharedHeaders({"content-type": "a/b"})
    assert sent(made, Envelope("p", "k", b"", shared)).headers["content-type"] == "a/b"
    assert sent(made, Envelope("p", "k", b"", {"content-type": "c/d"})).headers["content-type"] == "c/d"
    assert sent(made, Envelope("p", "k", b"", shared)).headers["content-type"] == "a/b"
