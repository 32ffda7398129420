"""The one JSON-lines form of an event: what ``evbus run`` reads and the file, console and dead store write.

One event is one line::

    {"routing_key": "order.paid", "profile": "default", "headers": {...}, "body": {"id": 1}}

How the body stands there follows the header ``content-type``:

- JSON (``application/json``, ``application/*+json``): the body's own bytes, untouched, under ``body``.
- ``text/*`` that is UTF-8: a JSON string under ``body``.
- anything else, and JSON that :func:`decode` would refuse or that spans lines: ``body_base64``.

``headers`` are left out when all they say is ``{"content-type": "application/json"}``. Whatever
:func:`encode` writes, :func:`decode` gives back byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import msgspec

from evbus.engine.codec.wrapped import essence
from evbus.engine.kit import strictjson
from evbus.engine.kit.strictjson import MAX_DEPTH
from evbus.errors import InvalidPayload, PayloadTooDeep, PayloadTooLarge, nearest
from evbus.types import CONTENT_TYPE, Envelope

__all__ = ["JSON", "Record", "decode", "encode", "is_json", "max_line"]

#: The content type of a body when a line names none.
JSON = "application/json"

#: What a line may hold besides its body: routing key, headers and what the dead store says of it.
_OVERHEAD = 256 * 1024

_ENCODER = msgspec.json.Encoder()
_JSON_ONLY: dict[str, str] = {CONTENT_TYPE: JSON}

_PATH = re.compile(r" - at `\$\.?(.*)`$")
_UNKNOWN = re.compile(r"unknown field `(.*)`")

_Kind = Literal["json", "text", "other"]


class Record(msgspec.Struct, kw_only=True, frozen=True):
    """An event read from a line.

    :ivar routing_key: default ``""``.
    :ivar profile: default ``"default"``.
    :ivar headers: string to string; holds ``content-type`` whenever the line has a ``body``.
    :ivar body: the Python value under ``body``; None when the line has none.
    :ivar raw: the event's body as bytes, exactly as it was written; None when the line has no body.
    :ivar body_base64: the bytes under ``body_base64``, decoded; None when the line has none.
    :ivar dead: what the dead store says of the event, else None.
    """

    routing_key: str = ""
    profile: str = "default"
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    body: Any = None
    raw: bytes | None = None
    body_base64: bytes | None = None
    dead: dict[str, Any] | None = None

    def envelope(self) -> Envelope:
        """Return the event as it was before it was written (``b""`` stands for no body)."""
        return Envelope(self.profile, self.routing_key, self.raw or b"", dict(self.headers))


class _Out(msgspec.Struct, gc=False):
    """The keys of a line in their order; what is UNSET is not written."""

    routing_key: str
    profile: str
    headers: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    body: msgspec.Raw | str | msgspec.UnsetType = msgspec.UNSET
    body_base64: bytes | msgspec.UnsetType = msgspec.UNSET


class _In(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A line that is read."""

    routing_key: str = ""
    profile: str | msgspec.UnsetType = msgspec.UNSET
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    body_base64: bytes | msgspec.UnsetType = msgspec.UNSET
    dead: dict[str, Any] | None = None


_IN_DECODER = msgspec.json.Decoder(_In)
_KEYS = tuple(field.name for field in msgspec.structs.fields(_In))


@lru_cache(maxsize=256)
def _kind(content_type: str) -> _Kind:
    """Say how a body of this content type stands in a line."""
    kind = essence(content_type)
    if kind == JSON or (kind.startswith("application/") and kind.endswith("+json")):
        return "json"
    return "text" if kind.startswith("text/") else "other"


def is_json(content_type: str) -> bool:
    """Say whether a body of this content type is JSON (``application/json``, ``application/*+json``)."""
    return _kind(content_type) == "json"


def max_line(max_body: int) -> int:
    """Return the longest line, in bytes, that an event with a body of ``max_body`` bytes may take.

    0, which stands for no limit, gives 0.
    """
    return max_body * 4 // 3 + _OVERHEAD if max_body > 0 else 0


def encode(envelope: Envelope, extra: Mapping[str, Any] | None = None) -> bytes:
    """Return ``envelope`` as one line, with its line break.

    ``extra`` is appended as further keys; the only one that :func:`decode` knows is ``dead``.

    :raises InvalidPayload: the routing key, the profile or a header holds a lone surrogate.
    """
    headers = envelope.headers
    line = _Out(envelope.routing_key, envelope.profile)
    if headers != _JSON_ONLY:
        if headers:
            line.headers = headers
        kind = _kind(headers.get(CONTENT_TYPE, ""))
    else:
        kind = "json"
    _put_body(line, envelope.body, kind)
    if line.headers is msgspec.UNSET and line.body is msgspec.UNSET and headers:
        line.headers = headers
    try:
        encoded = _ENCODER.encode(line)
        if extra:
            encoded = encoded[:-1] + b"," + _ENCODER.encode(extra)[1:]
    except UnicodeEncodeError:
        # Not chained, and without the text: it may be a header that holds a secret.
        raise InvalidPayload("a routing key, profile, header or extra key holds a lone surrogate") from None
    return encoded + b"\n"


def _put_body(line: _Out, body: bytes, kind: _Kind) -> None:
    if kind == "json" and _is_plain(body):
        line.body = msgspec.Raw(body)
        return
    if kind == "text":
        try:
            text = body.decode()
        except UnicodeDecodeError:
            pass
        else:
            # Text made of control characters grows sixfold in JSON; base64 keeps within max_line.
            if len(body) < 64 or len(_ENCODER.encode(text)) <= len(body) * 4 // 3:
                line.body = text
                return
    line.body_base64 = body


def _is_plain(body: bytes) -> bool:
    """Say whether ``body`` may stand raw in a line: one line, no spaces around, and decode takes it."""
    if not body or body[0] in b" \t\r\n" or body[-1] in b" \t\r\n":
        return False
    if b"\n" in body or b"\r" in body:
        return False
    try:
        strictjson.load(body)
    except (InvalidPayload, PayloadTooDeep):
        return False
    return True


def decode(line: bytes, max_body: int, max_depth: int = MAX_DEPTH, *, profile: str = "default") -> Record:
    """Read one line, with or without its line break.

    :param max_body: the largest body in bytes; 0 for no limit.
    :param max_depth: the deepest nesting of the body, in containers.
    :param profile: of an event whose line names none.
    :raises PayloadTooLarge: the body, or the line, is too long.
    :raises PayloadTooDeep: the body nests deeper than ``max_depth``.
    :raises InvalidPayload: the line is no JSON, or not an event: an unknown key, a wrong type, a
        duplicate key, NaN, an integer of more than 4,300 digits, a lone surrogate.
    """
    longest = max_line(max_body)
    if longest and len(line) > longest:
        raise PayloadTooLarge(len(line), max_body)
    try:
        # One level more than the body may have: the line itself is an object.
        value = strictjson.load(line, max_depth=max_depth + 1, what="the line")
        wire = _IN_DECODER.decode(line)
    except PayloadTooDeep:
        raise PayloadTooDeep(max_depth) from None
    except msgspec.ValidationError as exc:
        raise InvalidPayload(_explain_type(str(exc))) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidPayload(f"the line is not valid JSON: {exc}") from None
    return _record(wire, value, max_body, profile)


def _record(wire: _In, value: dict[str, Any], max_body: int, profile: str) -> Record:
    headers, raw, decoded = wire.headers, None, None
    if wire.body_base64 is not msgspec.UNSET:
        if wire.body is not msgspec.UNSET:
            raise InvalidPayload("the line has both 'body' and 'body_base64'; one of them is right")
        raw = decoded = wire.body_base64
    elif wire.body is not msgspec.UNSET:
        headers = _with_content_type(headers)
        raw = _raw_body(wire.body, value["body"], headers[CONTENT_TYPE])
    if raw is not None and 0 < max_body < len(raw):
        raise PayloadTooLarge(len(raw), max_body)
    return Record(
        routing_key=wire.routing_key,
        profile=profile if wire.profile is msgspec.UNSET else wire.profile,
        headers=headers,
        body=value.get("body"),
        raw=raw,
        body_base64=decoded,
        dead=wire.dead,
    )


def _with_content_type(headers: dict[str, str]) -> dict[str, str]:
    """Return headers that hold ``content-type`` in small letters, however a person wrote it."""
    if CONTENT_TYPE in headers:
        return headers
    for name in headers:
        if name.lower() == CONTENT_TYPE:
            return {(CONTENT_TYPE if key == name else key): value for key, value in headers.items()}
    return {**headers, CONTENT_TYPE: JSON}


def _raw_body(body: msgspec.Raw, value: Any, content_type: str) -> bytes:
    kind = _kind(content_type)
    if kind == "json":
        return bytes(body)
    if kind == "text" and isinstance(value, str):
        return value.encode()
    right = "a JSON string as 'body'" if kind == "text" else "'body_base64'"
    raise InvalidPayload(f"the content-type header says {content_type!a:.80}, which takes {right}")


def _explain_type(message: str) -> str:
    """Turn what msgspec says of a value that is JSON but no event into a sentence."""
    unknown = _UNKNOWN.search(message)
    if unknown:
        return f"unknown key {unknown[1]!a:.80}{nearest(unknown[1], _KEYS)}"
    path = _PATH.search(message)
    reason = message[: path.start()] if path else message
    if "out of range" in reason:
        return "a number is out of range: at most 4,300 digits for an integer, 1.8e308 for a float"
    if path is None:
        return f'an event is a JSON object such as {{"routing_key": "a", "body": 1}}: {reason}'
    if "base64" in reason:
        return "the key 'body_base64' is no base64 (RFC 4648 section 4, with padding)"
    return f"the key {path[1]!a:.80} has a wrong type: {reason}"
