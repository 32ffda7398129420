"""Frames of STOMP 1.2 as bytes, both ways. Sections named here are those of the specification 1.2."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from evbus.engine.wire.amqp1.decode import SECTIONED, body_of, handed_over
from evbus.engine.wire.amqp1.message import ROUTING_KEY

__all__ = ["Frame", "Malformed", "Parser", "escape", "frame", "header_lines"]

#: The most bytes that the command and headers of a frame from the broker may have, and its body.
MOST_HEADERS, MOST_BODY = 1024 * 1024, 512 * 1024 * 1024

_SPECIAL = re.compile(r"[\\\r\n:]")
_ESCAPES = str.maketrans({"\\": "\\\\", "\r": "\\r", "\n": "\\n", ":": "\\c"})
_ESCAPED = re.compile(r"\\(.)")
_ESCAPED_BYTES = re.compile(rb"\\([\\rnc])")
_MEANING = {"\\": "\\", "r": "\r", "n": "\n", "c": ":"}

# What brokers answer a SEND with, thousands of times a second.
_RECEIPTS = re.compile(rb"[\r\n]*RECEIPT\r?\nreceipt-id:([0-9]{1,18})\r?\n\r?\n\0")
_END_OF_LINES = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"\ncontent-length:\s*([0-9]{1,18})\s*(?:\r?\n|\Z)")


class Malformed(Exception):
    """The broker sent something that is no STOMP."""


class Frame(NamedTuple):
    """A frame from the broker; of headers that stand twice, the first counts ("Repeated Header Entries")."""

    command: str
    headers: dict[str, str]
    body: bytes


def escape(text: str) -> str:
    """Return the text as it stands in a header ("Value Encoding")."""
    return text.translate(_ESCAPES) if _SPECIAL.search(text) else text


def _unescape(text: str) -> str:
    # An escape that the specification does not know should be fatal. The message would come again after each
    # reconnect, for ever; kept as it stands, it does no harm.
    return _ESCAPED.sub(lambda found: _MEANING.get(found[1], found[0]), text) if "\\" in text else text


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Return headers as lines, escaped."""
    return "".join([f"{escape(name)}:{escape(value)}\n" for name, value in headers.items()]).encode()


def frame(command: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Return a whole frame ("STOMP Frames")."""
    return b"".join((command.encode(), b"\n", header_lines(headers), b"\n", body, b"\0"))


class Parser:
    """Cut what comes from the broker into frames.

    :param control: reads one that is no MESSAGE; returns command, headers and body.
    """

    __slots__ = ("_buffer", "_control", "_need")

    def __init__(self, control: Callable[[bytes], tuple[str, dict[str, str], bytes]]) -> None:
        self._control = control
        self._buffer = bytearray()
        self._need = 0

    def feed(self, data: bytes) -> Iterator[Frame | list[int]]:
        """Yield the frames that are complete now, and runs of numbered receipts as lists of numbers.

        :raises Malformed: this is no STOMP.
        """
        buffer = self._buffer
        buffer += data
        if len(buffer) < self._need:
            return
        self._need = 0
        start, end = 0, len(buffer)
        view = bytes(buffer)
        while start < end:
            numbers, start = _receipts(view, start)
            if numbers:
                yield numbers
            while start < end and view[start] in b"\r\n":
                start += 1  # a heartbeat, or the end of line after a frame
            if start == end:
                break
            found = self._next(view, start)
            if found is None:
                break
            made, start = found
            if made is not None:
                yield made
        del buffer[:start]
        if self._need:
            self._need -= start

    def _next(self, view: bytes, start: int) -> tuple[Frame | None, int] | None:
        if _RECEIPTS.match(view, start):
            return None, start
        control = not view.startswith(b"MESSAGE\n", start)
        if control:
            _check_command(view, start)
        blank = _END_OF_LINES.search(view, start, start + MOST_HEADERS)
        if blank is None:
            if len(view) - start >= MOST_HEADERS:
                raise Malformed(f"a frame's headers are longer than {MOST_HEADERS} bytes")
            return None
        length = _LENGTH.search(view, start, blank.start() + 1)
        if length is None:
            end = view.find(b"\0", blank.end())
            if end < 0:
                return None
        else:
            if int(length[1]) > MOST_BODY:
                raise Malformed(f"a frame has {int(length[1])} bytes, more than {MOST_BODY}")
            end = blank.end() + int(length[1])
            if len(view) <= end:
                self._need = end + 1
                return None
            if view[end]:
                raise Malformed("a frame does not end where its content-length says")
        if control:
            return Frame(*self._control(view[start:end])), end + 1
        head, body = view[start : blank.start()], view[blank.end() : end]
        headers = _headers(head)
        if b"amqp-1.0" in head:
            body = _sent_by_amqp1(head, headers, body)
        return Frame("MESSAGE", headers, body), end + 1


def _receipts(view: bytes, start: int) -> tuple[list[int], int]:
    numbers = []
    while found := _RECEIPTS.match(view, start):
        numbers.append(int(found[1]))
        start = found.end()
    return numbers, start


def _headers(head: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise Malformed("a header line has no colon")
        headers.setdefault(_unescape(name), _unescape(value))
    return headers


def _sent_by_amqp1(head: bytes, headers: dict[str, str], body: bytes) -> bytes:
    """Restore the headers of a message of AMQP 1.0 that RabbitMQ has translated; return its body.

    It puts bytes into headers, which are no text.
    """
    sectioned = headers.get("type") == SECTIONED
    sections: dict[str, bytes] = {}
    for line in head.split(b"\n"):
        name, _, value = line.partition(b":")
        if name.startswith(b"x-amqp-1.0-"):
            mark = name.decode("ascii", "replace")
            headers.pop(mark, None)
            sections[mark] = _ESCAPED_BYTES.sub(lambda found: _MEANING[found[1].decode()].encode(), value)
    if sections or sectioned:
        headers.pop("type", None)  # the broker's own
    sent = handed_over(sections) if sections else None
    if sent is not None:
        # What the broker says of the frame, as its subscription, is not for the sender to say.
        for header, text in sent.headers.items():
            headers.setdefault(header, text)
        if "timestamp" in sent.headers:
            headers["timestamp"] = sent.headers["timestamp"]
        if sent.subject:
            headers[ROUTING_KEY] = sent.subject
    return body_of(body) if sectioned else body


def _check_command(view: bytes, start: int) -> None:
    """Find out early that the other side speaks something else, which may never send an empty line."""
    line = view[start : start + 16].partition(b"\n")[0].rstrip(b"\r")
    if line and not any(known.startswith(line) for known in (b"CONNECTED", b"MESSAGE", b"RECEIPT", b"ERROR")):
        raise Malformed(f"it sent {bytes(view[start : start + 16])!r}")
