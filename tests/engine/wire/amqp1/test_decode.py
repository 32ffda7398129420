"""What RabbitMQ makes of messages that others sent, as a consumer of AMQP 1.0 reads them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import proton
import pytest

from evbus.engine.wire.amqp1.decode import body_of, decode, handed_over
from evbus.engine.wire.amqp1.message import Encoder
from evbus.types import SharedNativeHeaders

ID = UUID(int=5)


def encoder(**changed: Any) -> Encoder:
    return Encoder(**{"durable": True, "priority": None, "ttl": None, "headers": {}, **changed})


def of(**values: Any) -> Any:
    """Return what is read of a message of proton."""
    notes = {proton.symbol(name): value for name, value in values.pop("annotations", {}).items()}
    message = proton.Message(annotations=notes or None, **values)
    return decode(bytes(message.encode()))


def again(headers: dict[str, str], **settings: Any) -> Any:
    """Return the message that is sent with such headers, as proton reads it."""
    message = proton.Message()
    message.decode(encoder(**settings).encode("", headers, b"", keyed=False))
    return message


# Types


def test_properties_and_ids_that_are_no_text_are_sent_as_they_came() -> None:
    values = {"n": proton.int32(5), "yes": True, "bytes": b"\xff", "uuid": ID, "none": None, "text": "a"}
    came = of(id=ID, correlation_id=proton.ulong(7), properties=values, creation_time=1.5).headers
    assert came["n"] == "5"
    for headers in (came, came.copy()):
        message = again(headers)
        found = {name: bytes(v) if isinstance(v, memoryview) else v for name, v in message.properties.items()}
        assert found == values
        assert isinstance(found["n"], proton.int32)
        assert (message.id, message.correlation_id, message.creation_time) == (ID, 7, 1.5)


def test_application_properties_with_the_names_of_fields_are_sent_with_types_that_these_have() -> None:
    came = of(
        properties={"timestamp": proton.int32(5), "message-id": True, "correlation-id": proton.int32(6)}
    )
    message = again(came.headers)
    assert (message.id, message.correlation_id, message.creation_time) == ("true", "6", 0)
    assert message.properties == {"timestamp": 5}
    assert decode(bytes(message.encode())).headers == came.headers
    timed = again(
        of(properties={"timestamp": proton.timestamp(1_500), "message-id": proton.ulong(7)}).headers
    )
    assert (timed.creation_time, timed.id, timed.properties) == (1.5, 7, None)


def test_what_was_changed_is_sent_as_the_text_that_it_is() -> None:
    headers = of(id=ID, properties={"n": proton.int32(5), "m": True}).headers.copy()
    headers["n"], headers["message-id"] = "6", "other"
    message = again(headers)
    assert (message.properties, message.id) == ({"n": "6", "m": True}, "other")


def test_the_time_is_seconds_as_everywhere() -> None:
    assert of(creation_time=1_700_000_000.25).headers == {"timestamp": "1700000000"}
    assert again({"timestamp": "1700000000"}).creation_time == 1_700_000_000
    assert again({"timestamp": "soon"}).properties == {"timestamp": "soon"}
    raw = bytes(proton.Message(creation_time=1_700_000).encode())
    assert decode(raw, seconds=True).headers == {"timestamp": "1700000000"}


# RabbitMQ 4


RABBITMQ = {"x-exchange": "ev", "x-routing-key": "orders"}


def test_annotations_of_rabbitmq_are_the_key_and_the_headers_of_others() -> None:
    notes = {
        **RABBITMQ,
        "x-tenant": "shop",
        "x-n": proton.int32(5),
        "x-table": {"a": 1},
        "x-exchange-rate": "1.2",
        "x-opt-deaths": [],
        "x-basic-type": "created",
        "x-basic-expiration": "5",
        "x-delivery-count": 3,
        "mine": "not a header",
    }
    found = of(annotations=notes, properties={"tenant": "eu"}, group_id="shop-app")
    assert found.subject == "orders"
    assert found.headers == {
        "tenant": "eu",
        "x-tenant": "shop",
        "x-n": "5",
        "x-table": '{"a": 1}',
        "x-exchange-rate": "1.2",
        "type": "created",
        "app-id": "shop-app",
    }
    assert isinstance(found.headers, SharedNativeHeaders)
    assert set(found.headers.native) == {"x-n", "x-table"}


def test_who_speaks_amqp_1_says_its_own_subject_and_group() -> None:
    found = of(annotations=RABBITMQ, subject="mine", group_id="g")
    assert (found.subject, found.headers) == ("mine", {"group-id": "g"})


def test_annotations_of_other_brokers_are_no_headers() -> None:
    found = of(annotations={"x-tenant": "shop", "x-routing-key": "no"})
    assert (found.subject, found.headers) == ("", {})


def test_the_type_is_an_annotation_for_rabbitmq_4_alone() -> None:
    assert again({"type": "created"}).properties == {"type": "created"}
    message = again({"type": "created"}, annotates=True)
    assert (message.properties, message.annotations) == (None, {proton.symbol("x-basic-type"): "created"})


def test_what_is_left_of_a_stomp_frame_is_no_header() -> None:
    assert of(properties={"content-length": "8", "receipt": "1", "a": "b"}).headers == {"a": "b"}


def test_what_brokers_noted_is_not_sent_again() -> None:
    headers = {"x-death": "[]", "x-stream-offset": "5", "x-first-death-queue": "q", "x-own": "kept"}
    assert again(headers).properties == {"x-own": "kept"}


# RabbitMQ 3


def test_sections_in_headers_are_read_in_their_order() -> None:
    raw = bytes(proton.Message(subject="k", properties={"a": "b"}, inferred=True, body=b"").encode())
    properties, application = raw.index(b"\0Ss"), raw.index(b"\0St")
    sections = {
        "x-amqp-1.0-app-properties": raw[application : raw.index(b"\0Su")],
        "x-amqp-1.0-properties": raw[properties:application],
    }
    found = handed_over(sections)
    assert found is not None
    assert (found.subject, found.headers) == ("k", {"a": "b"})
    assert handed_over({"x-amqp-1.0-properties": b"?"}) is None


@pytest.mark.parametrize(("body", "found"), [("text", b"text"), (b"x", b"x"), ([1], b"[1]")])
def test_a_body_of_sections_is_read(body: Any, found: bytes) -> None:
    raw = bytes(proton.Message(body=body).encode())
    assert body_of(raw[raw.rindex(b"\0S") :]) == found


def test_a_body_that_is_no_section_is_what_it_is() -> None:
    assert body_of(b"plain") == b"plain"
