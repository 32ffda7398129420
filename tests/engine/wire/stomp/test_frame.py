"""Frames as bytes: what is escaped, what is cut apart, and what is no STOMP."""

from __future__ import annotations

import proton
import pytest

from evbus.engine.wire.stomp.frame import Frame, Malformed, Parser, escape, frame
from evbus.engine.wire.stomp.library import parse

MESSAGE = b"MESSAGE\nsubscription:1\nack:a\\c1\ncontent-length:3\n\na\0b\0"


def parsed(*chunks: bytes) -> list[Frame | list[int]]:
    parser = Parser(parse)
    return [found for chunk in chunks for found in parser.feed(chunk)]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("plain", "plain"), ("a:b", "a\\cb"), ("a\r\nb", "a\\r\\nb"), ("\\c", "\\\\c"), ("ü", "ü")],
)
def test_a_header_is_escaped_and_read_back(text: str, escaped: str) -> None:
    assert escape(text) == escaped
    assert parsed(frame("MESSAGE", {text: text})) == [Frame("MESSAGE", {text: text}, b"")]


def test_an_unknown_escape_is_kept_as_it_stands() -> None:
    assert parsed(b"MESSAGE\na:\\t\n\n\0") == [Frame("MESSAGE", {"a": "\\t"}, b"")]


def test_frames_are_the_same_however_they_are_cut() -> None:
    data = b"\n" + MESSAGE + b"\n\r\nRECEIPT\nreceipt-id:7\n\n\0\nERROR\r\nmessage:no\r\n\r\ntext\0\n\n"
    message = Frame("MESSAGE", {"subscription": "1", "ack": "a:1", "content-length": "3"}, b"a\0b")
    whole = [message, [7], Frame("ERROR", {"message": "no"}, b"text")]
    assert parsed(data) == whole
    for size in (1, 2, 3, 7):
        assert parsed(*(data[at : at + size] for at in range(0, len(data), size))) == whole


def test_receipts_in_a_row_come_as_one_list() -> None:
    data = b"".join(b"RECEIPT\nreceipt-id:%d\n\n\0\n" % number for number in range(1, 1001))
    assert parsed(data) == [list(range(1, 1001))]
    assert parsed(b"RECEIPT\nx:y\nreceipt-id:7\n\n\0") == [
        Frame("RECEIPT", {"x": "y", "receipt-id": "7"}, b"")
    ]


def test_the_first_of_two_headers_of_a_name_counts() -> None:
    assert parsed(b"MESSAGE\na:1\na:2\n\n\0") == [Frame("MESSAGE", {"a": "1"}, b"")]


def test_a_large_body_in_pieces_is_put_together() -> None:
    body = bytes(range(256)) * 4096
    data = frame("MESSAGE", {"content-length": str(len(body))}, body)
    (found,) = parsed(*(data[at : at + 65536] for at in range(0, len(data), 65536)))
    assert isinstance(found, Frame)
    assert found.body == body


@pytest.mark.parametrize(
    "data",
    [
        b"\x15\x03\x01\x00\x02\x02\n",
        b"AMQP\x00\x00\x09\x01",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"MESSAGE\nno colon\n\n\0",
        b"MESSAGE\ncontent-length:2\n\nabc\0",
        b"MESSAGE\ncontent-length:999999999999\n\n",
        b"MESSAGE\na:" + b"x" * (1024 * 1024),
    ],
)
def test_what_is_no_stomp_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parsed(data)


def test_bytes_that_rabbitmq_3_puts_into_headers_are_read_before_they_are_text() -> None:
    message = proton.Message(
        id="m\n:",
        subject="a.b",
        creation_time=1_700_000_000.5,
        properties={"tenant": "shöp", "n": proton.int32(10), "subscription": "forged"},
        body="text",
    )
    raw = bytes(message.encode())
    properties, application, value = raw.index(b"\0Ss"), raw.index(b"\0St"), raw.index(b"\0Sw")
    marks = {b"properties": raw[properties:application], b"app-properties": raw[application:value]}
    head = b"MESSAGE\nsubscription:1\ndestination:/queue/q\ntype:amqp-1.0\ntimestamp:1700000000500\n"
    for name, section in marks.items():
        for plain, escaped in ((b"\\", b"\\\\"), (b"\r", b"\\r"), (b"\n", b"\\n"), (b":", b"\\c")):
            section = section.replace(plain, escaped)
        head += b"x-amqp-1.0-" + name + b":" + section + b"\n"
    body = raw[value:]
    (found,) = Parser(parse).feed(head + b"content-length:%d\n\n" % len(body) + body + b"\0")
    assert isinstance(found, Frame)
    assert found.body == b"text"
    assert found.headers == {
        "subscription": "1",
        "destination": "/queue/q",
        "timestamp": "1700000000",
        "content-length": str(len(body)),
        "message-id": "m\n:",
        "tenant": "shöp",
        "n": "10",
        "evbus-routing-key": "a.b",
    }
