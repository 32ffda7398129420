"""Events in the forms of others: documents around an event, and CloudEvents as other protocols name them.

What is known is taken off, so that an event looks as it does in the binary mode of CloudEvents 1.0: its
attributes are headers ``ce-...``, its data the body, and ``datacontenttype`` the content type. Known are

- a CloudEvent in JSON (``application/cloudevents+json``; JSON Event Format 1.0.2); a batch of them
  (``application/cloudevents-batch+json``; section 4 there) is several events, and refused as one,
- the envelope of MassTransit (``application/vnd.masstransit+json``), whose ``message`` is the event,
- attributes named as in AMQP (``cloudEvents_``, ``cloudEvents:``; AMQP Protocol Binding 1.0.2, section
  3.1.3.1) or in Kafka (``ce_``; Kafka Protocol Binding 1.0.2, section 3.2.3.1).
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import re
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from evbus.engine.kit import strictjson
from evbus.engine.kit.redact import one_line
from evbus.engine.kit.strictjson import MAX_DEPTH
from evbus.errors import EvbusError, InvalidHeader, InvalidPayload
from evbus.types import CONTENT_TYPE, Envelope, own_headers

__all__ = [
    "BATCH",
    "CLOUDEVENT",
    "FOREIGN_IDS",
    "MASSTRANSIT",
    "PREFIX",
    "PREFIXES",
    "UNENCODED",
    "Unwrapped",
    "attributes",
    "cloudevent",
    "essence",
    "is_wrapped",
    "masstransit",
    "named",
    "opened",
    "prefixed",
    "unencoded",
    "unwrapped",
    "wrap",
]

JSON = "application/json"
CLOUDEVENT = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
MASSTRANSIT = "application/vnd.masstransit+json"

#: What attributes begin with as headers, here and in HTTP.
PREFIX = "ce-"
#: What they begin with elsewhere.
PREFIXES = ("cloudEvents_", "cloudEvents:", "ce_")
#: The attribute that every CloudEvent has, as it is named elsewhere.
FOREIGN_IDS = tuple(f"{prefix}id" for prefix in PREFIXES)

#: Values of ``content-encoding`` that say nothing of a compression: that there is none, and the charset of
#: the text, which AMQP libraries (kombu, and so Celery) write there.
UNENCODED = frozenset({"", "identity", "utf-8", "utf8", "us-ascii", "ascii", "binary", "7bit", "8bit"})
_ENCODING = "content-encoding"
_SIGNATURE = "evbus-signature"

_REQUIRED = ("specversion", "id", "source", "type")
#: Members of a CloudEvent in JSON that are no headers.
_DATA = frozenset({"data", "data_base64", "datacontenttype"})
_ATTRIBUTE = re.compile(r"[a-z0-9]+")
_raws = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Unwrapped(NamedTuple):
    """The event in a document of others.

    :ivar headers: ``ce-...`` and ``content-type``.
    :ivar body: the data, ``b""`` when there is none.
    """

    headers: dict[str, str]
    body: bytes


def essence(content_type: str) -> str:
    """Return ``type/subtype`` in small letters, without parameters (RFC 9110 section 8.3.1)."""
    return content_type.partition(";")[0].strip().lower()


def unencoded(encoding: str) -> bool:
    """Return whether a ``content-encoding`` says that the body is not compressed, nor encoded otherwise."""
    return encoding.strip().lower() in UNENCODED


def cloudevent(body: bytes) -> Unwrapped:
    """Parse a CloudEvent in JSON (JSON Event Format 1.0.2, sections 2 and 3).

    :raises InvalidPayload: it is none, or not of the version 1.0.
    :raises PayloadTooDeep: its data nests more than 64 levels deep.
    """
    values, raws = _object(body, "a CloudEvent")
    given = {name: value for name, value in values.items() if value is not None}
    for name in _REQUIRED:
        if not isinstance(given.get(name), str) or not given[name]:
            raise InvalidPayload(f"this is no CloudEvent: its {name} is missing, or is no text")
    if given["specversion"] != "1.0":
        version = one_line(given["specversion"], 20)
        raise InvalidPayload(f"the CloudEvent has the version {version!r}, and 1.0 is what is known")
    headers = {
        PREFIX + name: _header(value, raws[name]) for name, value in given.items() if name not in _DATA
    }
    kind = given.get("datacontenttype", JSON)
    if not isinstance(kind, str):
        raise InvalidPayload("the CloudEvent's datacontenttype is no text")
    headers[CONTENT_TYPE] = kind
    return Unwrapped(headers, _data(values, raws, kind))


def masstransit(body: bytes) -> Unwrapped:
    """Return the message in an envelope of MassTransit; what it says of the message becomes headers.

    ``messageId``, ``correlationId`` and the first ``messageType`` are ``message-id``, ``correlation-id`` and
    ``type``, as AMQP has them; its ``headers`` are headers by their names.

    :raises InvalidPayload: it is no such envelope.
    :raises PayloadTooDeep: the message nests more than 64 levels deep.
    """
    values, raws = _object(body, "an envelope of MassTransit")
    if not isinstance(values.get("message"), dict) or not isinstance(values.get("messageType"), list):
        raise InvalidPayload("this is no envelope of MassTransit: it has no message, or no messageType")
    own = values.get("headers")
    headers = {
        name: _header(value, _encode(value))
        for name, value in (own if isinstance(own, dict) else {}).items()
        if value is not None
    }
    types = values["messageType"]
    about = {
        "message-id": values.get("messageId"),
        "correlation-id": values.get("correlationId"),
        "type": types[0] if types else None,
    }
    headers |= {name: value for name, value in about.items() if isinstance(value, str)}
    headers[CONTENT_TYPE] = JSON
    return Unwrapped(headers, bytes(raws["message"]))


def _object(body: bytes, what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the members of an object in JSON: their values, and how they were written."""
    values = strictjson.load(body, max_depth=MAX_DEPTH + 1)
    if not isinstance(values, dict):
        raise InvalidPayload(f"this is no {what.partition(' ')[2]}: it is no object")
    try:
        return values, _raws(body)
    except (ValueError, RecursionError):
        raise InvalidPayload(
            f"{what} cannot be read: it holds a number or a text that JSON has not"
        ) from None


def _header(value: Any, raw: Any) -> str:
    """Return a value as a header has it (HTTP Protocol Binding, section 3.1.3.2): JSON but for texts."""
    return value if isinstance(value, str) else bytes(raw).decode()


def _data(values: Mapping[str, Any], raws: Mapping[str, Any], content_type: str) -> bytes:
    encoded = values.get("data_base64")
    if encoded is not None:
        if values.get("data") is not None:
            raise InvalidPayload("the CloudEvent has both data and data_base64; one of them is right")
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise InvalidPayload("the CloudEvent's data_base64 is no base64 (RFC 4648 section 4)") from None
    if "data" not in values:
        return b""
    data = values["data"]
    if isinstance(data, str) and not _is_json(content_type):
        return data.encode()
    return bytes(raws["data"])


def _is_json(content_type: str) -> bool:
    """Return whether data of this type stands in a CloudEvent as JSON (section 3.1)."""
    subtype = essence(content_type).partition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def _refused(_body: bytes) -> Unwrapped:
    raise InvalidPayload(
        "a batch of CloudEvents is several events, and one message here is one event: let its sender send "
        f"each by itself ({CLOUDEVENT})"
    )


_FORMS: dict[str, Callable[[bytes], Unwrapped]] = {
    CLOUDEVENT: cloudevent,
    BATCH: _refused,
    MASSTRANSIT: masstransit,
}


@lru_cache(maxsize=256)
def _form(content_type: str) -> Callable[[bytes], Unwrapped] | None:
    return _FORMS.get(essence(content_type))


def is_wrapped(content_type: str) -> bool:
    """Return whether bodies of this type are documents around an event that :func:`unwrapped` takes off."""
    return _form(content_type) is not None


def unwrapped(envelope: Envelope) -> Envelope:
    """Return an event without the document around it; the same envelope when there is none.

    Headers of the message stay, but for those that the document says too.

    :raises InvalidPayload: the document is not what its content type says, or holds several events.
    :raises PayloadTooDeep: the event nests more than 64 levels deep.
    """
    form = _form(envelope.headers.get(CONTENT_TYPE, ""))
    if form is None:
        return envelope
    said = form(envelope.body)
    plain = envelope.replace(headers=envelope.headers)
    plain.headers.update(said.headers)
    plain.body = said.body
    return plain


def named(envelope: Envelope) -> Envelope:
    """Return an event whose attributes of CloudEvents are named ``ce-...``, whatever the protocol names them.

    The same envelope when they are, or when there are none.
    """
    headers = envelope.headers
    renamed = attributes(headers)
    return envelope if renamed is headers else envelope.replace(headers=renamed)


def attributes(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return headers in which attributes of CloudEvents are named ``ce-...``; the same when they are."""
    # Not in a loop: this is done for each event.
    if "cloudEvents_id" in headers or "cloudEvents:id" in headers or "ce_id" in headers:
        (prefix, *_) = [prefix for prefix, name in zip(PREFIXES, FOREIGN_IDS, strict=True) if name in headers]
        return _renamed(headers, prefix)
    return headers


def _renamed(headers: Mapping[str, str], prefix: str) -> dict[str, str]:
    found = own_headers(headers)
    for name in headers:
        if name.startswith(prefix):
            value = found.pop(name)
            found.setdefault(PREFIX + name[len(prefix) :].lower(), _moment(headers, name, value))
    return found


def prefixed(name: str, prefix: str) -> str:
    """Return the name that a header has where attributes of CloudEvents begin with ``prefix``."""
    return prefix + name.removeprefix(PREFIX) if name.startswith(PREFIX) else name


def _moment(headers: Mapping[str, str], name: str, value: str) -> str:
    """Return an attribute; one that came as a timestamp of AMQP is text in RFC 3339 as a header."""
    native = getattr(headers, "native", {}).get(name)
    if native is None or native.text != value or native.data[:1] not in (b"T", b"\x83"):
        return value
    (count,) = struct.unpack(">q", native.data[1:9])
    seconds = count if native.form == "amqp" else count / 1000
    try:
        moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return value
    return moment.isoformat().replace("+00:00", "Z")


def opened(envelope: Envelope) -> Envelope:
    """Return a received event as interceptors are to see it: named as here, and without a document around it.

    One that is signed or compressed keeps the document until that is undone.

    :raises InvalidPayload: see :func:`unwrapped`.
    """
    envelope = named(envelope)
    headers = envelope.headers
    if _form(headers.get(CONTENT_TYPE, "")) is None:
        return envelope
    undone = _SIGNATURE not in headers and unencoded(headers.get(_ENCODING, ""))
    return unwrapped(envelope) if undone else envelope


def wrap(envelope: Envelope) -> None:
    """Make the body a CloudEvent in JSON, of the headers ``ce-...`` and the body; the headers stay.

    What is JSON stands in it as it is, any other body in base64. What is in such a document stays.

    :raises InvalidHeader: an attribute holds what UTF-8 cannot carry.
    """
    headers = envelope.headers
    kind = headers.get(CONTENT_TYPE, "")
    if is_wrapped(kind) or not all(headers.get(PREFIX + name) for name in _REQUIRED):
        return
    members: dict[str, Any] = {
        name[len(PREFIX) :]: value
        for name, value in headers.items()
        if name.startswith(PREFIX)
        and _ATTRIBUTE.fullmatch(name, len(PREFIX))
        and name[len(PREFIX) :] not in _DATA
    }
    if kind:
        members["datacontenttype"] = kind
    if _is_json(kind or JSON) and _is_strict(envelope.body):
        members["data"] = msgspec.Raw(envelope.body)
    elif envelope.body:
        members["data_base64"] = envelope.body
    try:
        envelope.body = _encode(members)
    except UnicodeEncodeError:
        raise InvalidHeader(
            "an attribute of the CloudEvent holds a lone surrogate, which UTF-8 cannot carry"
        ) from None
    headers[CONTENT_TYPE] = CLOUDEVENT


def _is_strict(body: bytes) -> bool:
    try:
        strictjson.load(body)
        _raws(b'{"data":' + body + b"}")
    except (EvbusError, ValueError, RecursionError):
        return False
    return True
