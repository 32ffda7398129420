"""Requests that are calls: what is known of one, its body, and its answer."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from evbus.engine.call.forward import DEADLINE, TIMEOUT
from evbus.engine.kit.redact import one_line
from evbus.engine.kit.waiting import rest
from evbus.engine.service.guard import Caller, Guard
from evbus.engine.wire.http.webhook import NEVER_FORWARDED
from evbus.errors import AuthorizationError

__all__ = [
    "CERTIFICATE",
    "LOST",
    "PATIENCE",
    "Gone",
    "Load",
    "Receive",
    "RefusedRequest",
    "RequestHead",
    "Send",
    "begin",
    "body_of",
    "caller_of",
    "challenge",
    "respond",
    "too_large",
    "unless_gone",
    "unsupported",
]

log = logging.getLogger("evbus.service")

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

#: Where the scope of a request has the certificate of its sender.
CERTIFICATE = "evbus.certificate"
#: Where it has an event that is set when the connection is lost, also while nobody reads the body.
LOST = "evbus.lost"
#: Seconds for a call to come in as a whole; of one with a stream, for what comes before the stream.
PATIENCE = 30.0
#: Headers that are HTTP's own, and no call's. Who calls is for those to ask who look at the request.
_NOT_A_CALLS = frozenset(
    name.encode()
    for name in NEVER_FORWARDED
    | {"accept", "content-encoding", "content-type", "user-agent", "origin", "referer"}
)


_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^\s";]*)', re.IGNORECASE)


class RefusedRequest(Exception):
    """A request that is no call, or not now.

    :ivar status: of HTTP.
    :ivar error: says why, as it travels.
    """

    def __init__(self, status: int, kind: str, reason: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(reason)
        self.status = status
        self.error = {"type": kind, "reason": reason}
        self.headers = headers


async def caller_of(guard: Guard, scope: Any) -> Caller:
    """Return who sends a request.

    :raises AuthorizationError: nobody that is known.
    :raises RefusedRequest: it says so twice.
    """
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(found) > 1:
        raise RefusedRequest(400, "InvalidHeader", "there are two headers Authorization")
    authorization = found[0].decode("latin-1") if found else ""
    return await guard.caller(authorization=authorization, certificate=scope.get(CERTIFICATE))


def challenge(problem: Exception, scope: Any) -> list[tuple[bytes, bytes]]:
    """Return the header that says what is missing (RFC 6750, section 3), if it is that."""
    if not isinstance(problem, AuthorizationError):
        return []
    said = b"Bearer"
    if problem.known:
        said += b' error="insufficient_scope"'
    elif any(name == b"authorization" for name, _ in scope["headers"]):
        said += b' error="invalid_token"'
    return [(b"www-authenticate", said)]


class Gone(Exception):
    """Nobody waits for the answer any more."""


class Load:
    """How many calls are under way.

    :param most: calls at once; a further one is refused.
    """

    __slots__ = ("_most", "calls")

    def __init__(self, most: int) -> None:
        self.calls = 0
        self._most = most

    def check(self) -> None:
        """Refuse a call that is counted already, and is one too many.

        :raises RefusedRequest: it is.
        """
        if self.calls > self._most:
            said = f"{self._most} calls are under way here already; try again later"
            raise RefusedRequest(503, "Unavailable", said, (b"retry-after", b"1"))


class RequestHead:
    """What is known of a request before its body: its headers, and how long there is for it.

    :ivar headers: of the call, by their names in small letters: without those that are HTTP's own.
    :ivar content_type: as it came, ``""`` without one.
    :ivar length: bytes of its body, 0 if that is not said.
    :ivar seconds: that are left for it, None for any time.
    """

    __slots__ = ("content_type", "headers", "length", "seconds")

    def __init__(self, scope: Any) -> None:
        self.content_type, self.length = "", 0
        self.headers: dict[str, str] = {}
        self.seconds: float | None = None
        for raw, value in scope["headers"]:
            if raw not in _NOT_A_CALLS:
                self._take(raw.decode("latin-1"), value)
            elif raw == b"content-type":
                self.content_type = value.decode("latin-1")
                if b"charset" in value.lower():
                    _check_charset(self.content_type)
            elif raw == b"content-encoding":
                _check_plain(value.decode("latin-1"))
            elif raw == b"content-length":
                self.length = int(value)  # digits, as the server has looked at it
        if (timeout := self.headers.pop(TIMEOUT, None)) is not None:
            self.seconds = _seconds(TIMEOUT, timeout, "the seconds that a call may take")
        elif (deadline := self.headers.get(DEADLINE)) is not None:
            self.seconds = _seconds(DEADLINE, deadline, "seconds since 1970", time.time())

    def _take(self, name: str, value: bytes) -> None:
        text = value.decode("utf-8", "replace")
        before = self.headers.get(name)
        self.headers[name] = text if before is None else f"{before}, {text}"


async def body_of(request: RequestHead, receive: Receive, limit: int) -> bytes:
    """Return the whole body of a request.

    :param limit: the most bytes that are taken.
    :raises RefusedRequest: it has more, or does not come.
    :raises Gone: the caller went away.
    """
    if request.length > limit:
        raise too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        try:
            async with asyncio.timeout(PATIENCE):
                body, message = await _rest_of(body, receive, limit)
        except TimeoutError:
            said = f"the call did not come within {PATIENCE:g} s"
            raise RefusedRequest(408, "RequestTimeout", said, (b"connection", b"close")) from None
    if message["type"] == "http.disconnect":
        raise Gone
    if len(body) > limit:
        raise too_large(limit)
    return body


async def _rest_of(begin: bytes, receive: Receive, limit: int) -> tuple[bytes, Any]:
    parts, size = [begin], len(begin)
    while True:
        message = await receive()
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if not message.get("more_body") or size > limit:
            return b"".join(parts), message


def too_large(limit: int) -> RefusedRequest:
    """Return the refusal of a body that is too large."""
    said = f"the call has more than the {limit} bytes that are taken here"
    return RefusedRequest(413, "PayloadTooLarge", said)


async def unless_gone(receive: Receive, coroutine: Coroutine[Any, Any, None]) -> None:
    """Await a coroutine, and cancel it when who waits for the answer is gone."""
    # Many methods end at once, and nobody can go meanwhile.
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.get_running_loop().create_task(watch())
    try:
        await rest(coroutine, awaited)
    except asyncio.CancelledError:
        if gone and not task.uncancel():
            raise Gone from None
        raise
    finally:
        watcher.cancel()


async def begin(send: Send, status: int, content_type: str, *headers: tuple[bytes, bytes]) -> None:
    """Begin with an answer."""
    all_headers = [(b"content-type", content_type.encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})


async def respond(
    send: Send, status: int, content_type: str, body: bytes, *headers: tuple[bytes, bytes]
) -> None:
    """Answer."""
    await begin(send, status, content_type, (b"content-length", b"%d" % len(body)), *headers)
    await send({"type": "http.response.body", "body": body})


def _seconds(name: str, value: str, what: str, since: float = 0.0) -> float:
    """Return the seconds that a header leaves for a call."""
    try:
        left = float(value) - since
    except ValueError:
        left = float("nan")
    if not -1e9 < left < 1e9:
        said = f"the header {name} holds {what}, and not {one_line(repr(value), 50)}"
        raise RefusedRequest(400, "InvalidHeader", said)
    return left


def _check_charset(content_type: str) -> None:
    """Refuse a text that is not UTF-8 (RFC 8259, section 8.1)."""
    named = _CHARSET.search(content_type)
    if named is not None and named[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        said = f"the content type is {one_line(content_type, 100)!r}; a call is sent in UTF-8"
        raise RefusedRequest(415, "UnsupportedMediaType", said)


def _check_plain(encoding: str) -> None:
    """Refuse a body that is compressed (RFC 9110, section 15.5.16)."""
    if encoding.strip().lower() not in ("", "identity"):
        said = f"the content encoding is {one_line(encoding, 50)!r}; a call is sent as it is"
        raise RefusedRequest(415, "UnsupportedMediaType", said, (b"accept-encoding", b"identity"))


def unsupported(content_type: str, known: Iterable[str]) -> RefusedRequest:
    """Return the refusal of a body of a content type that is not read."""
    said = (
        f"the content type is {one_line(content_type, 100)!r}" if content_type else "there is no content type"
    )
    return RefusedRequest(415, "UnsupportedMediaType", f"{said}; a call is sent as {', '.join(known)}")
