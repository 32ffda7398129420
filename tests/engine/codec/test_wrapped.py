from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from cloudevents.core.bindings import amqp, http, kafka
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from evbus.engine.codec import wrapped
from evbus.errors import InvalidHeader, InvalidPayload, PayloadTooDeep
from evbus.types import Envelope, Native, NativeHeaders

ATTRIBUTES = {
    "id": "1",
    "source": "/shop",
    "type": "order.placed",
    "time": dt.datetime(2026, 11, 30, 6, 0, tzinfo=dt.UTC),
    "subject": "größe",
    "partition": "a b%",
}
AS_HEADERS = {
    "ce-specversion": "1.0",
    "ce-id": "1",
    "ce-source": "/shop",
    "ce-type": "order.placed",
    "ce-time": "2026-11-30T06:00:00Z",
    "ce-subject": "größe",
    "ce-partition": "a b%",
}


def document(**more: Any) -> bytes:
    return json.dumps({"specversion": "1.0", "id": "1", "source": "/x", "type": "order"} | more).encode()


def message(body: bytes, content_type: str = wrapped.CLOUDEVENT, **headers: str) -> Envelope:
    return Envelope("p", "order", body, {"content-type": content_type, **headers})


def test_a_structured_event_of_the_sdk_has_the_headers_and_the_body_of_its_binary_mode() -> None:
    event = CloudEvent(
        {**ATTRIBUTES, "datacontenttype": "application/json"}, {"order_id": "A-1", "total": 1.5}
    )
    sent = http.to_structured_event(event)
    came = wrapped.unwrapped(message(sent.body, sent.headers["content-type"], x="1"))
    assert came.headers == {**AS_HEADERS, "content-type": "application/json", "x": "1"}
    assert json.loads(came.body) == {"order_id": "A-1", "total": 1.5}
    assert came.routing_key == "order"


@pytest.mark.parametrize(
    ("members", "kind", "body"),
    [
        ({"data": {"a": [1.10, 2]}}, "application/json", b'{"a": [1.1, 2]}'),
        ({"data": "text", "datacontenttype": "application/vnd.a+json"}, "application/vnd.a+json", b'"text"'),
        ({"data": "größe", "datacontenttype": "text/plain"}, "text/plain", "größe".encode()),
        ({"data": {"a": 1}, "datacontenttype": "text/plain"}, "text/plain", b'{"a": 1}'),
        ({"data_base64": "AP8="}, "application/json", b"\x00\xff"),
        ({"data_base64": "AP8=", "data": None, "datacontenttype": "image/png"}, "image/png", b"\x00\xff"),
        ({"data": None}, "application/json", b"null"),
        ({}, "application/json", b""),
    ],
)
def test_the_data_is_what_its_content_type_says(members: dict[str, Any], kind: str, body: bytes) -> None:
    came = wrapped.cloudevent(document(**members))
    assert (came.headers["content-type"], came.body) == (kind, body)


def test_attributes_that_are_no_texts_are_written_as_in_http_and_null_is_none() -> None:
    came = wrapped.cloudevent(document(sampled=True, count=-5, subject=None))
    assert (came.headers["ce-sampled"], came.headers["ce-count"]) == ("true", "-5")
    assert "ce-subject" not in came.headers


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (document(id=""), "its id is missing"),
        (document(source=None), "its source is missing"),
        (document(type=5), "its type is missing, or is no text"),
        (b"{}", "its specversion is missing"),
        (b"[]", "this is no CloudEvent: it is no object"),
        (document(specversion="0.3"), "has the version '0.3', and 1.0 is what is known"),
        (document(data=1, data_base64="AA=="), "both data and data_base64"),
        (document(data_base64="A"), "data_base64 is no base64"),
        (document(data_base64=5), "data_base64 is no base64"),
        (document(datacontenttype=5), "datacontenttype is no text"),
        (document()[:-1] + b',"id":"2"}', "the key 'id' stands twice"),
        (b'{"id":', "the body is not valid JSON"),
        (document()[:-1] + b',"data":NaN}', "NaN is no JSON number"),
    ],
)
def test_what_is_no_cloudevent_is_refused_with_the_reason(body: bytes, said: str) -> None:
    with pytest.raises(InvalidPayload, match=said):
        wrapped.cloudevent(body)


def test_data_nests_as_deep_as_a_body_and_not_deeper() -> None:
    deep = "[" * 64 + "]" * 64
    assert wrapped.cloudevent(document()[:-1] + f',"data":{deep}}}'.encode()).body == deep.encode()
    with pytest.raises(PayloadTooDeep):
        wrapped.cloudevent(document()[:-1] + f',"data":[{deep}]}}'.encode())


def test_a_batch_in_one_message_is_refused() -> None:
    batch = b"[" + document(id="1", data=1) + b"," + document(id="2", data="b") + b"]"
    with pytest.raises(InvalidPayload, match="a batch of CloudEvents is several events"):
        wrapped.unwrapped(message(batch, wrapped.BATCH))


def test_the_message_of_masstransit_is_the_event() -> None:
    body = {
        "messageId": "5c3a0000-1e8b-3417-0a4e-08dd10f3f3a1",
        "correlationId": None,
        "conversationId": "5c3a0000-1e8b-3417-0c5b-08dd10f3f3a1",
        "sourceAddress": "rabbitmq://localhost/pc_bus_x?temporary=true",
        "messageType": ["urn:message:Shop:OrderPlaced"],
        "message": {"orderId": "A-1"},
        "sentTime": "2026-11-30T06:00:00Z",
        "headers": {"tenant": "acme", "try": 2, "none": None},
        "host": {"machineName": "pc"},
    }
    kind = "application/vnd.masstransit+json"
    came = wrapped.unwrapped(message(json.dumps(body).encode(), kind))
    assert came.body == b'{"orderId": "A-1"}'
    assert came.headers == {
        "content-type": "application/json",
        "message-id": "5c3a0000-1e8b-3417-0a4e-08dd10f3f3a1",
        "type": "urn:message:Shop:OrderPlaced",
        "tenant": "acme",
        "try": "2",
    }
    for wrong in ({}, {"message": {}}, {"message": 1, "messageType": []}):
        with pytest.raises(InvalidPayload, match="no envelope of MassTransit"):
            wrapped.unwrapped(message(json.dumps(wrong).encode(), kind))


@pytest.mark.parametrize("kind", ["", "application/json", "application/json; charset=utf-8", "image/png"])
def test_what_is_in_no_document_stays_the_same_object(kind: str) -> None:
    for event in (message(b"{}", kind), message(b"{}", kind, **{"ce-id": "1"})):
        assert wrapped.unwrapped(event) is event
        assert wrapped.opened(event) is event


def test_attributes_as_the_sdk_names_them_for_amqp_and_kafka_are_read() -> None:
    event = CloudEvent({**ATTRIBUTES, "datacontenttype": "application/json"}, {"a": 1})
    properties = amqp.to_binary_event(event).application_properties
    assert properties["cloudEvents_id"] == "1"
    texts = {name: str(value) for name, value in properties.items() if not isinstance(value, dt.datetime)}
    # 0x83 is a timestamp of AMQP 1.0: milliseconds.
    moment = b"\x83" + int(ATTRIBUTES["time"].timestamp() * 1000).to_bytes(8, "big")  # type: ignore[attr-defined]
    texts["cloudEvents_time"] = "1796018400000"
    native = {"cloudEvents_time": Native("1796018400000", "amqp1", moment)}
    came = wrapped.named(Envelope("p", "k", b"{}", NativeHeaders(texts, native)))
    assert {name: value for name, value in came.headers.items() if name != "content-type"} == AS_HEADERS

    headers = {name: value.decode() for name, value in kafka.to_binary_event(event).headers.items()}
    came = wrapped.named(Envelope("p", "k", b"{}", headers))
    assert came.headers["ce-type"] == "order.placed"
    assert not any(name.startswith("ce_") for name in came.headers)

    came = wrapped.named(
        Envelope("p", "k", b"{}", {"cloudEvents:id": "2", "cloudEvents:type": "a", "x": "1"})
    )
    assert came.headers == {"ce-id": "2", "ce-type": "a", "x": "1"}


def test_a_moment_of_amqp_0_9_1_is_in_seconds() -> None:
    native = {"cloudEvents_time": Native("1796018400", "amqp", b"T" + (1796018400).to_bytes(8, "big"))}
    headers = NativeHeaders({"cloudEvents_id": "1", "cloudEvents_time": "1796018400"}, native)
    assert wrapped.named(Envelope("p", "k", b"", headers)).headers["ce-time"] == "2026-11-30T06:00:00Z"


@pytest.mark.parametrize("more", [{"evbus-signature": "v1,a,b"}, {"content-encoding": "deflate"}])
def test_a_document_that_is_signed_or_compressed_stays_until_that_is_undone(more: dict[str, str]) -> None:
    event = message(document(data=1), **more)
    assert wrapped.opened(event) is event
    assert wrapped.opened(message(document(data=1), **{"content-encoding": "UTF-8"})).body == b"1"


@given(
    st.dictionaries(st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True), st.text(max_size=9), max_size=4),
    st.one_of(
        st.binary(max_size=20),
        st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)).map(
            lambda value: json.dumps(value).encode()
        ),
    ),
    st.sampled_from(["application/json", "text/plain", "image/png", "application/vnd.a+json"]),
)
def test_what_is_wrapped_is_unwrapped_to_the_byte(extra: dict[str, str], body: bytes, kind: str) -> None:
    reserved = {"data", "datacontenttype", "specversion", "id", "source", "type"}
    headers = {f"ce-{name}": value for name, value in extra.items() if name not in reserved}
    headers |= {
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-source": "/x",
        "ce-type": "a",
        "content-type": kind,
    }
    event = Envelope("p", "k", body, {**headers, "x-Other": "1"})
    before = event.replace(headers=event.headers)
    wrapped.wrap(event)
    assert event.headers["content-type"] == wrapped.CLOUDEVENT
    assert wrapped.unwrapped(event) == before


def test_the_sdk_reads_what_is_wrapped() -> None:
    event = Envelope("p", "k", b'{"a":1}', {**AS_HEADERS, "content-type": "application/json"})
    wrapped.wrap(event)
    # It takes a message for one in binary mode when it has a header of that, whatever its content type.
    headers = {"content-type": event.headers["content-type"]}
    read = http.from_http_event(http.HTTPMessage(headers=headers, body=event.body))
    assert read.get_data() == {"a": 1}
    assert {
        name: read.get_extension(name) or read.get_attributes()[name] for name in ATTRIBUTES
    } == ATTRIBUTES
    assert read.get_datacontenttype() == "application/json"


@pytest.mark.parametrize(
    "event", [message(document()), Envelope("p", "k", b"1", {"content-type": "application/json"})]
)
def test_what_is_in_a_document_or_has_no_attributes_is_not_wrapped(event: Any) -> None:
    before = event.replace(headers=event.headers)
    wrapped.wrap(event)
    assert event == before


def test_an_attribute_that_utf_8_cannot_carry_is_refused() -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x", "ce-type": "t", "ce-who": "\ud800"}
    with pytest.raises(InvalidHeader, match="an attribute of the CloudEvent holds a lone surrogate"):
        wrapped.wrap(Envelope("p", "k", b"{}", headers))
