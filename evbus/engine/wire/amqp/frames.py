"""AMQP 0-9-1 frames that are written and read by the thousand.

Sections of the specification: 2.3.5 (frames), 4.2.5.5 (field tables), 4.2.6 (content). Everything else on a
connection is aio-pika's.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from evbus.engine.codec.wrapped import PREFIX, prefixed
from evbus.engine.wire.amqp.profile import Profile
from evbus.engine.wire.amqp.table import read_table
from evbus.engine.wire.amqp1.decode import SECTIONED, SECTIONS, handed_over
from evbus.engine.wire.amqp1.message import ROUTING_KEY
from evbus.engine.wire.base.crossing import HISTORY, as_field, without_frame
from evbus.errors import InvalidHeader, InvalidRoutingKey
from evbus.types import CONTENT_TYPE, Native, SharedHeaders, SharedNativeHeaders

__all__ = [
    "ACK",
    "AROUND",
    "BLOCKED",
    "CANCEL",
    "CANCEL_OK",
    "CHANNEL_CLOSE",
    "CONNECTION_CLOSE",
    "DELIVER",
    "END",
    "HEARTBEAT",
    "LONGEST_EXPIRATION",
    "NACK",
    "RETURN",
    "UNBLOCKED",
    "Properties",
    "ack_frame",
    "body_head",
    "cancel_frame",
    "content_header",
    "delete_frame",
    "encode_properties",
    "message",
    "properties_of",
    "publish_method",
    "read_close",
    "reject_frame",
    "return_frame",
    "short_text",
]

# Class and method, as the four bytes at the head of a method frame.
CONNECTION_CLOSE, BLOCKED, UNBLOCKED = (10 << 16) + 50, (10 << 16) + 60, (10 << 16) + 61
CHANNEL_CLOSE = (20 << 16) + 40
QUEUE_DELETE = (50 << 16) + 40
CANCEL_OK = (60 << 16) + 31
CANCEL, PUBLISH, RETURN, DELIVER = (60 << 16) + 30, (60 << 16) + 40, (60 << 16) + 50, (60 << 16) + 60
ACK, REJECT, NACK = (60 << 16) + 80, (60 << 16) + 90, (60 << 16) + 120

#: Milliseconds that a message may have to live at most (3,650 days): RabbitMQ refuses more.
LONGEST_EXPIRATION = 315_360_000_000

END = b"\xce"
#: A heartbeat frame (section 4.2.7).
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
#: Bytes of a frame around its payload.
AROUND = 8

_HEAD = struct.Struct(">BHI")
_ACK = struct.Struct(">BHIIQBB")
_CONTENT = struct.Struct(">HHQ")
_FLAGS, _SIZE = struct.Struct(">H"), struct.Struct(">I")
#: The length of a short string, as it is written.
_LENGTHS = [bytes((size,)) for size in range(256)]

# The properties of class basic (section 1.8.1 of the reference): flag, header's name, kind.
_SHORT, _OCTET, _TIME, _TABLE = "short", "octet", "time", "table"
_PROPERTIES = (
    (1 << 15, CONTENT_TYPE, _SHORT),
    (1 << 14, "content-encoding", _SHORT),
    (1 << 13, "", _TABLE),
    (1 << 12, "delivery-mode", _OCTET),
    (1 << 11, "priority", _OCTET),
    (1 << 10, "correlation-id", _SHORT),
    (1 << 9, "reply-to", _SHORT),
    (1 << 8, "expiration", _SHORT),
    (1 << 7, "message-id", _SHORT),
    (1 << 6, "timestamp", _TIME),
    (1 << 5, "type", _SHORT),
    (1 << 4, "user-id", _SHORT),
    (1 << 3, "app-id", _SHORT),
    (1 << 2, "cluster-id", _SHORT),
)
# The broker compares user-id with the user of the connection and closes the channel when they differ, so what
# came in with a message stays a plain header; cluster-id is deprecated.
_WRITTEN = {name for _, name, kind in _PROPERTIES if kind != _TABLE} - {"user-id", "cluster-id"}
# Whose turn it is to say how the message is kept, not the event's.
_DELIVERY_MODE = "delivery-mode"
_EVENT_ID = "ce-id"
_NO_NATIVE: Mapping[str, Native] = {}


def short_text(text: str, what: str) -> bytes:
    """Return a short string (section 4.2.5.3): its length in one byte, then at most 255 bytes of UTF-8.

    :raises InvalidRoutingKey: it is longer, or no text.
    """
    data = _encoded(text, what, error=InvalidRoutingKey)
    if len(data) > 255:
        raise InvalidRoutingKey(f"{what} has {len(data)} bytes, more than the 255 that AMQP carries")
    return bytes((len(data),)) + data


def _encoded(
    text: str,
    what: str,
    name: str | None = None,
    error: type[InvalidHeader | InvalidRoutingKey] = InvalidHeader,
) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        said = what if name is None else f"{what} {name[:40]!r}"
        raise error(
            f"{said} holds a lone surrogate, which is no UTF-8 and which AMQP does not carry"
        ) from None


@lru_cache(maxsize=1024)
def publish_method(channel: int, exchange: str, routing_key: str, *, mandatory: bool) -> bytes:
    """Return the frame of ``basic.publish`` (reference, section 1.8.3.7).

    :raises InvalidRoutingKey: the routing key or the exchange is longer than 255 bytes.
    """
    payload = b"".join(
        (
            struct.pack(">IH", PUBLISH, 0),
            short_text(exchange, "the exchange"),
            short_text(routing_key, "the routing key"),
            b"\x01" if mandatory else b"\x00",
        )
    )
    return _HEAD.pack(1, channel, len(payload)) + payload + END


def content_header(channel: int, size: int, properties: bytes) -> bytes:
    """Return the frame that says how large the body is, and its properties (section 4.2.6.1)."""
    payload = _CONTENT.pack(60, 0, size) + properties
    return _HEAD.pack(2, channel, len(payload)) + payload + END


def body_head(channel: int, size: int) -> bytes:
    """Return the head of the frame of a body that fits into one; ``END`` comes after the body."""
    return _HEAD.pack(3, channel, size)


def message(channel: int, frame_max: int, head: bytes, body: bytes) -> bytes:
    """Return ``head`` (method and header frames) and the body in as many frames as it needs."""
    most, size = frame_max - AROUND, len(body)
    if 0 < size <= most:
        return b"%b%b%b\xce" % (head, body_head(channel, size), body)
    parts = [head]
    for start in range(0, len(body), most):
        part = body[start : start + most]
        parts.extend((_HEAD.pack(3, channel, len(part)), part, END))
    return b"".join(parts)


def ack_frame(channel: int, tag: int, *, multiple: bool) -> bytes:
    """Return ``basic.ack`` (reference, section 1.8.3.13)."""
    return _ACK.pack(1, channel, 13, ACK, tag, multiple, 0xCE)


def reject_frame(channel: int, tag: int, *, requeue: bool) -> bytes:
    """Return ``basic.reject`` (reference, section 1.8.3.14), which counts as a failed delivery."""
    return _ACK.pack(1, channel, 13, REJECT, tag, requeue, 0xCE)


def return_frame(channel: int, tag: int, *, multiple: bool) -> bytes:
    """Return ``basic.nack`` with ``requeue``, RabbitMQ's extension; since version 4.3 it does not count.

    :param multiple: all up to ``tag``; 0 is all that there are.
    """
    return _ACK.pack(1, channel, 13, NACK, tag, 3 if multiple else 2, 0xCE)


def cancel_frame(channel: int, consumer: str, *, answer: bool = False) -> bytes:
    """Return ``basic.cancel`` (reference, section 1.8.3.5).

    :param answer: the broker is to say when it has done it: nothing is delivered after that.
    """
    payload = struct.pack(">I", CANCEL) + short_text(consumer, "the consumer") + bytes((not answer,))
    return _HEAD.pack(1, channel, len(payload)) + payload + END


def delete_frame(channel: int, queue: str) -> bytes:
    """Return ``queue.delete`` that wants no answer (reference, section 1.7.2.9)."""
    payload = struct.pack(">IH", QUEUE_DELETE, 0) + short_text(queue, "the queue") + b"\x04"
    return _HEAD.pack(1, channel, len(payload)) + payload + END


def encode_properties(headers: Mapping[str, str], profile: Profile) -> bytes:
    """Return the flags and values of a message's properties.

    What the profile gives every message is there too; an event's own headers of these names win.

    ``content-type``, ``content-encoding``, ``priority``, ``correlation-id``, ``reply-to``, ``expiration``
    (milliseconds), ``message-id``, ``timestamp`` (seconds), ``type`` and ``app-id`` become the properties of
    that name; ``message-id`` is the event's ``ce-id`` when it has none of its own. All others go into the
    table ``headers``: as they came, if they are known as :class:`evbus.types.Native`, else as text.

    :raises InvalidHeader: AMQP cannot carry one of them; names it.
    """
    native = getattr(headers, "native", _NO_NATIVE)
    values, table = _apart(headers, profile)
    flags, parts = 0, [b""]
    for flag, name, kind in _PROPERTIES:
        if name in values:
            flags |= flag
            value = values[name]
            if kind is _SHORT:
                data = _bytes_of(name, value, native)
                parts += (_LENGTHS[len(data)], data)
            elif kind is _OCTET:
                parts.append(_LENGTHS[_number(name, value, 256)])
            else:
                parts.append(struct.pack(">Q", _number(name, value, 2**63)))
        elif kind is _TABLE and table:
            flags |= flag
            entries = b"".join([_entry(name, value, native) for name, value in table.items()])
            parts += (_SIZE.pack(len(entries)), entries)
    parts[0] = _FLAGS.pack(flags)
    return b"".join(parts)


def _apart(headers: Mapping[str, str], profile: Profile) -> tuple[dict[str, str], dict[str, str]]:
    """Return what becomes properties, and what becomes the table."""
    values: dict[str, str] = {}
    table: dict[str, str] = {}
    for name, value in {**profile.headers, **headers}.items():
        if name in _WRITTEN:
            values[name] = value
        elif not name.startswith(HISTORY):
            table[name] = value
    if profile.cloudevents_prefix != PREFIX:
        table = {prefixed(name, profile.cloudevents_prefix): value for name, value in table.items()}
    if _EVENT_ID in headers:
        values.setdefault("message-id", headers[_EVENT_ID])
    if profile.priority is not None:
        values.setdefault("priority", str(profile.priority))
    if profile.expiry is not None:
        values.setdefault("expiration", str(round(profile.expiry * 1000)))
    values[_DELIVERY_MODE] = "2" if profile.persistent else "1"
    if "expiration" in values:
        _number("expiration", values["expiration"], LONGEST_EXPIRATION + 1)
    return values, table


def _bytes_of(name: str, value: str, native: Mapping[str, Native]) -> bytes:
    """Return the bytes of a property that is a short string."""
    field = _native(name, value, native) if native else None
    # A property is bytes, whatever else came in a table under its name.
    data = field[5:] if field and field[:1] in b"Sx" else _encoded(value, "the header", name)
    if len(data) > 255:
        raise InvalidHeader(f"the header {name!r} has {len(data)} bytes, more than the 255 that AMQP carries")
    return data


def _number(name: str, value: str, below: int) -> int:
    # isdigit() alone is true of superscripts, and int() takes underscores.
    if value.isascii() and value.isdigit() and len(value) <= 20 and int(value) < below:
        return int(value)
    raise InvalidHeader(
        f"the header {name!r} is {value[:40]!r}; AMQP carries a whole number below {below} there"
    )


def _native(name: str, value: str, native: Mapping[str, Native]) -> bytes | None:
    """Return a header's value as it came, None when it was a text, was changed since, or has no form here."""
    found = native.get(name)
    return as_field(found) if found is not None and found.text == value else None


def _entry(name: str, value: str, native: Mapping[str, Native]) -> bytes:
    """Return an entry of the table."""
    field = _native(name, value, native) if native else None
    if field is not None:
        return _key(name) + field
    data = _encoded(value, "the header", name)
    return b"%bS%b%b" % (_key(name), _SIZE.pack(len(data)), data)


@lru_cache(maxsize=1024)
def _key(name: str) -> bytes:
    data = _encoded(name, "the header name", name)
    if len(data) > 255:
        raise InvalidHeader(f"the header name {name[:40]!r}... has {len(data)} bytes, AMQP carries 255")
    return _LENGTHS[len(data)] + data


class Properties(NamedTuple):
    """The properties and headers of a message that came.

    :ivar delivery_count: how often it was delivered before, None when the broker does not count.
    :ivar routing_key: the key that its sender gave it, None when that is the key it came with.
    :ivar sectioned: its body is sections of AMQP 1.0, for :func:`evbus.engine.wire.amqp1.decode.body_of`.
    """

    headers: SharedHeaders
    delivery_count: int | None = None
    routing_key: str | None = None
    sectioned: bool = False


@lru_cache(maxsize=4096)
def properties_of(data: bytes) -> Properties:
    """Return a message's properties and headers.

    The reverse of :func:`encode_properties`; values of the table that are no text become text, nested ones
    JSON, and are kept as they are beside it. A property wins over an entry of the table with its name. What
    RabbitMQ has made of a message that was sent by STOMP or AMQP 1.0 is as if it had come so.

    :raises ValueError: these are no properties.
    """
    try:
        return _read_properties(data)
    except (struct.error, IndexError, ValueError) as exc:
        raise ValueError(f"the properties of a message are malformed: {exc}") from None


def _read_properties(data: bytes) -> Properties:
    (flags,) = _FLAGS.unpack_from(data)
    position = 2
    headers: dict[str, str] = {}
    native: dict[str, Native] = {}
    count = None
    for flag, name, kind in _PROPERTIES:
        if not flags & flag:
            continue
        if kind is _SHORT:
            start = position + 1
            position = start + data[position]
            if position > len(data):
                raise ValueError(f"{name} reaches beyond their end")
            raw = data[start:position]
            try:
                headers[name] = raw.decode()
            except UnicodeDecodeError:
                value = headers[name] = raw.decode("utf-8", "replace")
                native[name] = Native(value, "amqp", b"S" + _SIZE.pack(len(raw)) + raw)
        elif kind is _TABLE:
            table, entries, count, position = read_table(data, position)
            headers = {**table, **headers}
            if entries:
                native = {**entries, **native}
        elif name == _DELIVERY_MODE:
            position += 1
            if position > len(data):
                raise ValueError(f"{name} reaches beyond their end")
        elif kind is _OCTET:
            headers[name], position = str(data[position]), position + 1
        else:
            headers[name], position = str(struct.unpack_from(">Q", data, position)[0]), position + 8
    without_frame(headers)
    key, sectioned = None, False
    if b"amqp-1.0" in data:
        key, sectioned = _sent_by_amqp1(headers, native)
    key = headers.pop(ROUTING_KEY, key)
    shared = SharedNativeHeaders(headers, native) if native else SharedHeaders(headers)
    return Properties(shared, count, key, sectioned)


def _sent_by_amqp1(headers: dict[str, str], native: dict[str, Native]) -> tuple[str | None, bool]:
    """Restore the headers of a message of AMQP 1.0 that RabbitMQ has translated.

    Returns its routing key, if it says one, and whether the body is sections.
    """
    sectioned = headers.get("type") == SECTIONED
    sections = {name: _raw(headers.pop(name), native.pop(name, None)) for name in SECTIONS if name in headers}
    if sectioned or sections:
        headers.pop("type", None)  # the broker's own
    sent = handed_over(sections) if sections else None
    if sent is None:
        return None, sectioned
    headers.update(sent.headers)
    native.update(getattr(sent.headers, "native", _NO_NATIVE))
    return sent.subject or None, sectioned


def _raw(text: str, native: Native | None) -> bytes:
    return text.encode() if native is None else native.data[5:]


def read_close(payload: bytes) -> tuple[int, str]:
    """Return the code and the text of ``connection.close`` or ``channel.close`` (after the method's id)."""
    (code,) = struct.unpack_from(">H", payload, 4)
    return code, payload[7 : 7 + payload[6]].decode("utf-8", "replace")
