"""Make messages of AMQP 1.0 (part 3 of the specification) of an envelope's key, headers and body.

Content type and encoding, message id, correlation id, reply-to and group id of the headers are the message's
properties of these names, the timestamp is its creation time, and the routing key its subject. All others are
application properties: as they came, if they are known as :class:`evbus.types.Native`, else strings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from evbus.engine.codec.wrapped import PREFIX, prefixed
from evbus.engine.wire.base.amqp1_types import (
    FALSE,
    NULL,
    TRUE,
    binary,
    string,
    symbol,
    timestamp,
    uint,
    value_list,
    value_map,
)
from evbus.engine.wire.base.crossing import HISTORY, as_value
from evbus.errors import InvalidHeader
from evbus.types import CONTENT_TYPE, Native, SharedHeaders

__all__ = ["BASIC_TYPE", "FIELDS", "IDS", "OURS", "ROUTING_KEY", "SHORT", "TIMESTAMP", "TYPE", "Encoder"]

#: The most bytes that AMQP 0-9-1, and so RabbitMQ, carries in a property and in the name of a header.
SHORT = 255
#: The application property that brings the routing key along, where a broker writes its own into the subject.
ROUTING_KEY = "evbus-routing-key"
#: Headers that have a place of their own.
TIMESTAMP, TYPE = "timestamp", "type"
#: The annotation that RabbitMQ 4 makes of the property ``type`` of AMQP 0-9-1, and back.
BASIC_TYPE = "x-basic-type"

HEADER, MESSAGE_ANNOTATIONS, PROPERTIES, APPLICATION, DATA, SEQUENCE, VALUE = 0x70, 0x72, *range(0x73, 0x78)
_MARK = {code: bytes((0x00, 0x53, code)) for code in range(0x70, 0x79)}

# The fields of ``properties`` (section 3.2.4), of which those are ours that have an encoder.
_ENCODERS: tuple[tuple[str, Callable[[str], bytes] | None], ...] = (
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
#: The place of each field.
FIELDS = {name: index for index, (name, _) in enumerate(_ENCODERS)}
#: Headers that are fields.
OURS = {name: encoder for name, encoder in _ENCODERS if encoder is not None}
#: Those that need not be text (sections 3.2.11 to 14).
IDS = ("message-id", "correlation-id")

#: The constructors of what they may be beside (section 1.6): ulong, UUID, binary; and that of a time.
_ID_TYPES, _TIME = (0x44, 0x53, 0x80, 0x98, 0xA0, 0xB0), 0x83
#: Is set in the constructor of a text that has more than 255 bytes (section 1.6).
_WIDE = 0x10
_NO_NATIVE: Mapping[str, Native] = {}


class Encoder:
    """Makes the messages of one profile.

    :param durable: the broker keeps them on disk.
    :param priority: 0 to 255, None for the broker's own.
    :param ttl: seconds after which the broker drops what nobody took.
    :param headers: added to every message; they win over its own.
    :param prefix: what the attributes of CloudEvents begin with in the message.
    :param short: whether its properties, and the names of its headers, have :data:`SHORT` bytes at most. A
        broker that has more languages than one may be unable to say longer ones in the others.
    :param annotates: whether the header ``type`` is an annotation, as it is for RabbitMQ 4.
    """

    __slots__ = ("_added", "_annotates", "_head", "_prefix", "_shared", "_short")

    def __init__(
        self,
        *,
        durable: bool,
        priority: int | None,
        ttl: float | None,
        headers: Mapping[str, str],
        prefix: str = PREFIX,
        short: bool = False,
        annotates: bool = False,
    ) -> None:
        fields = [
            # RabbitMQ 4 takes a message that does not say for a durable one.
            TRUE if durable else FALSE,
            NULL if priority is None else bytes((0x50, priority)),
            NULL if ttl is None else uint(int(ttl * 1000)),
        ]
        self._head = _MARK[HEADER] + value_list(fields)
        self._added = dict(headers)
        self._prefix = prefix
        self._short = short
        self._annotates = annotates
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
        native = getattr(headers, "native", _NO_NATIVE)
        fields = [NULL] * len(FIELDS)
        if routing_key:
            fields[FIELDS["subject"]] = self._bound(
                "the routing key", _encoded("the routing key", routing_key)
            )
        pairs: list[bytes] = []
        notes = b""
        for name, value in merged.items():
            if not _strings(name, value):
                raise InvalidHeader(
                    f"the header {name!r} cannot be sent: its name and its value have to be strings"
                )
            came = _as_it_came(name, value, native) if native else None
            if name in OURS:
                if came is not None and came.form == "amqp1" and name in IDS and came.data[0] in _ID_TYPES:
                    data = came.data
                else:
                    data = _encoded(f"the header {name!r}", value, OURS[name])
                fields[FIELDS[name]] = self._bound(f"the header {name!r}", data)
            elif name == TIMESTAMP and (time := _milliseconds(value, came)):
                fields[FIELDS["creation-time"]] = time
            elif name == TYPE and self._annotates:
                notes = value_map([symbol(BASIC_TYPE), _encoded(f"the header {name!r}", value)])
            elif name != ROUTING_KEY and not name.startswith(HISTORY):
                key = _encoded("a header's name", prefixed(name, self._prefix))
                if key[0] & _WIDE:
                    key = self._bound(f"the name of the header {name[:60]!r}...", key)
                found = as_value(came) if came is not None else None
                pairs += (key, _encoded(f"the header {name!r}", value) if found is None else found)
        if keyed:
            pairs += (string(ROUTING_KEY), string(routing_key))
        return b"".join(_sections(notes, fields, pairs))

    def _bound(self, what: str, encoded: bytes) -> bytes:
        if self._short and encoded[0] & _WIDE and encoded[0] >= 0xA0:
            raise InvalidHeader(f"{what} has {len(encoded) - 5} bytes, more than the {SHORT} of AMQP 0-9-1")
        return encoded


def _sections(notes: bytes, fields: list[bytes], pairs: list[bytes]) -> list[bytes]:
    parts: list[bytes] = []
    if notes:
        parts += (_MARK[MESSAGE_ANNOTATIONS], notes)
    if any(field != NULL for field in fields):
        parts += (_MARK[PROPERTIES], value_list(fields))
    if pairs:
        parts += (_MARK[APPLICATION], value_map(pairs))
    return parts


def _as_it_came(name: str, value: str, native: Mapping[str, Native]) -> Native | None:
    found = native.get(name)
    return found if found is not None and found.text == value else None


def _milliseconds(text: str, came: Native | None) -> bytes:
    """Return a creation time; nothing when the text is no number of seconds, or was a number in AMQP 1.0."""
    if came is not None and came.form == "amqp1":
        return came.data if came.data[0] == _TIME else b""
    if text.isascii() and text.isdigit() and len(text) < 16 and (text[0] != "0" or text == "0"):
        return timestamp(int(text) * 1000)
    return b""


def _strings(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, str)


def _encoded(what: str, text: str, encoder: Callable[[str], bytes] = string) -> bytes:
    try:
        return encoder(text)
    except UnicodeEncodeError:
        # The value may be a secret, so it is not shown.
        kind = "a character that is not ASCII" if encoder is symbol else "a lone surrogate"
        raise InvalidHeader(f"{what[:120]} holds {kind}, which AMQP 1.0 cannot carry there") from None
