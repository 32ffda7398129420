"""The HTTP client of the webhook destination: one session for one url. Needs aiohttp."""

from __future__ import annotations

import asyncio
import base64
import errno
import io
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from evbus.engine.kit.redact import one_line, redact, secrets_of
from evbus.engine.stages.compress import HEADER as ENCODING
from evbus.engine.stages.compress import Compressor
from evbus.engine.stages.sign import SIGNATURE
from evbus.engine.wire.http.address import AddressPolicy, forbidden
from evbus.engine.wire.http.webhook import Request, WebhookProfile, outcome
from evbus.errors import (
    DeliveryError,
    DestinationForbidden,
    ProfileError,
    Rejected,
    Unavailable,
)
from evbus.types import Envelope

__all__ = [
    "Client",
]

#: No more of an answer than this is read, in bytes; a longer one costs its connection.
_ANSWER_LIMIT = 64 * 1024
_EXCERPT = 200

# A part of the url at least this long is taken for an access token.
_TOKEN_LENGTH = 16

# aiohttp warns about larger bodies that are given as bytes.
_LARGE_BODY = 1024 * 1024

# OpenSSL's X509_V_ERR_* numbers, as sentences.
_CERTIFICATE_FAULTS = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is self-signed",
    19: "its certificate comes from an authority that is not trusted (a self-signed one)",
    20: "its certificate comes from an authority that is not trusted",
    21: "its certificate cannot be verified (an intermediate certificate is missing)",
    23: "its certificate was revoked",
    62: "its certificate is for another host name",
    64: "its certificate is for another address",
}


class _GuardedResolver(AbstractResolver):
    """Resolves names and gives aiohttp only addresses that the policy permits.

    aiohttp connects to these very addresses, so an answer that changes afterwards changes nothing.
    """

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the permitted addresses of ``host``.

        :raises DestinationForbidden: it has addresses, but none of them is permitted.
        """
        infos = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
        )
        # A scope ("%eth0") only comes with link-local addresses.
        addresses = [(info[0], str(info[4][0]).partition("%")[0]) for info in infos]
        kinds = [self._policy.refusal(address, host) for _, address in addresses]
        if kinds and all(kinds):
            raise forbidden(host, addresses[0][1], kinds[0])
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=kind_of, proto=0, flags=socket.AI_NUMERICHOST
            )
            for (kind_of, address), kind in zip(addresses, kinds, strict=True)
            if not kind
        ]

    async def close(self) -> None:
        """There is nothing to close."""


class Client:
    """POSTs events to the url of one profile; :meth:`open` makes one.

    :ivar origin: scheme, host and port: all of the url that may be printed.
    :ivar encrypted: whether the url is https.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: URL,
        request: Request,
        secrets: frozenset[str],
        max_body: int,
    ) -> None:
        self._compressor = Compressor("auto", 0, max_body)
        self._session = session
        self._url = url
        self._request = request
        self._secrets = secrets
        self.origin = str(url.origin())
        self.encrypted = url.scheme == "https"

    def __repr__(self) -> str:
        return f"<webhook client of {self.origin}, {'closed' if self._session.closed else 'open'}>"

    @classmethod
    async def open(
        cls, profile: WebhookProfile, max_body: int, left_out: Callable[[str, str], None]
    ) -> Client:
        """Check the destination and return a client for it; nothing is connected yet.

        :param max_body: most bytes that come out of a compressed body; a larger one is sent as it is.
        :param left_out: called with the name of a header that HTTP cannot carry, and why.
        :raises ProfileError: the url, a certificate file or the authentication is unusable.
        :raises DestinationForbidden: the scheme is not http or https, or the address is forbidden.
        """
        policy = AddressPolicy(profile.allow)
        full = _parsed(profile.url)
        policy.check_host(full.host or "")
        fixed = {**_basic_auth(full, profile.headers), **profile.headers}
        request = Request(fixed, profile.keys(), left_out)
        context = await asyncio.to_thread(_tls, profile) if full.scheme == "https" else True
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=profile.connections,
                ssl=context,
                resolver=_GuardedResolver(policy),
                use_dns_cache=False,
                socket_factory=_socket_factory(policy, full.host or ""),
            ),
            timeout=aiohttp.ClientTimeout(total=profile.timeout, sock_connect=profile.connect_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        return cls(session, full.with_user(None), request, _secrets_of(profile, full), max_body)

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def send(self, routing_key: str, body: bytes, headers: Mapping[str, str]) -> None:
        """POST one event; returning means that the destination answered 2xx.

        :raises Rejected: a redirect, or a 4xx that says the request is wrong.
        :raises Unavailable: not reachable, too slow, or busy (408, 425, 429, 502, 503, 504).
        :raises DeliveryError: any other failure; it is worth a limited number of attempts.
        """
        if self._session.closed:
            raise Unavailable(f"the connection to {self.origin} was closed")
        headers, body = self._readable(headers, body)
        made = self._request.headers(routing_key, body, headers)
        # Not raised inside the except clause: some of aiohttp's errors print the whole url, and a traceback
        # would show them as the context.
        failure = await self._attempt(body, made)
        if failure is not None:
            raise failure

    def _readable(self, headers: Mapping[str, str], body: bytes) -> tuple[Mapping[str, str], bytes]:
        """Return an event as it was before it was compressed, as not every receiver can undo that.

        Many verify a signature after they have undone it, as far as they can. What the pipeline plugin
        ``sign`` signed stays compressed where nothing else signs it: that is of the compressed bytes.
        """
        if not any(name.lower() == ENCODING for name in headers):
            return headers, body
        if not self._request.signs and SIGNATURE in headers:
            return headers, body
        try:
            plain = self._compressor.received(Envelope("", "", body, dict(headers)))
        except Rejected:
            return headers, body  # not of evbus, or damaged: the receiver has to know
        return plain.headers, plain.body

    async def _attempt(self, body: bytes, headers: dict[str, str]) -> DeliveryError | None:
        data = io.BytesIO(body) if len(body) > _LARGE_BODY else body
        try:
            async with self._session.post(
                self._url, data=data, headers=headers, allow_redirects=False
            ) as answer:
                text = await _beginning(answer)
                return outcome(
                    answer.status,
                    origin=self.origin,
                    excerpt=self._excerpt(answer, text),
                    location=self._printable(answer.headers.get("Location", "")),
                    pause=answer.headers.get("Retry-After", ""),
                )
        except DestinationForbidden as exc:
            return exc
        except (TimeoutError, aiohttp.ClientError, OSError) as exc:
            return _failure(exc, self.origin)

    def _excerpt(self, answer: aiohttp.ClientResponse, text: bytes) -> str:
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            return "(a compressed answer)"
        return self._printable(text[: 8 * _EXCERPT].decode("utf-8", "replace").strip())

    def _printable(self, text: str) -> str:
        return one_line(redact(text, self._secrets), _EXCERPT)


def _parsed(text: str) -> URL:
    """Return the url, with what yarl leaves open decided. Errors never show more of it than the host."""
    try:
        url = URL(text.strip())
        host, _ = url.host, url.port
    except ValueError:
        raise ProfileError(
            "is no valid url; write it as https://host/path, special characters percent-encoded", path="url"
        ) from None
    if url.scheme not in ("http", "https"):
        if "://" not in text and not url.scheme:
            raise ProfileError("has no scheme; write it as https://host/path", path="url")
        raise DestinationForbidden(
            f"a webhook goes to an http or https url, and this one has the scheme {url.scheme[:20]!r}"
        )
    if not host:
        raise ProfileError("has no host; write it as https://host/path", path="url")
    return url


def _basic_auth(url: URL, headers: Mapping[str, str]) -> dict[str, str]:
    if url.user is None and url.password is None:
        return {}
    if any(name.lower() == "authorization" for name in headers):
        raise ProfileError("holds a user, and headers holds Authorization; keep one of them", path="url")
    pair = f"{url.user or ''}:{url.password or ''}".encode()
    return {"Authorization": "Basic " + base64.b64encode(pair).decode()}


def _secrets_of(profile: WebhookProfile, url: URL) -> frozenset[str]:
    """Return the secrets to keep out of sentences: a receiver may well echo the request."""
    # Many services put the secret into the path (https://hooks.example/T0/B0/xyz) or the query.
    parts = [part for part in (*url.parts, *url.query.values()) if len(part) >= _TOKEN_LENGTH]
    keys = profile.secret if isinstance(profile.secret, list) else [profile.secret or ""]
    bare = [key.strip().removeprefix("raw:").removeprefix("whsec_") for key in keys]
    known = {
        "url": profile.url,
        "headers": profile.headers,
        "secret": [*keys, *bare, *parts, url.password or ""],
    }
    return secrets_of(known) | secrets_of({"secret": list(_basic_auth(url, {}).values())})


def _tls(profile: WebhookProfile) -> ssl.SSLContext:
    context = _trusting(profile.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if profile.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if profile.client_cert:
        _show(context, profile.client_cert, profile.client_key)
    return context


def _trusting(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        reason = _file_fault(exc, "certificates")
        raise ProfileError(f"{ca_file!r} {reason}", path="ca_file") from None


def _show(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    def no_password() -> str:
        # Without this OpenSSL would ask on the terminal.
        raise ProfileError("is encrypted; write it without a password", path="client_key")

    try:
        context.load_cert_chain(cert, key, password=no_password)
    except OSError as exc:
        if isinstance(exc, ssl.SSLError) and "MISMATCH" in (exc.reason or ""):
            raise ProfileError("does not belong to client_cert", path="client_key") from None
        files = repr(cert) + (f" or {key!r}" if key else "")
        reason = _file_fault(exc, "a certificate and its key")
        raise ProfileError(f"{files} {reason}", path="client_cert") from None


def _file_fault(exc: OSError, content: str) -> str:
    if isinstance(exc, ssl.SSLError):
        return f"does not hold {content} in PEM format"
    return f"cannot be read: {exc.strerror or 'no such file'}"


def _socket_factory(policy: AddressPolicy, host: str) -> Any:
    """Return a maker of sockets that checks once more what each of them is about to be connected to."""

    def make(info: tuple[Any, ...]) -> socket.socket:
        family, kind, proto, _, address = info
        if policy.refusal(str(address[0]), host):
            raise PermissionError(errno.EACCES, "this address is forbidden")
        return socket.socket(family, kind, proto)

    return make


async def _beginning(answer: aiohttp.ClientResponse) -> bytes:
    """Return at most 64 KiB of the body. Its status is known already, so a broken body is no error."""
    data = bytearray()
    try:
        while len(data) < _ANSWER_LIMIT:
            chunk = await answer.content.read(_ANSWER_LIMIT - len(data))
            if not chunk:
                return bytes(data)
            data += chunk
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass
    answer.close()
    return bytes(data)


#: What aiohttp raises, of which the first counts that an error is: our error for it, and its sentence.
_FAILURES: tuple[tuple[type[BaseException], type[DeliveryError], str], ...] = (
    (aiohttp.ClientConnectorDNSError, Unavailable, "the host name of {origin} cannot be resolved: {reason}"),
    (aiohttp.ClientConnectorError, Unavailable, "cannot connect to {origin}: {reason}"),
    (aiohttp.ConnectionTimeoutError, Unavailable, "cannot connect to {origin} within connect_timeout"),
    (TimeoutError, Unavailable, "{origin} did not answer within timeout"),
    (aiohttp.ClientResponseError, DeliveryError, "{origin} answered something that is not HTTP"),
    (aiohttp.ClientPayloadError, DeliveryError, "{origin} answered something that is not HTTP"),
    # The destination may have got the event, or choked on it, so the attempt counts.
    (BaseException, DeliveryError, "{origin} closed the connection without an answer ({name})"),
)


def _failure(exc: BaseException, origin: str) -> DeliveryError:
    """Return our error for one of aiohttp's."""
    tls = _tls_fault(exc)
    if tls is not None:
        made = DeliveryError(f"no secure connection to {origin}: {tls}")
    else:
        kind, text = next((kind, text) for of, kind, text in _FAILURES if isinstance(exc, of))
        reason = _os_reason(exc) if isinstance(exc, aiohttp.ClientConnectorError) else ""
        made = kind(text.format(origin=origin, reason=reason, name=type(exc).__name__))
    # Others may print the url, and with it the secrets it holds.
    if isinstance(exc, (OSError, asyncio.TimeoutError, aiohttp.ServerDisconnectedError)):
        made.__cause__ = exc
    return made


def _tls_fault(exc: BaseException) -> str | None:
    found: BaseException | None = exc
    while found is not None and not isinstance(found, ssl.SSLError):
        found = found.__cause__ or found.__context__
    # aiohttp's own classes derive from SSLError and keep the original one as their cause.
    inner = found.__cause__ if found is not None and isinstance(found.__cause__, ssl.SSLError) else found
    if inner is None:
        return None
    if isinstance(inner, ssl.SSLCertVerificationError):
        code = getattr(inner, "verify_code", 0)
        return _CERTIFICATE_FAULTS.get(code) or one_line(getattr(inner, "verify_message", inner), _EXCERPT)
    reason = str(getattr(inner, "reason", "") or "the handshake failed")
    return one_line(reason.lower().replace("_", " "), _EXCERPT)


def _os_reason(exc: aiohttp.ClientConnectorError) -> str:
    # A handshake that the other side breaks off comes without any text.
    return one_line(exc.os_error.strerror or str(exc.os_error) or "the connection was reset", _EXCERPT)
