"""What a webhook request says and what its answer means; no network and no third-party HTTP client.

Signatures follow the Standard Webhooks specification 1.0.0 (sections "Signature scheme" and "Webhook
headers"), outcomes its section "Delivery success and failure".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Annotated

import msgspec

from evbus._units import Seconds
from evbus.errors import DeliveryError, DestinationForbidden, InvalidHeader, Rejected, Unavailable
from evbus.ingress._address import AddressPolicy

__all__ = [
    "LONGEST_WAIT",
    "Profile",
    "Request",
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

# A "." would let one id and timestamp be read as another pair (specification, "Signature scheme"), and
# whatever is not visible ASCII may reach the receiver changed, which breaks the signature.
_PLAIN_ID = re.compile(r"[!-\-/-~]{1,256}")

# Hop by hop (RFC 9110 section 7.6.1), about the body or the connection, or credentials: these belong to
# the request, and an event has no say in them.
_NEVER_FORWARDED = frozenset(
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
_FIXED_BY_US = (_NEVER_FORWARDED - {"authorization", "cookie", "host"}) | _OURS

_BUSY = frozenset({408, 425, 429, 502, 503, 504})


class Profile(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The keys of a webhook profile.

    :ivar url: where to POST; http or https. ``user:password@`` in it becomes basic authentication.
    :ivar headers: sent with every request; they win over headers of the same name from the event.
    :ivar timeout: seconds for the whole request, answer included.
    :ivar connect_timeout: seconds for one connection attempt, TLS handshake included.
    :ivar secret: the signing secret, ``whsec_`` and base64, or raw text; a list of two while keys rotate.
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


def _check_fixed_header(name: str, value: str) -> None:
    if name.lower() in _FIXED_BY_US:
        raise ValueError(f"the header {name!r} is set by evbus and cannot be given in headers")
    try:
        _check_header(name, value)
    except InvalidHeader as exc:
        raise ValueError(str(exc)) from None


def key_of(secret: str) -> bytes:
    """Return the bytes of a signing secret: base64 after ``whsec_``, any other text in UTF-8.

    :raises ValueError: it is empty, or no base64; the message does not hold it.
    """
    text = secret.strip()
    if not text.startswith("whsec_"):
        key = text.encode()
    else:
        encoded = text[len("whsec_") :].replace("-", "+").replace("_", "/").rstrip("=")
        try:
            key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except binascii.Error:
            raise ValueError("a secret begins with whsec_, but what follows is no base64") from None
    if not key:
        raise ValueError("a secret is empty; make one of at least 24 random bytes")
    return key


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return ``v1,<base64 HMAC-SHA256 of id.timestamp.body>``."""
    content = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, content, "sha256")).decode()


def webhook_id(headers: Mapping[str, str]) -> str:
    """Return the event's id: its header ``ce-id``, else a fresh one.

    A ``ce-id`` that cannot be signed safely (a full stop, a space, not ASCII) is replaced by its SHA-256,
    the same one each time. A fresh id differs between the attempts for one event; the pipeline plugin
    ``stamp`` gives every event a ``ce-id``.
    """
    for name, value in headers.items():
        if name.lower() == "ce-id" and value:
            if _PLAIN_ID.fullmatch(value):
                return value
            return "sha256_" + hashlib.sha256(value.encode()).hexdigest()
    return "msg_" + uuid.uuid4().hex


class Request:
    """Makes the headers of one profile's requests.

    :param clock: tells the time, in seconds since 1970.
    """

    __slots__ = ("_clock", "_fixed", "_keys")

    def __init__(
        self, headers: Mapping[str, str], keys: tuple[bytes, ...], *, clock: Callable[[], float] = time.time
    ) -> None:
        fixed = {"User-Agent": "evbus", "Accept-Encoding": "identity", **headers}
        self._fixed = {name.lower(): (name, value) for name, value in fixed.items()}
        self._keys = keys
        self._clock = clock

    def headers(self, routing_key: str, body: bytes, event_headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of the request that carries one event.

        :raises InvalidHeader: a header of the event, or its routing key, cannot be carried by HTTP.
        """
        found: dict[str, tuple[str, str]] = {}
        for name, value in event_headers.items():
            _check_header(name, value)
            lower = name.lower()
            if lower not in _NEVER_FORWARDED and lower not in _OURS:
                found[lower] = ("Content-Type" if lower == "content-type" else name, value)
        if routing_key:
            _check_header("evbus-routing-key", routing_key)
            found["evbus-routing-key"] = ("evbus-routing-key", routing_key)
        found.update(self._fixed)
        return {**dict(found.values()), **self._signed(webhook_id(event_headers), body)}

    def _signed(self, message_id: str, body: bytes) -> dict[str, str]:
        timestamp = int(self._clock())
        made = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
        if self._keys:
            made["webhook-signature"] = " ".join(
                signature(key, message_id, timestamp, body) for key in self._keys
            )
        return made


def _check_header(name: object, value: object) -> None:
    """Raise InvalidHeader unless both are legal in HTTP (RFC 9110 sections 5.1 and 5.5)."""
    if not isinstance(name, str) or not isinstance(value, str):
        raise InvalidHeader(f"the header {name!r} cannot be sent: its name and its value have to be strings")
    if not _NAME.fullmatch(name):
        raise InvalidHeader(
            f"the header {name[:100]!r} cannot be sent: a name holds letters, digits and !#$%&'*+-.^_`|~ only"
        )
    if _BAD_VALUE.search(value):
        # The value may be a secret, so it is not shown.
        raise InvalidHeader(
            f"the header {name[:100]!r} cannot be sent: "
            "its value holds a line break or another control character"
        )


def outcome(
    status: int, *, origin: str, excerpt: str = "", location: str = "", pause: str = ""
) -> DeliveryError | None:
    """Return what an answer means: None (delivered) or the error to raise.

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
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def retry_after(value: str, *, clock: Callable[[], float] = time.time) -> float:
    """Return the seconds that a ``Retry-After`` header asks for (RFC 9110 section 10.2.3).

    It holds seconds or a date; 300 at most, and 0 for anything that is neither.
    """
    text = value.strip()
    if re.fullmatch("[0-9]+", text):
        return LONGEST_WAIT if len(text) > 6 else min(float(text), LONGEST_WAIT)
    try:
        wait = parsedate_to_datetime(text).timestamp() - clock()
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
    return min(max(wait, 0.0), LONGEST_WAIT)
