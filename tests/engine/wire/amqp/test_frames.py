"""The frames that evbus writes and reads itself, compared with those of pamqp."""

from __future__ import annotations

import datetime as dt
import struct
from typing import Any

import proton
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import body as pamqp_body
from pamqp import commands, encode, frame, header

from evbus.engine.wire.amqp import frames
from evbus.engine.wire.amqp.profile import Profile
from evbus.errors import InvalidHeader, InvalidRoutingKey
from evbus.types import Envelope, SharedHeaders

FIXED = Profile()
channels = st.integers(0, 65535)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
shorts = texts.filter(lambda text: len(text.encode()) <= 255)
SHORT = (
    "content-type",
    "content-encoding",
    "correlation-id",
    "reply-to",
    "message-id",
    "type",
    "app-id",
)
NUMBERS = {"priority": 255, "timestamp": 2**32 - 1, "expiration": 2**32 - 1}
#: Names that have a meaning here.
OURS = {*SHORT, *NUMBERS, "delivery-mode", "ce-id", "evbus-routing-key", "content-length"}
properties = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(SHORT, shorts),
        "type": shorts.filter(lambda text: text != "amqp-1.0"),
        **{name: st.integers(0, most).map(str) for name, most in NUMBERS.items()},
    },
)
others = shorts.filter(lambda name: name not in OURS and not name.startswith("x-"))


def unmarshal(data: bytes) -> list[tuple[int, Any]]:
    """Return the channel and the frame of each frame."""
    found = []
    while data:
        size, channel, value = frame.unmarshal(data)
        found.append((channel, value))
        data = data[size:]
    return found


# Written


@given(channels, shorts.filter(lambda name: len(name) < 128), shorts, st.booleans())
def test_publish_is_what_others_read(channel: int, exchange: str, key: str, mandatory: bool) -> None:
    data = frames.publish_method(channel, exchange, key, mandatory=mandatory)
    size, found_channel, found = _unchecked(data)
    assert (size, found_channel) == (len(data), channel)
    assert isinstance(found, commands.Basic.Publish)
    assert (found.exchange, found.routing_key) == (exchange, key)
    assert (bool(found.mandatory), bool(found.immediate)) == (mandatory, False)


def _unchecked(data: bytes) -> tuple[int, int, Any]:
    """Read a frame of basic.publish without pamqp's own rules for the names of exchanges."""
    kind, channel, size = struct.unpack(">BHI", data[:7])
    assert (kind, data[-1:]) == (1, frames.END)
    found = commands.Basic.Publish()
    found.unmarshal(data[11:-1])
    return 7 + size + 1, channel, found


@given(
    channels,
    st.integers(9, 5000),
    st.binary(max_size=20_000),
    properties,
    st.dictionaries(others, texts, max_size=8),
    st.booleans(),
)
def test_a_message_is_what_others_read(
    channel: int, frame_max: int, body: bytes, some: dict[str, str], more: dict[str, str], persistent: bool
) -> None:
    encoded = frames.encode_properties({**some, **more}, Profile(persistent=persistent))
    head = frames.content_header(channel, len(body), encoded)
    whole = frames.message(channel, frame_max, head, body)
    (first_channel, content), *rest = unmarshal(whole)
    assert isinstance(content, header.ContentHeader)
    assert content.body_size == len(body)
    assert {first_channel, *(number for number, _ in rest)} == {channel}
    assert all(isinstance(part, pamqp_body.ContentBody) for _, part in rest)
    assert b"".join(part.value for _, part in rest) == body
    assert all(len(part.value) == frame_max - 8 for _, part in rest[:-1])
    assert all(0 < len(part.value) <= frame_max - 8 for _, part in rest)
    found = content.properties
    assert found.delivery_mode == (2 if persistent else 1)
    assert (found.headers or {}) == more
    for name in SHORT:
        attribute = "message_type" if name == "type" else name.replace("-", "_")
        assert getattr(found, attribute) == some.get(name)
    assert found.expiration == some.get("expiration")
    assert found.priority == (int(some["priority"]) if "priority" in some else None)
    if "timestamp" in some:
        assert found.timestamp == dt.datetime.fromtimestamp(int(some["timestamp"]), dt.UTC)


@given(channels, st.integers(1, 100_000))
def test_the_head_of_a_body_in_one_frame(channel: int, size: int) -> None:
    body = bytes(size)
    found = unmarshal(frames.body_head(channel, size) + body + frames.END)
    assert [(number, len(part.value)) for number, part in found] == [(channel, size)]


@given(channels, st.integers(0, 2**63 - 1), st.booleans())
def test_what_settles_deliveries_is_what_others_read(channel: int, tag: int, flag: bool) -> None:
    ((number, ack),) = unmarshal(frames.ack_frame(channel, tag, multiple=flag))
    assert isinstance(ack, commands.Basic.Ack)
    assert (number, ack.delivery_tag, bool(ack.multiple)) == (channel, tag, flag)
    ((number, reject),) = unmarshal(frames.reject_frame(channel, tag, requeue=flag))
    assert isinstance(reject, commands.Basic.Reject)
    assert (number, reject.delivery_tag, bool(reject.requeue)) == (channel, tag, flag)
    ((number, nack),) = unmarshal(frames.return_frame(channel, tag, multiple=flag))
    assert isinstance(nack, commands.Basic.Nack)
    assert (number, nack.delivery_tag, bool(nack.requeue), bool(nack.multiple)) == (channel, tag, True, flag)


def test_what_wants_no_answer_is_what_others_read() -> None:
    ((number, cancel),) = unmarshal(frames.cancel_frame(7, "me"))
    assert isinstance(cancel, commands.Basic.Cancel)
    assert (number, cancel.consumer_tag, cancel.nowait) == (7, "me", True)
    ((number, delete),) = unmarshal(frames.delete_frame(7, "mine"))
    assert isinstance(delete, commands.Queue.Delete)
    assert (number, delete.queue, delete.nowait, delete.if_unused, delete.if_empty) == (
        7,
        "mine",
        True,
        False,
        False,
    )


def test_the_heartbeat_is_what_others_read() -> None:
    assert frame.unmarshal(frames.HEARTBEAT)[2].name == "Heartbeat"


@pytest.mark.parametrize(
    ("number", "command"),
    [
        (frames.CONNECTION_CLOSE, commands.Connection.Close),
        (frames.BLOCKED, commands.Connection.Blocked),
        (frames.UNBLOCKED, commands.Connection.Unblocked),
        (frames.CHANNEL_CLOSE, commands.Channel.Close),
        (frames.CANCEL, commands.Basic.Cancel),
        (frames.RETURN, commands.Basic.Return),
        (frames.DELIVER, commands.Basic.Deliver),
        (frames.ACK, commands.Basic.Ack),
        (frames.NACK, commands.Basic.Nack),
    ],
)
def test_the_numbers_of_methods_are_those_of_others(number: int, command: Any) -> None:
    assert number == command.index


# Both ways


@given(properties, st.dictionaries(others, texts, max_size=8))
def test_what_is_written_is_read_again(some: dict[str, str], more: dict[str, str]) -> None:
    found, count, *_ = frames.properties_of(frames.encode_properties({**some, **more}, FIXED))
    assert found == {**some, **more}
    assert isinstance(found, SharedHeaders)
    assert count is None


def test_the_id_of_an_event_is_the_id_of_its_message_unless_it_has_one() -> None:
    found, *_ = frames.properties_of(frames.encode_properties({"ce-id": "7"}, FIXED))
    assert found == {"ce-id": "7", "message-id": "7"}
    found, *_ = frames.properties_of(frames.encode_properties({"ce-id": "7", "message-id": "8"}, FIXED))
    assert found == {"ce-id": "7", "message-id": "8"}


def test_what_a_profile_says_yields_to_what_an_event_says() -> None:
    fixed = Profile(
        priority=5,
        expiry=1.0,
        headers={"a": "profile", "b": "profile", "app-id": "shop", "content-type": "text/plain"},
    )
    found, *_ = frames.properties_of(frames.encode_properties({}, fixed))
    assert found == {
        "a": "profile",
        "b": "profile",
        "app-id": "shop",
        "content-type": "text/plain",
        "priority": "5",
        "expiration": "1000",
    }
    own = {"a": "event", "app-id": "till", "content-type": "text/csv", "priority": "6", "expiration": "1"}
    found, *_ = frames.properties_of(frames.encode_properties(own, fixed))
    assert found == {**own, "b": "profile"}
    ((_, content),) = unmarshal(frames.content_header(1, 0, frames.encode_properties({}, fixed)))
    assert content.properties.app_id == "shop"
    assert content.properties.content_type == "text/plain"


def test_the_history_of_a_message_is_not_sent_again() -> None:
    history = {
        "x-death": "[]",
        "x-first-death-reason": "rejected",
        "x-last-death-queue": "q",
        "x-delivery-count": "3",
        "x-acquired-count": "3",
        "user-id": "guest",
        "cluster-id": "c",
        "delivery-mode": "1",
    }
    found, count, *_ = frames.properties_of(frames.encode_properties({**history, "x-own": "kept"}, FIXED))
    assert found == {"x-own": "kept", "user-id": "guest", "cluster-id": "c"}
    assert count is None
    ((_, content),) = unmarshal(frames.content_header(1, 0, frames.encode_properties(history, FIXED)))
    assert content.properties.user_id is None
    assert content.properties.delivery_mode == 2


# What AMQP cannot carry


@pytest.mark.parametrize("what", ["x" * 256, "ä" * 128])
def test_a_routing_key_of_more_than_255_bytes_is_told(what: str) -> None:
    with pytest.raises(
        InvalidRoutingKey, match="the routing key has 256 bytes, more than the 255 that AMQP carries"
    ):
        frames.publish_method(1, "", what, mandatory=True)
    with pytest.raises(InvalidRoutingKey, match="the exchange has 256 bytes"):
        frames.publish_method(1, what, "", mandatory=True)
    frames.publish_method(1, what[:127], what[:127], mandatory=True)


@pytest.mark.parametrize("name", SHORT)
def test_a_property_of_more_than_255_bytes_is_told(name: str) -> None:
    with pytest.raises(InvalidHeader, match=f"the header '{name}' has 256 bytes, more than the 255"):
        frames.encode_properties({name: "ä" * 128}, FIXED)
    frames.encode_properties({name: "ä" * 127}, FIXED)


def test_a_name_of_more_than_255_bytes_is_told_shortened() -> None:
    with pytest.raises(InvalidHeader, match=r"the header name 'n{40}'\.\.\. has 256 bytes, AMQP carries 255"):
        frames.encode_properties({"n" * 256: ""}, FIXED)
    found, *_ = frames.properties_of(frames.encode_properties({"n" * 255: "v" * 70_000}, FIXED))
    assert found == {"n" * 255: "v" * 70_000}


@pytest.mark.parametrize(
    ("name", "below"),
    [("priority", 2**8), ("expiration", frames.LONGEST_EXPIRATION + 1), ("timestamp", 2**63)],
)
def test_a_number_that_is_none_or_too_large_is_told(name: str, below: int) -> None:
    for value in ("", "x", "-1", "1.5", "1_0", " 1", "²", "٣", str(below), "0" * 24 + "999999", "0" * 5000):
        with pytest.raises(InvalidHeader) as caught:
            frames.encode_properties({name: value}, FIXED)
        assert str(caught.value) == (
            f"the header {name!r} is {value[:40]!r}; AMQP carries a whole number below {below} there"
        )
    frames.encode_properties({name: str(below - 1)}, FIXED)


@given(st.dictionaries(st.text(max_size=300), st.text(max_size=300), max_size=4))
def test_any_headers_are_either_carried_or_told(headers: dict[str, str]) -> None:
    try:
        data = frames.encode_properties(headers, FIXED)
    except InvalidHeader:
        return
    frames.properties_of(data)


# Read from others


def of_others(**values: Any) -> tuple[dict[str, str], int | None]:
    """Return what is read of properties that pamqp wrote."""
    found, count, *_ = frames.properties_of(commands.Basic.Properties(**values).marshal())
    return dict(found), count


def test_every_property_of_others_is_read() -> None:
    found, _ = of_others(
        content_type="a",
        content_encoding="b",
        headers={"h": "1"},
        delivery_mode=2,
        priority=3,
        correlation_id="c",
        reply_to="d",
        expiration="4",
        message_id="e",
        timestamp=dt.datetime.fromtimestamp(5, dt.UTC),
        message_type="f",
        user_id="g",
        app_id="h",
        cluster_id="",
    )
    assert found == {
        "content-type": "a",
        "content-encoding": "b",
        "h": "1",
        "priority": "3",
        "correlation-id": "c",
        "reply-to": "d",
        "expiration": "4",
        "message-id": "e",
        "timestamp": "5",
        "type": "f",
        "user-id": "g",
        "app-id": "h",
    } | ({"cluster-id": ""} if "cluster-id" in found else {})


def test_a_property_wins_over_an_entry_of_the_table_with_its_name() -> None:
    found, _ = of_others(content_type="right", app_id="right", headers={"content-type": "x", "app-id": "x"})
    assert found == {"content-type": "right", "app-id": "right"}


def test_deliveries_that_the_broker_counted_are_told() -> None:
    assert of_others(headers={"x-delivery-count": 7}) == ({"x-delivery-count": "7"}, 7)
    assert of_others(headers={"x-delivery-count": "7"}) == ({"x-delivery-count": "7"}, None)


@given(st.binary(max_size=60))
def test_properties_that_are_none_are_told(data: bytes) -> None:
    try:
        found, *_ = frames.properties_of(data)
    except ValueError as exc:
        said = str(exc)
    else:
        said = ""
        assert all(isinstance(text, str) for pair in found.items() for text in pair)
    assert not said or said.startswith("the properties of a message are malformed: ")


@given(properties, st.dictionaries(others, texts, max_size=4), st.data())
def test_properties_that_were_cut_are_told(some: dict[str, str], more: dict[str, str], data: Any) -> None:
    whole = frames.encode_properties({**some, **more}, FIXED)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(ValueError, match="the properties of a message are malformed"):
        frames.properties_of(cut)


@given(st.integers(0, 999), texts)
def test_the_reason_of_a_close_is_read(code: int, text: str) -> None:
    for close in (commands.Connection.Close, commands.Channel.Close):
        data = frame.marshal(close(code, text[:60], 0, 0), 0)
        assert frames.read_close(data[7:-1]) == (code, text[:60])


def test_the_table_that_pamqp_writes_is_the_one_that_we_write() -> None:
    table = {"": "", "a": "1", "ä": "2" * 300}
    assert encode.field_table(table) in frames.encode_properties(table, FIXED)


# What is no text


def table_of(**entries: bytes) -> bytes:
    """Return properties with a table of headers, whose fields are encoded already."""
    table = b"".join(bytes((len(name),)) + name.encode() + field for name, field in entries.items())
    return b"\x20\x00" + struct.pack(">I", len(table)) + table


FIELDS = {
    "int": b"I\0\0\0\x05",
    "byte": b"b\x05",
    "true": b"t\x01",
    "bytes": b"S\0\0\0\x02\xff\xfe",
    "array": b"A\0\0\0\x02t\x01",
    "table": b"F\0\0\0\x04\x01at\x01",
    "decimal": b"D\x02\0\0\0\x7d",
    "text": b"S\0\0\0\x01a",
}


def fields_of(data: bytes) -> dict[str, bytes]:
    """Return the fields of the table in properties that evbus wrote."""
    found = frames.properties_of(data).headers
    native = getattr(found, "native", {})
    return {
        name: native[name].data if name in native else b"S" + struct.pack(">I", len(text)) + text.encode()
        for name, text in found.items()
    }


def test_headers_that_are_no_text_are_sent_as_they_came() -> None:
    came = frames.properties_of(table_of(**FIELDS)).headers
    assert came["int"] == came["byte"] == "5"
    assert came["bytes"] == "\ufffd\ufffd"
    for headers in (came, came.copy(), Envelope("p").replace(headers=came).headers):
        assert fields_of(frames.encode_properties(headers, FIXED)) == FIELDS


def test_a_header_that_was_changed_is_sent_as_the_text_that_it_is() -> None:
    headers = frames.properties_of(table_of(**FIELDS)).headers.copy()
    headers["int"] = "6"
    headers["more"] = "5"
    del headers["true"]
    found = fields_of(frames.encode_properties(headers, FIXED))
    assert found["int"] == b"S\0\0\0\x016"
    assert found["more"] == b"S\0\0\0\x015"
    assert "true" not in found
    assert found["byte"] == FIELDS["byte"]


def test_headers_that_were_copied_without_their_types_are_sent_as_text() -> None:
    headers = dict(frames.properties_of(table_of(**FIELDS)).headers)
    assert set(fields_of(frames.encode_properties(headers, FIXED))) == set(FIELDS)
    assert fields_of(frames.encode_properties(headers, FIXED))["table"] == b'S\0\0\0\x0a{"a":true}'


def test_a_property_that_is_no_utf_8_is_sent_as_it_came() -> None:
    data = b"\x04\x00" + b"\x03\xff\0a"  # correlation-id
    headers = frames.properties_of(data).headers
    assert headers == {"correlation-id": "\ufffd\0a"}
    written = frames.encode_properties(headers, FIXED)
    assert written == b"\x14\x00\x02\x03\xff\0a"  # with delivery-mode


def test_an_entry_under_the_name_of_a_property_is_sent_as_its_text() -> None:
    headers = frames.properties_of(table_of(type=b"I\0\0\0\x05")).headers
    assert frames.properties_of(frames.encode_properties(headers, FIXED)).headers == {"type": "5"}


def test_headers_of_texts_alone_cost_nothing_more() -> None:
    assert type(frames.properties_of(table_of(text=FIELDS["text"])).headers) is SharedHeaders


# What RabbitMQ makes of other protocols


def test_what_is_left_of_a_stomp_frame_is_no_header() -> None:
    sent = {"content-length": "2", "receipt": "7", "evbus-routing-key": "a.b", "x": "y"}
    found = frames.properties_of(frames.encode_properties(sent, FIXED))
    assert (found.headers, found.routing_key) == ({"x": "y"}, "a.b")


def test_a_receipt_of_others_is_a_header() -> None:
    found = frames.properties_of(frames.encode_properties({"receipt": "R-17"}, FIXED))
    assert (found.headers, found.routing_key, found.sectioned) == ({"receipt": "R-17"}, None, False)


def test_what_rabbitmq_3_hands_over_of_amqp_1_is_read() -> None:
    message = proton.Message(
        id="m",
        subject="a.b",
        creation_time=1_700_000_000.5,
        properties={"tenant": "shop", "n": proton.int32(5), "bytes": b"\xff"},
        inferred=True,
        body=b"",
    )
    raw = bytes(message.encode())
    properties, application = raw.index(b"\0Ss"), raw.index(b"\0St")
    fields = {
        "x-amqp-1.0-properties": raw[properties:application],
        "x-amqp-1.0-app-properties": raw[application : raw.index(b"\0Su")],
    }
    entries = {name: b"S" + struct.pack(">I", len(field)) + field for name, field in fields.items()}
    data = table_of(**entries)
    data = b"\x20\x60" + data[2:] + struct.pack(">Q", 1_700_000_000_500) + b"\x06binary"
    found = frames.properties_of(data)
    assert found.headers == {
        "message-id": "m",
        "timestamp": "1700000000",
        "tenant": "shop",
        "n": "5",
        "bytes": "\ufffd",
    }
    assert (found.routing_key, found.sectioned) == ("a.b", False)
    sent = fields_of(frames.encode_properties(found.headers, FIXED))
    assert (sent["n"], sent["bytes"]) == (b"I\0\0\0\x05", b"x\0\0\0\x01\xff")


def test_a_mark_that_is_no_amqp_1_is_left_out() -> None:
    found = frames.properties_of(table_of(**{"x-amqp-1.0-app-properties": b"S\0\0\0\x01?", "x": b"t\x01"}))
    assert found.headers == {"x": "true"}


def test_a_body_of_sections_is_told() -> None:
    found = frames.properties_of(frames.encode_properties({"type": "amqp-1.0"}, FIXED))
    assert (found.headers, found.sectioned) == ({}, True)


def test_the_properties_of_a_thousand_types_are_read_once() -> None:
    of_types = [frames.encode_properties({"evbus-message": f"e{number}"}, FIXED) for number in range(1_000)]
    first = [frames.properties_of(data) for data in of_types]
    assert all(frames.properties_of(data) is one for data, one in zip(of_types, first, strict=True))
