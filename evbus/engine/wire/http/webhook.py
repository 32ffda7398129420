"""Builds webhook requests and reads their answers; no network and no third-party HTTP client.

Signatures follow the Standard Webhooks specification 1.0.0 (sections "Signature scheme" and "Webhook
headers"), outcomes its section "Delivery success and failure". The attributes of CloudEvents are written by
the HTTP Protocol Binding 1.0.2 for CloudEvents, section 3.1.3.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC
from typing import Annotated
from urllib.parse import quote

import msgspec

from evbus.engine.codec.wrapped import CLOUDEVENT, PREFIX, attributes, essence, unencoded
from evbus.engine.kit.units import Seconds
from evbus.engine.wire.base.describe import host_of
from evbus.engine.wire.http.address import AddressPolicy
from evbus.errors import DeliveryError, DestinationForbidden, Rejected, Unavailable
from evbus.types import CONTENT_TYPE, Channel, Host, Transport

__all__ = [
    "LONGEST_WAIT",
    "NEVER_FORWARDED",
    "Request",
    "WebhookProfile",
    "describe",
    "header_problem",
    "key_of",
    "outcome",
    "retry_after",
    "signature",
    "webhook_id",
]

#: A destination may ask for at most this pause, in seconds.
LONGEST_WAIT = 300.0

_Seconds = Annotated[Seconds, msgspec.Meta(gt=0, le=86_400)]
_Connections = Annotated[int, msgspec.Meta(ge=1, le=10_000)]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_VALUE = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")

# What stays in the value of an attribute: printable ASCII but for the space, the double quote and the percent
# sign (section 3.1.3.2).
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F))).translate({ord('"'): None, ord("%"): None})

# A "." would let one id and timestamp be read as another pair (specification, "Signature scheme"), and
# whatever is not visible ASCII may reach the receiver changed, which breaks the signature.
_PLAIN_ID = re.compile(r"[!-\-/-~]{1,256}")

#: Hop by hop (RFC 9110 section 7.6.1), about the body or the connection, or credentials: these belong to
#: the request, and an event has no say in them.
NEVER_FORWARDED = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OURS = frozenset({"evbus-routing-key", "webhook-id", "webhook-timestamp", "webhook-signature"})
_FIXED_BY_US = (NEVER_FORWARDED - {"authorization", "cookie", "host"}) | _OURS

_BUSY = frozenset({408, 425, 429, 502, 503, 504})


class WebhookProfile(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The keys of a webhook profile.

    :ivar url: where to POST; http or https. ``user:password@`` in it becomes basic authentication.
    :ivar headers: sent with every request; they win over headers of the same name from the event.
    :ivar timeout: seconds for the whole request, answer included.
    :ivar connect_timeout: seconds for one connection attempt, TLS handshake included.
    :ivar secret: the signing secret in base64, with ``whsec_`` in front or without, as the libraries of
        Standard Webhooks take it, or ``raw:`` and a text; a list of two while keys rotate.
    :ivar ca_file: PEM file of the only authorities to trust; default: those of the system.
    :ivar client_cert: PEM file of the certificate to show, its key in it or in ``client_key``.
    :ivar client_key: PEM file of the unencrypted key.
    :ivar insecure: do not verify the server's certificate (a warning says so once).
    :ivar allow: networks and host names that are permitted although they are private or loopback.
    :ivar connections: most connections open at once.
    :ivar routing_key: template applied by the bus before the event gets here.
    """

    url: str
    headers: dict[str, str] = {}
    timeout: _Seconds = 10.0
    connect_timeout: _Seconds = 5.0
    secret: str | list[str] | None = None
    ca_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    insecure: bool = False
    allow: list[str] = []
    connections: _Connections = 100
    routing_key: str | None = None

    def __post_init__(self) -> None:
        if not self.url.strip():
            raise ValueError("url is empty; write the address to POST to, such as https://example.org/hook")
        if self.client_key and not self.client_cert:
            raise ValueError("client_key needs client_cert, the certificate that belongs to it")
        if self.insecure and self.ca_file:
            raise ValueError("insecure and ca_file exclude each other: remove insecure to have ca_file used")
        self.keys()
        AddressPolicy(self.allow)
        for name, value in self.headers.items():
            _check_fixed_header(name, value)

    def keys(self) -> tuple[bytes, ...]:
        """Return the signing keys, at most two."""
        secrets = [self.secret] if isinstance(self.secret, str) else self.secret or []
        if self.secret is not None and not secrets:
            raise ValueError("secret is an empty list; give a key, or remove it to send without signature")
        if len(secrets) > 2:
            raise ValueError("secret holds more than two keys; keep the current one and the previous one")
        return tuple(key_of(secret) for secret in secrets)

    def __repr__(self) -> str:
        # The url, the headers and the secret are all secret: only what cannot be is shown.
        return f"<webhook profile, timeout {self.timeout:g} s, {len(self.headers)} headers>"


def describe(profile: WebhookProfile) -> Transport:
    """Return what there is to say of a profile; the paths of webhooks are secrets, as a rule."""
    channel = Channel(None, "webhook", "http", operation={"method": "POST", "bindingVersion": "0.3.0"})
    scheme = "https" if profile.url.startswith("https") else "http"
    return Transport([Host(host_of(profile.url), scheme)], channel)


def _check_fixed_header(name: str, value: str) -> None:
    if name.lower() in _FIXED_BY_US:
        raise ValueError(f"the header {name!r} is set by evbus and cannot be given in headers")
    problem = header_problem(name, value)
    if problem:
        raise ValueError(f"the header {name[:100]!r} cannot be sent: {problem}")


def key_of(secret: str) -> bytes:
    """Return the bytes of a secret: base64, with ``whsec_`` before it or not, or text after ``raw:``.

    :raises ValueError: it is empty, or no base64; the message does not hold it.
    """
    text = secret.strip()
    if text.startswith("raw:"):
        key = text.removeprefix("raw:").encode()
    else:
        try:
            key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(
                "a secret is no base64 (RFC 4648 section 4, with its padding; no base64url), as libraries of "
                "Standard Webhooks take it; to sign with a text as it stands, write raw: in front of it"
            ) from None
    if not key:
        raise ValueError("a secret is empty; make one of at least 24 random bytes")
    return key


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return ``v1,<base64 HMAC-SHA256 of id.timestamp.body>``."""
    content = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, content, "sha256")).decode()


class _Identified(msgspec.Struct):
    """A CloudEvent in JSON, as far as its id goes."""

    id: str


_identified = msgspec.json.Decoder(_Identified).decode


def webhook_id(headers: Mapping[str, str], structured: bytes = b"") -> str:
    """Return the event's id: its header ``ce-id``, else that of a CloudEvent in JSON, else a fresh one.

    An id that cannot be signed safely (a full stop, a space, not ASCII) is replaced by its SHA-256,
    the same one each time. A fresh id differs between the attempts for one event; the pipeline plugin
    ``stamp`` gives every event a ``ce-id``.

    :param structured: the body, when it is such a CloudEvent.
    """
    value = next((value for name, value in headers.items() if name.lower() == "ce-id"), "")
    if not value and structured:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            value = _identified(structured).id
    if not value:
        return "msg_" + uuid.uuid4().hex
    return value if _PLAIN_ID.fullmatch(value) else "sha256_" + hashlib.sha256(value.encode()).hexdigest()


class Request:
    """Makes the headers of one profile's requests.

    :param left_out: called with a header's name, and why HTTP cannot carry it.
    :param clock: tells the time, in seconds since 1970.
    """

    __slots__ = ("_clock", "_fixed", "_keys", "_left_out")

    def __init__(
        self,
        headers: Mapping[str, str],
        keys: tuple[bytes, ...],
        left_out: Callable[[str, str], None] = lambda _name, _why: None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        fixed = {"User-Agent": "evbus", "Accept-Encoding": "identity", **headers}
        self._fixed = {name.lower(): (name, value) for name, value in fixed.items()}
        self._keys = keys
        self._left_out = left_out
        self._clock = clock

    @property
    def signs(self) -> bool:
        """Whether the requests are signed."""
        return bool(self._keys)

    def headers(self, routing_key: str, body: bytes, event_headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of the request that carries one event, without those that HTTP cannot carry."""
        event_headers = attributes(event_headers)
        # In structured mode they are in the body; beside it, some take the event for one in binary mode.
        structured = essence(event_headers.get(CONTENT_TYPE, "")) == CLOUDEVENT
        found: dict[str, tuple[str, str]] = {}
        for name, value in event_headers.items():
            lower = name.lower()
            if lower in NEVER_FORWARDED or lower in _OURS:
                continue
            if lower.startswith(PREFIX):
                if structured:
                    continue
                value = _percent_encoded(value)
            elif lower == "content-encoding" and unencoded(value):
                continue
            problem = header_problem(name, value)
            if problem:
                self._left_out(name, problem)
            else:
                found[lower] = ("Content-Type" if lower == CONTENT_TYPE else name, value)
        if routing_key:
            value = _percent_encoded(routing_key)
            problem = header_problem("evbus-routing-key", value)
            if problem:
                self._left_out("evbus-routing-key", problem)
            else:
                found["evbus-routing-key"] = ("evbus-routing-key", value)
        found.update(self._fixed)
        return {
            **dict(found.values()),
            **self._signed(webhook_id(event_headers, body if structured else b""), body),
        }

    def _signed(self, message_id: str, body: bytes) -> dict[str, str]:
        timestamp = int(self._clock())
        made = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
        if self._keys:
            made["webhook-signature"] = " ".join(
                signature(key, message_id, timestamp, body) for key in self._keys
            )
        return made


def _percent_encoded(value: str) -> str:
    """Return the value of an attribute of CloudEvents as HTTP carries it (section 3.1.3.2 of its binding)."""
    try:
        return quote(value, safe=_PRINTABLE)
    except UnicodeEncodeError:
        return value  # a lone surrogate: it is left out


def header_problem(name: str, value: str) -> str:
    """Return why a header is not legal in HTTP (RFC 9110 sections 5.1 and 5.5), ``""`` when it is.

    The value may be a secret, so it is not shown.
    """
    if not _NAME.fullmatch(name):
        return "a name holds letters, digits and !#$%&'*+-.^_`|~ only"
    if _BAD_VALUE.search(value):
        return "its value holds a line break or another control character"
    return ""


def outcome(
    status: int, *, origin: str, excerpt: str = "", location: str = "", pause: str = ""
) -> DeliveryError | None:
    """Return the outcome of an answer: None (delivered) or the error to raise.

    :param origin: scheme, host and port of the destination, for the sentence.
    :param excerpt: the beginning of the answer, escaped and without secrets.
    :param location: the header ``Location``, escaped and without secrets.
    :param pause: the header ``Retry-After``.
    """
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        what = f"a redirect to {location}" if location else f"the redirect status {status} and no location"
        advice = "use that url" if location else "mend the url"
        return DestinationForbidden(f"{origin} answers with {what}, which evbus does not follow; {advice}")
    said = f"{origin} answered {_named(status)}" + (f": {excerpt}" if excerpt else "")
    if status in _BUSY:
        return Unavailable(said, retry_after=retry_after(pause))
    if 400 <= status < 500:
        return Rejected(said)
    return DeliveryError(said)


def _named(status: int) -> str:
    from http import HTTPStatus

    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def retry_after(value: str, *, clock: Callable[[], float] = time.time) -> float:
    """Return the seconds that a ``Retry-After`` header asks for (RFC 9110 section 10.2.3).

    It holds seconds or a date; 300 at most, and 0 for anything that is neither.
    """
    from email.utils import parsedate_to_datetime

    text = value.strip()
    if re.fullmatch("[0-9]+", text):
        return LONGEST_WAIT if len(text) > 6 else min(float(text), LONGEST_WAIT)
    try:
        date = parsedate_to_datetime(text)
        # All of its forms are GMT (RFC 9110 section 5.6.7), also those that do not say so.
        wait = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - clock()
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
    return min(max(wait, 0.0), LONGEST_WAIT)
