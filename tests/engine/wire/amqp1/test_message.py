"""Messages of AMQP 1.0, checked with proton's own."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import proton
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evbus.engine.wire.amqp1.decode import decode
from evbus.engine.wire.amqp1.message import ROUTING_KEY, Encoder
from evbus.engine.wire.base.amqp1_types import Malformed
from evbus.engine.wire.base.crossing import HISTORY
from evbus.errors import InvalidHeader
from evbus.types import SharedHeaders


def encoder(**changed: Any) -> Encoder:
    return Encoder(**{"durable": True, "priority": None, "ttl": None, "headers": {}, **changed})


def by_proton(raw: bytes) -> Any:
    message = proton.Message()
    message.decode(raw)
    return message


HEADERS = {
    "content-type": "application/json",
    "content-encoding": "zstd",
    "message-id": "m-1",
    "correlation-id": "c-1",
    "reply-to": "answers",
    "group-id": "g",
    "ce-id": "7",
    "ü:\r\n": "\0",
}


def test_an_event_becomes_a_message() -> None:
    raw = encoder(priority=7, ttl=1.5).encode("eu.created", HEADERS, b"\0body", keyed=False)
    message = by_proton(raw)
    assert (message.durable, message.priority, message.ttl) == (True, 7, 1.5)
    assert (message.subject, message.id, message.correlation_id) == ("eu.created", "m-1", "c-1")
    assert (message.reply_to, message.group_id) == ("answers", "g")
    assert (message.content_type, message.content_encoding) == ("application/json", "zstd")
    assert message.properties == {"ce-id": "7", "ü:\r\n": "\0"}
    assert bytes(message.body) == b"\0body"
    assert message.inferred


def test_nothing_is_said_of_what_an_event_does_not_have() -> None:
    message = by_proton(encoder(durable=False).encode("", {}, b"", keyed=False))
    assert (message.durable, message.subject, message.id, message.properties) == (False, None, None, None)
    assert bytes(message.body) == b""


def test_a_message_that_is_not_durable_says_so() -> None:
    # proton takes a header that says nothing for the same; a broker may not.
    raw = encoder(durable=False).encode("", {}, b"", keyed=False)
    assert raw.startswith(b"\x00\x53\x70\xc0\x02\x01\x42")


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        ("k" * 256, {}),
        ("", {"message-id": "ü" * 128}),
        ("", {"content-type": "a" * 256}),
        ("", {"x" * 256: "1"}),
    ],
)
def test_what_amqp_0_9_1_cannot_say_is_refused_where_it_has_to(key: str, headers: dict[str, str]) -> None:
    found = decode(encoder().encode(key, headers, b"", keyed=False))
    assert (found.subject, found.headers) == (key, headers)
    with pytest.raises(InvalidHeader, match="256 bytes, more than the 255 of AMQP 0-9-1"):
        encoder(short=True).encode(key, headers, b"", keyed=False)
    long = {"message-id": "m" * 255, "x" * 255: "v" * 1000}
    assert decode(encoder(short=True).encode("k" * 255, long, b"", keyed=False)).headers == long


def test_a_message_becomes_the_event_that_it_was() -> None:
    found = decode(encoder().encode("k", HEADERS, b"body", keyed=False))
    assert (found.subject, found.headers, found.body) == ("k", HEADERS, b"body")
    assert isinstance(found.headers, SharedHeaders)
    assert found.delivery_count is None
    assert not found.again


def test_a_routing_key_that_the_address_does_not_tell_travels_beside_the_subject() -> None:
    raw = encoder().encode("k", {"a": "b", ROUTING_KEY: "forged"}, b"", keyed=True)
    assert by_proton(raw).properties == {"a": "b", ROUTING_KEY: "k"}
    message = proton.Message(subject="the broker's own", properties={ROUTING_KEY: "k"})
    found = decode(bytes(message.encode()))
    assert (found.subject, found.headers) == ("k", {})


def test_headers_of_the_profile_win() -> None:
    raw = encoder(headers={"a": "1", "content-type": "x/y"}).encode(
        "", {"a": "2", "b": "3"}, b"", keyed=False
    )
    assert decode(raw).headers == {"a": "1", "b": "3", "content-type": "x/y"}


def test_shared_headers_are_not_encoded_for_another_key() -> None:
    headers, one = SharedHeaders(a="b"), encoder()
    assert decode(one.encode("1", headers, b"x", keyed=False)).subject == "1"
    assert decode(one.encode("2", headers, b"x", keyed=False)).subject == "2"
    assert by_proton(one.encode("2", headers, b"x", keyed=True)).properties == {"a": "b", ROUTING_KEY: "2"}


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"a": "\ud800"}, "the header 'a' holds a lone surrogate"),
        ({"\ud800": "secret"}, "a header's name holds a lone surrogate"),
        ({"content-type": "texté"}, "the header 'content-type' holds a character that is not ASCII"),
        ({"a": 1}, "have to be strings"),
        ({1: "a"}, "have to be strings"),
    ],
)
def test_what_cannot_be_carried_is_refused(headers: Any, said: str) -> None:
    with pytest.raises(InvalidHeader, match=said) as caught:
        encoder().encode("k", headers, b"", keyed=False)
    assert "secret" not in str(caught.value)


def test_values_that_are_no_text_become_text() -> None:
    who = UUID("12345678-1234-5678-1234-567812345678")
    message = proton.Message(
        body=b"",
        id=proton.ulong(7),
        correlation_id=who,
        user_id=b"guest",
        properties={
            "number": -3,
            "yes": True,
            "none": None,
            "uuid": who,
            "bytes": b"\xff",
            "when": proton.timestamp(5),
            "list": [1, {"a": b"x", 2: who}],
        },
    )
    assert decode(bytes(message.encode())).headers == {
        "message-id": "7",
        "correlation-id": str(who),
        "user-id": "guest",
        "number": "-3",
        "yes": "true",
        "none": "null",
        "uuid": str(who),
        "bytes": "\ufffd",
        "when": "5",
        "list": f'[1, {{"a": "x", "2": "{who}"}}]',
    }


@pytest.mark.parametrize(
    ("body", "found"),
    [("text", b"text"), (b"x", b"x"), ({"a": [1, None]}, b'{"a": [1, null]}'), (5, b"5"), (None, b"")],
)
def test_bodies_of_every_kind_become_bytes(body: Any, found: bytes) -> None:
    assert decode(bytes(proton.Message(body=body).encode())).body == found


def test_parts_of_a_body_are_joined() -> None:
    assert decode(b"\0\x53\x75\xa0\x01a\0\x53\x75\xa0\x01b").body == b"ab"


def test_how_often_it_was_delivered_is_told() -> None:
    message = proton.Message(delivery_count=3)
    found = decode(bytes(message.encode()))
    assert (found.delivery_count, found.again) == (3, True)
    first = decode(b"\0\x53\x70\xc0\x06\x05\x41\x40\x40\x41\x43")
    assert (first.delivery_count, first.again) == (0, False)
    later = decode(b"\0\x53\x70\xc0\x06\x05\x41\x40\x40\x42\x43")
    assert (later.delivery_count, later.again) == (0, True)


@pytest.mark.parametrize("raw", [b"\xa1\x01x", b"\0\xa3\x01x\x40", b"\0\x53\x75", b"\0\x53\x75\xa0\x05x"])
def test_what_is_no_message_is_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        decode(raw)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
# What brokers add is taken off, on one side or the other.
OWN = TEXT.filter(lambda name: name not in {ROUTING_KEY, "content-length"} and not name.startswith(HISTORY))


@given(TEXT, st.dictionaries(OWN, TEXT), st.binary())
def test_every_event_comes_back(key: str, headers: dict[str, str], body: bytes) -> None:
    try:
        raw = encoder().encode(key, headers, body, keyed=False)
    except InvalidHeader:
        assert not all(headers.get(name, "").isascii() for name in ("content-type", "content-encoding"))
        return
    found = decode(raw)
    assert (found.subject, found.headers, found.body) == (key, headers, body)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_a_message_or_refused(raw: bytes) -> None:
    try:
        found = decode(b"\0\x53\x74" + raw)
    except Malformed:
        return
    assert all(isinstance(value, str) for value in found.headers.values())
