"""The HTTP/1.1 client of calls: kept connections, one request at a time on each. Needs httptools.

It reads answers by RFC 9112; what it does not do is what calls do not need: no redirects, no cookies, no
compression, no proxies.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self, cast
from urllib.parse import urlsplit

import httptools

from evbus.engine.kit.redact import one_line
from evbus.engine.wire.base.dial import Way, dial, reason
from evbus.engine.wire.base.tls import Tls, client_context
from evbus.engine.wire.http.webhook import NEVER_FORWARDED, header_problem

__all__ = ["Answer", "Exchange", "HttpAddress", "HttpFailure", "HttpPool", "address_of", "header_lines"]

#: Seconds after which a connection that was not used is not used again: many servers close theirs after 5,
#: and a request that meets the close is lost without anybody knowing how far it came.
IDLE = 1.0
#: Bytes of an answer that wait for their reader, at most about that many, before the server has to wait.
_HIGH = 64 * 1024
#: The most bytes of the head of an answer.
_MAX_HEAD = 64 * 1024


class HttpFailure(Exception):
    """A request got no answer.

    :ivar reason: why, as the rest of a sentence that begins with the address.
    :ivar handed_over: the server may have begun with the request.
    :ivar too_large: an answer came, and is larger than it may be.
    """

    def __init__(self, reason: str, *, handed_over: bool, too_large: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.handed_over = handed_over
        self.too_large = too_large


class HttpAddress(NamedTuple):
    """Where a server is.

    :ivar authority: for the header ``host``.
    :ivar path: stands before the path of every request; ``""`` or ``/base``.
    """

    host: str
    port: int
    secure: bool
    authority: str
    path: str

    def __str__(self) -> str:
        return f"http{'s' * self.secure}://{self.authority}{self.path}"


class Answer(NamedTuple):
    """What a server has answered.

    :ivar headers: by their names in lower case.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        """The content type, without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def address_of(url: str) -> HttpAddress:
    """Return the address that a URL names.

    :raises ValueError: it names none; the sentence shows nothing of a password in it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("it is no valid URL; write it as http://host:port") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("it is no URL of HTTP; write it as http://host:port or https://host:port")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it holds a user or a password, which addresses of services do not have")
    if parts.query or parts.fragment or not url.isascii() or any(one <= " " for one in url):
        raise ValueError("it holds more than host, port and path")
    secure = parts.scheme == "https"
    usual = 443 if secure else 80
    named = f"[{host}]" if ":" in host else host
    authority = named if port in (None, usual) else f"{named}:{port}"
    return HttpAddress(host, port or usual, secure, authority, parts.path.rstrip("/"))


def header_lines(headers: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """Return headers as they stand in a request, and the names of those that HTTP cannot carry.

    Those that are HTTP's own are left out without a word.
    """
    lines, left_out = [], []
    for name, value in headers.items():
        if name.lower() in _ITS_OWN:
            continue
        if header_problem(name, value):
            left_out.append(name)
        else:
            lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode(), left_out


def _complete(head: bytes, body: bytes) -> bytes:
    return b"%scontent-length: %d\r\n\r\n%s" % (head, len(body), body)


_ITS_OWN = NEVER_FORWARDED - {"authorization"} | {"content-type", "accept", "user-agent"}


class HttpPool:
    """Connections to servers, each kept for the next request.

    :param connections: the most to one address; further requests wait for one.
    :param connect_timeout: seconds for a connection, its TLS handshake included.
    :param max_answer: the most bytes of an answer, or of what is said before a stream begins.
    :param tls: what is trusted, and what is shown, where an address is https.
    :raises ProfileError: a file of ``tls`` is not usable.
    """

    def __init__(
        self, *, connections: int, connect_timeout: float, max_answer: int, tls: Tls | None = None
    ) -> None:
        self._connections = connections
        self._connect_timeout = connect_timeout
        self._max_answer = max_answer
        self._tls = tls
        self._context = None if tls is None else client_context(tls)
        self._hosts: dict[HttpAddress, _Host] = {}
        self._closed = False

    def __repr__(self) -> str:
        count = sum(len(host.open) for host in self._hosts.values())
        return f"<HttpPool connections={count}{' closed' if self._closed else ''}>"

    async def request(self, address: HttpAddress, head: bytes, body: bytes) -> Answer:
        """Send a request and return the answer; who is cancelled closes its connection.

        :param head: request line and headers, without those that say how long the body is.
        :raises HttpFailure: there is none.
        """
        link = await self._take(address)
        try:
            link.begin(_complete(head, body), whole=True)
            return await link.answer()
        finally:
            self._give_back(address, link)

    def exchange(self, address: HttpAddress, head: bytes, body: bytes | None = None) -> Exchange:
        """Return a request whose body, or the answer's, goes piece by piece; ``async with`` begins it.

        :param head: as for :meth:`request`.
        :param body: None for one that is sent piece by piece.
        """
        return Exchange(self, address, head, body)

    async def close(self) -> None:
        """Close every connection; requests that are under way fail."""
        self._closed = True
        links = [link for host in self._hosts.values() for link in host.open]
        for link in links:
            link.fail("the connection was closed from here")
        for host in self._hosts.values():
            while host.busy:
                host.wake()
                await asyncio.sleep(0)
        if links:
            await asyncio.wait([link.lost for link in links])

    async def _take(self, address: HttpAddress) -> _HttpLink:
        host = self._hosts.get(address)
        if host is None:
            host = self._hosts[address] = _Host()
        if host.busy:
            await host.turn()
        while not self._closed:
            now = time.monotonic()
            while host.idle:
                link = host.idle.pop()
                if link.usable and now - link.since < IDLE:
                    return link
                link.close()
            if host.taken < self._connections:
                return await self._dialled(address, host)
            await host.turn(first=True)
        raise HttpFailure("the channel is closed", handed_over=False)

    async def _dialled(self, address: HttpAddress, host: _Host) -> _HttpLink:
        host.taken += 1
        loop = asyncio.get_running_loop()
        context = None
        if address.secure:
            if self._context is None:
                self._context = client_context(Tls())
            context = self._context
        way = Way(address.host, address.port, self._tls, context)
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, link = await dial(lambda: _HttpLink(loop, host, self._max_answer), way)
        except BaseException as exc:
            host.taken -= 1
            host.wake()
            if not isinstance(exc, (OSError, UnicodeError)):
                raise
            raise HttpFailure(self._why(exc), handed_over=False) from exc
        if self._closed:
            link.close()
            raise HttpFailure("the channel is closed", handed_over=False)
        return link

    def _why(self, problem: Exception) -> str:
        said = reason(problem, refused="nothing listens there (connection refused)")
        if said:
            return said
        if isinstance(problem, TimeoutError):
            return f"it is not reached within {self._connect_timeout:g} s"
        return one_line(getattr(problem, "strerror", None) or str(problem) or "the connection failed", 200)

    def _give_back(self, address: HttpAddress, link: _HttpLink) -> None:
        host = self._hosts[address]
        if link.reusable and not self._closed:
            link.since = time.monotonic()
            host.idle.append(link)
            host.wake()
        else:
            link.close()


class _Host:
    """The connections to one address.

    :ivar idle: those that nobody uses, the last used last.
    :ivar open: all that are open.
    :ivar taken: how many there are, with those that are being made.
    """

    __slots__ = ("_called", "_waiting", "idle", "open", "taken")

    def __init__(self) -> None:
        self.idle: list[_HttpLink] = []
        self.open: set[_HttpLink] = set()
        self.taken = 0
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
        self._called = 0

    @property
    def busy(self) -> bool:
        """Whether others wait for a connection already, or are about to take one."""
        return bool(self._waiting or self._called)

    async def turn(self, *, first: bool = False) -> None:
        """Wait until a connection may be free.

        :param first: before all others, as it has waited already.
        """
        turn = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if first else self._waiting.append)(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove(turn)
            else:
                self._called -= 1
                self.wake()  # it was this one's turn, and is another's now
            raise
        self._called -= 1

    def wake(self) -> None:
        """Let the next that waits look for a connection."""
        if self._waiting:
            self._waiting.popleft().set_result(None)
            self._called += 1


class _HttpLink(asyncio.Protocol):
    """One connection.

    :ivar since: when it was last used.
    :ivar lost: done once it is closed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, host: _Host, limit: int) -> None:
        self.since = 0.0
        self.lost: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.Transport = None  # type: ignore[assignment] # until it is made
        self._loop = loop
        self._host = host
        self._limit = limit
        self._parser: Any = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._failure: HttpFailure | None = None
        self._open = True
        self._paused = False
        # Of the request on it: whether it is sent, and what has come of the answer.
        self._sent = True
        self._whole = True
        self._status = 0
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._head = 0
        self._size = 0
        self._complete = True
        self._keep = True

    @property
    def usable(self) -> bool:
        """Whether it is open, as far as anybody knows."""
        return self._open and not self.transport.is_closing()

    @property
    def reusable(self) -> bool:
        """Whether the request on it has ended in a way that leaves room for another."""
        # uvicorn answers 500 for an application that fails, and closes without having said so.
        sound = self._status < 500 or self._status == 503
        return self._complete and self._sent and self._keep and sound and self.usable

    def begin(self, request: bytes, *, whole: bool, sent: bool = True) -> None:
        """Send a request, or its beginning.

        :param whole: the answer is awaited as a whole.
        :param sent: nothing of the request follows.
        """
        self._whole = whole
        self._sent = sent
        self._status = 0
        self._headers = {}
        self._parts = []
        self._head = 0
        self._size = 0
        self._complete = False
        self.transport.write(request)

    async def answer(self) -> Answer:
        """Return the whole answer."""
        while not self._complete:
            await self._progress()
        parts = self._parts
        return Answer(self._status, self._headers, parts[0] if len(parts) == 1 else b"".join(parts))

    async def head(self) -> Answer:
        """Return the answer without its body, once it has begun."""
        while self._status < 200:
            await self._progress()
        return Answer(self._status, self._headers, b"")

    async def part(self) -> bytes:
        """Return more of the answer's body, ``b""`` after its end."""
        while not self._parts and not self._complete:
            await self._progress()
        found = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        return found

    async def send(self, data: bytes) -> None:
        """Send more of the request's body, once there is room for it; ``b""`` ends it.

        :raises HttpFailure: the connection is lost.
        """
        if self._writable is not None:
            await asyncio.shield(self._writable)
        if self._failure is not None:
            raise self._failure
        self.transport.write(b"%x\r\n%s\r\n" % (len(data), data))
        self._sent = not data

    async def _progress(self) -> None:
        """Wait for more of the answer.

        :raises HttpFailure: there will be none.
        """
        if self._failure is None:
            self._waiter = waiter = self._loop.create_future()
            try:
                await waiter
            finally:
                self._waiter = None
        if self._failure is not None and not self._complete:
            raise self._failure

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Close it at once."""
        self.transport.abort()

    def fail(self, why: str, *, handed_over: bool = True, too_large: bool = False) -> None:
        """Close it, and have the request on it fail."""
        self._failed(why, handed_over=handed_over, too_large=too_large)
        self.transport.abort()

    def _failed(self, why: str, *, handed_over: bool, too_large: bool = False) -> None:
        if self._failure is None:
            self._failure = HttpFailure(why, handed_over=handed_over, too_large=too_large)
        self.resume_writing()
        self._wake()

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's derives from no class of asyncio
        self._host.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is under way, and let another connection be made."""
        self._open = False
        host = self._host
        host.open.discard(self)
        host.taken -= 1
        if self in host.idle:
            host.idle.remove(self)
        if self._status >= 200 and exc is None and self._ends_with_the_connection:
            self._complete = True
        where = "in the middle of the answer" if self._status else "before an answer came"
        why = "" if exc is None else f" ({getattr(exc, 'strerror', None) or type(exc).__name__})"
        self._failed(f"the connection ended {where}{one_line(why, 100)}", handed_over=True)
        self.lost.set_result(None)
        host.wake()

    @property
    def _ends_with_the_connection(self) -> bool:
        """Whether the answer says nowhere how long it is (RFC 9112, section 6.3)."""
        return "content-length" not in self._headers and "transfer-encoding" not in self._headers

    def pause_writing(self) -> None:
        """Let who sends wait."""
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let who sends go on."""
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None

    def data_received(self, data: bytes) -> None:
        """Read what the server says."""
        if self._complete:
            self.close()  # nobody has asked for it
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.fail("what it answers is not HTTP", handed_over=self._status >= 200)
        if not self._status:
            self._head += len(data)
            if self._head > _MAX_HEAD:
                self.fail(f"the head of its answer is larger than {_MAX_HEAD} bytes")
        elif self._size > self._limit and self._whole:
            self.fail(f"its answer is larger than {self._limit} bytes", too_large=True)

    # Called by the parser. What follows an answer is none to anything.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header."""
        if not self._complete:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Note how it went, and what becomes of the connection."""
        if self._complete:
            self._keep = False
            return
        self._status = self._parser.get_status_code()
        self._keep = self._parser.should_keep_alive()
        if not self._whole:
            self._wake()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._complete:
            return
        self._parts.append(body)
        self._size += len(body)
        if not self._whole:
            if self._size > _HIGH and not self._paused:
                self._paused = True
                self.transport.pause_reading()
            self._wake()

    def on_message_complete(self) -> None:
        """Hand over the answer, unless it is an interim one (RFC 9110, section 15.2), or too large."""
        if self._status < 200:
            self._status = 0
            self._headers = {}
        elif not self._whole or self._size <= self._limit:
            self._complete = True
            self._wake()


class Exchange:
    """A request whose body, or the answer's, goes piece by piece; what is not at its end is given up.

    :param head: request line and headers, without ``host``.
    :param body: all of the body; None for one that :meth:`send` sends.
    """

    def __init__(self, pool: HttpPool, address: HttpAddress, head: bytes, body: bytes | None) -> None:
        self._pool = pool
        self._address = address
        self._head = head
        self._body = body
        self._link: _HttpLink = None  # type: ignore[assignment] # until it begins

    async def __aenter__(self) -> Self:
        link = self._link = await self._pool._take(self._address)
        if self._body is None:
            link.begin(self._head + b"transfer-encoding: chunked\r\n\r\n", whole=False, sent=False)
        else:
            link.begin(_complete(self._head, self._body), whole=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool._give_back(self._address, self._link)

    async def send(self, data: bytes) -> None:
        """Send more of the body, once there is room for it.

        :raises HttpFailure: the connection is lost.
        """
        await self._link.send(data)

    async def end(self) -> None:
        """Say that the body is whole.

        :raises HttpFailure: the connection is lost.
        """
        await self._link.send(b"")

    async def head(self) -> Answer:
        """Return the answer without its body, once it has begun.

        :raises HttpFailure: there is none.
        """
        return await self._link.head()

    async def part(self) -> bytes:
        """Return more of the answer's body, ``b""`` after its end.

        :raises HttpFailure: it ends early.
        """
        return await self._link.part()
