"""A message of AMQP 1.0 (part 3 of the specification): an envelope's key, headers and body, both ways.

Content type and encoding, message id, correlation id, reply-to and group id of the headers are the message's
properties of these names, and so is the routing key (``subject``); all other headers are application
properties, string to string.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from evbus.errors import InvalidHeader
from evbus.types import CONTENT_TYPE, SharedHeaders

from ._amqp1_types import (
    FALSE,
    NULL,
    TRUE,
    Described,
    Malformed,
    binary,
    read,
    string,
    symbol,
    uint,
    value_list,
    value_map,
)

__all__ = ["ROUTING_KEY", "SHORT", "Encoder", "Message", "decode"]

#: The most bytes that AMQP 0-9-1, and so RabbitMQ, carries in a property and in the name of a header.
SHORT = 255
#: The application property that brings the routing key along, where a broker writes its own into the subject.
ROUTING_KEY = "evbus-routing-key"

HEADER, MESSAGE_ANNOTATIONS, PROPERTIES, APPLICATION, DATA, SEQUENCE, VALUE = 0x70, 0x72, *range(0x73, 0x78)
_MARK = {code: bytes((0x00, 0x53, code)) for code in range(0x70, 0x79)}

# The fields of ``properties`` (section 3.2.4), of which those are ours that have an encoder.
_FIELDS: tuple[tuple[str, Callable[[str], bytes] | None], ...] = (
    ("message-id", string),
    ("user-id", None),
    ("to", None),
    ("subject", None),
    ("reply-to", string),
    ("correlation-id", string),
    (CONTENT_TYPE, symbol),
    ("content-encoding", symbol),
    ("absolute-expiry-time", None),
    ("creation-time", None),
    ("group-id", string),
    ("group-sequence", None),
    ("reply-to-group-id", None),
)
_OURS = {name for name, encoder in _FIELDS if encoder is not None}
_SUBJECT = 3
#: Fields of ``properties`` that come in as headers.
_SHOWN = (*sorted(_OURS), "user-id")
#: Is set in the constructor of a text that has more than 255 bytes (section 1.6).
_WIDE = 0x10
_INDEX = {name: index for index, (name, _) in enumerate(_FIELDS)}


class Encoder:
    """Makes the messages of one profile.

    :param durable: the broker keeps them on disk.
    :param priority: 0 to 255, None for the broker's own.
    :param ttl: seconds after which the broker drops what nobody took.
    :param headers: added to every message; they win over its own.
    :param short: whether its properties, and the names of its headers, have :data:`SHORT` bytes at most. A
        broker that has more languages than one may be unable to say longer ones in the others.
    """

    __slots__ = ("_added", "_head", "_shared", "_short")

    def __init__(
        self,
        *,
        durable: bool,
        priority: int | None,
        ttl: float | None,
        headers: Mapping[str, str],
        short: bool = False,
    ) -> None:
        fields = [
            # RabbitMQ 4 takes a message that does not say for a durable one.
            TRUE if durable else FALSE,
            NULL if priority is None else bytes((0x50, priority)),
            NULL if ttl is None else uint(int(ttl * 1000)),
        ]
        self._head = _MARK[HEADER] + value_list(fields)
        self._added = dict(headers)
        self._short = short
        self._shared: tuple[Mapping[str, str], str, bool, bytes] | None = None

    def encode(self, routing_key: str, headers: Mapping[str, str], body: bytes, *, keyed: bool) -> bytes:
        """Return a message.

        :param keyed: the address does not tell the routing key, so that it travels as a header of its own.
        :raises InvalidHeader: AMQP cannot carry a header.
        """
        shared = self._shared
        if shared is not None and shared[0] is headers and shared[1] == routing_key and shared[2] is keyed:
            middle = shared[3]
        else:
            middle = self._middle(routing_key, headers, keyed=keyed)
            if isinstance(headers, SharedHeaders):
                self._shared = headers, routing_key, keyed, middle
        return b"".join((self._head, middle, _MARK[DATA], binary(body)))

    def _middle(self, routing_key: str, headers: Mapping[str, str], *, keyed: bool) -> bytes:
        merged = {**headers, **self._added} if self._added else headers
        fields = [NULL] * (_INDEX["group-id"] + 1)
        if routing_key:
            fields[_SUBJECT] = self._bound("the routing key", _encoded("the routing key", routing_key))
        pairs: list[bytes] = []
        for name, value in merged.items():
            if not _strings(name, value):
                raise InvalidHeader(
                    f"the header {name!r} cannot be sent: its name and its value have to be strings"
                )
            if name in _OURS:
                encoder = _FIELDS[_INDEX[name]][1]
                assert encoder is not None
                what = f"the header {name!r}"
                fields[_INDEX[name]] = self._bound(what, _encoded(what, value, encoder))
            elif name != ROUTING_KEY:
                key = _encoded("a header's name", name)
                if key[0] & _WIDE:
                    key = self._bound(f"the name of the header {name[:60]!r}...", key)
                pairs += (key, _encoded(f"the header {name!r}", value))
        if keyed:
            pairs += (string(ROUTING_KEY), string(routing_key))
        parts: list[bytes] = []
        if any(field != NULL for field in fields):
            parts += (_MARK[PROPERTIES], value_list(fields))
        if pairs:
            parts += (_MARK[APPLICATION], value_map(pairs))
        return b"".join(parts)

    def _bound(self, what: str, encoded: bytes) -> bytes:
        if self._short and encoded[0] & _WIDE:
            raise InvalidHeader(f"{what} has {len(encoded) - 5} bytes, more than the {SHORT} of AMQP 0-9-1")
        return encoded


def _strings(*given: object) -> bool:
    return all(isinstance(each, str) for each in given)


def _encoded(what: str, text: str, encoder: Callable[[str], bytes] = string) -> bytes:
    try:
        return encoder(text)
    except UnicodeEncodeError:
        # The value may be a secret, so it is not shown.
        kind = "a character that is not ASCII" if encoder is symbol else "a lone surrogate"
        raise InvalidHeader(f"{what[:120]} holds {kind}, which AMQP 1.0 cannot carry there") from None


class Message(NamedTuple):
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


def decode(data: bytes, *, hidden: Collection[str] = ()) -> Message:
    """Return a message, all values of which have become text.

    :param hidden: application properties that are not for the consumer.
    :raises Malformed: this is no message of AMQP 1.0.
    """
    sections: dict[int, Any] = {}
    bodies: list[bytes] = []
    position, size = 0, len(data)
    while position < size:
        section, position = read(data, position)
        if not isinstance(section, Described) or not isinstance(section.descriptor, int):
            raise Malformed("a message has a part that is no section")
        if section.descriptor in (DATA, SEQUENCE, VALUE):
            bodies.append(_body(section))
        else:
            sections[section.descriptor] = section.value
    head = _fields(sections.get(HEADER))
    fields = _fields(sections.get(PROPERTIES))
    properties = sections.get(APPLICATION)
    headers: dict[str, str] = {}
    for name, value in (properties if isinstance(properties, dict) else {}).items():
        headers[_text(name)] = _text(value)
    for name in _SHOWN:
        value = _field(fields, _INDEX[name])
        if value is not None:
            headers[name] = _text(value)
    subject = _field(fields, _SUBJECT)
    key = headers.pop(ROUTING_KEY, None)
    for name in hidden:
        headers.pop(name, None)
    count = _field(head, 4)
    return Message(
        key if key is not None else "" if subject is None else _text(subject),
        SharedHeaders(headers),
        bodies[0] if len(bodies) == 1 else b"".join(bodies),
        count if isinstance(count, int) else None,
        bool(count) or _field(head, 3) is False,
    )


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
