"""Read messages of AMQP 1.0 (part 3 of the specification): an envelope's key, headers and body."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from evbus.engine.wire.amqp1.message import (
    APPLICATION,
    BASIC_TYPE,
    DATA,
    FIELDS,
    HEADER,
    IDS,
    MESSAGE_ANNOTATIONS,
    OURS,
    PROPERTIES,
    ROUTING_KEY,
    SEQUENCE,
    TIMESTAMP,
    TYPE,
    VALUE,
)
from evbus.engine.wire.base.amqp1_types import Described, Malformed, items, read, timestamp
from evbus.engine.wire.base.crossing import without_frame
from evbus.types import Native, SharedHeaders, SharedNativeHeaders

__all__ = ["SECTIONED", "SECTIONS", "Malformed", "body_of", "decode", "handed_over"]

# How RabbitMQ hands messages over to consumers of other protocols.
#: The headers in which version 3 puts what comes before the body, in the order of a message.
SECTIONS = tuple(
    f"x-amqp-1.0-{name}"
    for name in ("header", "delivery-annotations", "message-annotations", "properties", "app-properties")
)
#: The type of a message whose body is sections, and not bytes.
SECTIONED = "amqp-1.0"

#: The header that each field of ``properties`` comes in as, ``""`` for none.
_SHOWN = tuple(name if name in OURS or name == "user-id" else "" for name in FIELDS)
#: Annotations of RabbitMQ 4, which puts the headers x-... of other protocols among them.
_EXCHANGE, _KEY = "x-exchange", "x-routing-key"
_NOT_SENT = {_EXCHANGE, _KEY, "x-delivery-count"}
_GROUP, _APP = "group-id", "app-id"
#: Milliseconds before which nobody sends: RabbitMQ 3 hands over the seconds of others as they are.
_SECONDS = 10**11
#: Constructors of strings and symbols.
_TEXTS = (0xA1, 0xB1, 0xA3, 0xB3)


class _Message(NamedTuple):
    """A message that came in.

    :ivar subject: the routing key, ``""`` when the message says none.
    :ivar delivery_count: how often it was delivered before, None when it is not said.
    :ivar again: whether it may have been delivered before.
    """

    subject: str
    headers: SharedHeaders
    body: bytes
    delivery_count: int | None
    again: bool


def decode(data: bytes, *, hidden: Collection[str] = (), seconds: bool = False) -> _Message:
    """Return a message, all values of which have become text, and are kept as they are beside it.

    What RabbitMQ 4 has made of a message that was sent by AMQP 0-9-1 or STOMP is as if it had come so.

    :param hidden: application properties that are not for the consumer.
    :param seconds: it comes from RabbitMQ 3, which takes a creation time for seconds when others sent it.
    :raises Malformed: this is no message of AMQP 1.0.
    """
    sections, starts, bodies = _sections(data)
    head = _fields(sections.get(HEADER))
    fields = _fields(sections.get(PROPERTIES))
    native: dict[str, Native] = {}
    headers: dict[str, str] = {}
    properties = sections.get(APPLICATION)
    if isinstance(properties, dict) and _take(properties, headers):
        _keep(data, starts[APPLICATION], headers, native)
    subject = _field(fields, FIELDS["subject"])
    key = headers.pop(ROUTING_KEY, None)
    if key is None and subject is not None:
        key = _text(subject)
    for name, value in zip(_SHOWN, fields):  # noqa: B905 - what is null at the end is left out
        if value is None or not name:
            continue
        if type(value) is str:
            headers[name] = value
            continue
        headers[name] = _text(value)
        if name in IDS:
            native[name] = Native(headers[name], "amqp1", _nth(data, starts[PROPERTIES], FIELDS[name]))
    created = _field(fields, FIELDS["creation-time"])
    if isinstance(created, int):
        _time(created * 1000 if seconds and created < _SECONDS else created, headers, native)
    notes = sections.get(MESSAGE_ANNOTATIONS)
    if isinstance(notes, dict) and _EXCHANGE in notes:
        key = _annotated(data, starts[MESSAGE_ANNOTATIONS], notes, key, headers, native)
    without_frame(headers)
    for name in hidden:
        headers.pop(name, None)
    count = _field(head, 4)
    return _Message(
        key or "",
        SharedNativeHeaders(headers, native) if native else SharedHeaders(headers),
        bodies[0] if len(bodies) == 1 else b"".join(bodies),
        count if isinstance(count, int) else None,
        bool(count) or _field(head, 3) is False,
    )


def _sections(data: bytes) -> tuple[dict[int, Any], dict[int, int], list[bytes]]:
    """Return the sections before the body, where each begins, and those of the body."""
    sections: dict[int, Any] = {}
    starts: dict[int, int] = {}
    bodies: list[bytes] = []
    position, size = 0, len(data)
    while position < size:
        start = position
        section, position = read(data, position)
        if not isinstance(section, Described) or not isinstance(section.descriptor, int):
            raise Malformed("a message has a part that is no section")
        if section.descriptor in (DATA, SEQUENCE, VALUE):
            bodies.append(_body(section))
        else:
            sections[section.descriptor] = section.value
            starts[section.descriptor] = start
    return sections, starts, bodies


def _time(created: int, headers: dict[str, str], native: dict[str, Native]) -> None:
    text = headers[TIMESTAMP] = str(created // 1000)
    if created % 1000:
        native[TIMESTAMP] = Native(text, "amqp1", timestamp(created))


def _take(values: dict[Any, Any], headers: dict[str, str]) -> bool:
    """Take values as text; return whether one of them was none."""
    typed = False
    for name, value in values.items():
        if type(name) is str is type(value):
            headers[name] = value
        else:
            headers[_text(name)] = _text(value)
            typed = True
    return typed


def _keep(data: bytes, start: int, headers: Mapping[str, str], native: dict[str, Native]) -> None:
    """Keep the values of the section at a position that are no strings as they are."""
    places = items(data, _behind(data, start))
    for name_begin, _ in places:
        begin, end = next(places)
        name = _text(read(data, name_begin)[0])
        if data[begin] not in _TEXTS and name in headers:
            native[name] = Native(headers[name], "amqp1", data[begin:end])


def _behind(data: bytes, start: int) -> int:
    """Return the position of the value in the section that begins at ``start`` (section 1.2)."""
    return read(data, start + 1)[1]


def _nth(data: bytes, start: int, index: int) -> bytes:
    for number, (begin, end) in enumerate(items(data, _behind(data, start))):
        if number == index:
            return data[begin:end]
    raise Malformed("a list has fewer values than it had")  # pragma: no cover - it was read before


def _annotated(
    data: bytes,
    start: int,
    notes: dict[Any, Any],
    key: str | None,
    headers: dict[str, str],
    native: dict[str, Native],
) -> str | None:
    """Take the annotations that RabbitMQ 4 adds to a message; return the routing key."""
    found = {name: value for name, value in notes.items() if _is_header(name)}
    if _take(found, headers):
        _keep(data, start, headers, native)
    if BASIC_TYPE in notes:
        headers[TYPE] = _text(notes[BASIC_TYPE])
    if key is not None:
        return key
    if _GROUP in headers and _APP not in headers:
        # An id of the application has no other place there; who speaks AMQP 1.0 has told a subject, or is one
        # of ours.
        headers[_APP] = headers.pop(_GROUP)
    return _text(notes[_KEY]) if _KEY in notes else None


def _is_header(name: Any) -> bool:
    if not isinstance(name, str) or not name.startswith("x-") or name in _NOT_SENT:
        return False
    return not name.startswith(("x-opt-", "x-basic-"))


def _fields(section: Any) -> list[Any]:
    return section if isinstance(section, list) else []


def _field(fields: list[Any], index: int) -> Any:
    return fields[index] if index < len(fields) else None


def _body(section: Described) -> bytes:
    value = section.value
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return _json(value).encode()


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (list, dict)) or value is None:
        return _json(value)
    return _text(value.value) if isinstance(value, Described) else str(value)


def _json(value: Any) -> str:
    if isinstance(value, dict):
        value = {_text(key): each for key, each in value.items()}
    return json.dumps(value, default=_text, ensure_ascii=False)


def handed_over(sections: Mapping[str, bytes]) -> _Message | None:
    """Return the message in the headers :data:`SECTIONS` of RabbitMQ 3; None if they are no AMQP 1.0."""
    try:
        return decode(b"".join(sections[name] for name in SECTIONS if name in sections))
    except Malformed:
        return None


def body_of(body: bytes) -> bytes:
    """Return the content of a body of sections; the body itself if it has none."""
    try:
        return decode(body).body
    except Malformed:
        return body
