"""The HTTP server: uvicorn's protocol in the running loop, with limits of its own, and an end in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from evbus.engine.kit.counted import counted
from evbus.engine.kit.loopback import is_loopback
from evbus.engine.web.app import WebApp
from evbus.engine.web.request import CERTIFICATE, LOST
from evbus.engine.wire.http.pool import IDLE
from evbus.errors import ConfigError, ServiceError

__all__ = ["Server"]

log = logging.getLogger("evbus.service")

#: Seconds that a connection is kept without a request, and those that a client has for the head of one.
KEPT, HEAD = 75, 10.0
#: Seconds within which a client has to take what waits for it.
TAKEN = 30.0
#: The most bytes of a head, and of a body that nobody reads any more.
MAX_HEAD, MAX_UNREAD = 32 * 1024, 8 * 1024 * 1024


class Server:
    """An HTTP server on one socket; :meth:`start` makes one.

    :ivar host: what it listens on, and ``port``, which is known also where 0 was asked for.
    :ivar stopping: it takes no new connections; who asks whether it is ready is told no.
    """

    def __init__(self, app: WebApp, sock: socket.socket, context: ssl.SSLContext | None = None) -> None:
        self.stopping = False
        self.host, self.port = sock.getsockname()[:2]
        self.state = ServerState()
        self.config = Config(
            app,
            http=HttpProtocol,
            ws="none",
            log_config=None,
            proxy_headers=False,
        )
        self._app = app
        self._socket = sock
        self._context = context
        self._server: asyncio.Server | None = None
        self._mounted = contextlib.AsyncExitStack()
        self._second = 0
        self._empty = asyncio.Event()
        self._patience: asyncio.Timeout | None = None
        self._hurried = False

    def __repr__(self) -> str:
        state = "stopping" if self.stopping else "listening"
        return f"<Server {self.url} {state}, {len(self.state.connections)} connections>"

    @property
    def url(self) -> str:
        """Where it is reached from this machine."""
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @classmethod
    async def start(
        cls,
        app: WebApp,
        host: str,
        port: int,
        *,
        authenticated: bool = False,
        context: ssl.SSLContext | None = None,
        insecure: bool = False,
    ) -> Server:
        """Listen, and answer from now on.

        :param port: 0 for any that is free.
        :param authenticated: every request is asked who sends it.
        :param context: of its TLS, None for plain HTTP.
        :param insecure: others may reach it over plain HTTP, as what stands before it has TLS.
        :raises ConfigError: others could reach it, and nobody is asked, or what they say who they are with is
            sent in plain text; or there is no such host.
        :raises ServiceError: the port is not free.
        """
        if not authenticated and not is_loopback(host):
            raise ConfigError(
                f"the server would listen on {host}, where other machines reach it, and nothing here asks "
                "who calls: let it listen on 127.0.0.1, behind a proxy that asks, or give the setting auth"
            )
        if context is None and not is_loopback(host):
            if not insecure:
                raise ConfigError(
                    f"the server would listen on {host}, where other machines reach it, and tokens would "
                    "come in plain text: give server.tls, or server.insecure: true where a proxy with TLS "
                    "stands before it"
                )
            log.warning(
                "the server listens on %s without TLS (server.insecure), so anybody on the way can read "
                "tokens and calls, unless a proxy with TLS stands before it",
                host,
            )
        server = cls(app, _bound(host, port), context)
        try:
            await server._begin()
        except BaseException:
            server._socket.close()
            await server._mounted.aclose()
            raise
        return server

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self.config.load()
        await self._mounted.enter_async_context(self._app.lifespan())
        self._server = await loop.create_server(
            lambda: HttpProtocol(self, loop),
            sock=self._socket,
            ssl=self._context,
            ssl_handshake_timeout=None if self._context is None else HEAD,
        )

    async def stop(self, patience: float) -> int:
        """Take no new connections, let requests end, and close.

        What still runs after ``patience`` seconds is cancelled; returns how many requests that were.
        A connection that is kept is closed after its next answer, or when its client uses it no more: one
        that is closed at once may have a request on its way already, and nobody knew what came of it.
        """
        self.stopping = True
        if self._server is None:
            return 0
        # Who has come already is let in: what the kernel holds of them is lost with the socket.
        come = list(self._waiting())
        self._server.close()
        loop = asyncio.get_running_loop()
        for sock in come:
            if self._context is None:
                await loop.connect_accepted_socket(lambda: HttpProtocol(self, loop), sock)
            else:
                sock.close()  # before the handshake nobody has sent a request
        for connection in list(self.state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0 if self._hurried else patience) as self._patience:
                await self._ended()
        tasks = list(self.state.tasks)
        if tasks:
            log.warning("%s cancelled by the stop", counted(len(tasks), "request is", "requests are"))
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1.0)
        for connection in list(self.state.connections):
            connection.transport.abort()
        await self._ended()
        await self._server.wait_closed()
        self._server = None
        await self._mounted.aclose()
        return len(tasks)

    def hurry(self) -> None:
        """Let a stop that is under way, or to come, wait for no request any more."""
        self._hurried = True
        if self._patience is not None:
            with contextlib.suppress(RuntimeError):  # it waits for none
                self._patience.reschedule(0)

    def _waiting(self) -> Iterator[socket.socket]:
        with contextlib.suppress(OSError):  # there are no more
            while True:
                yield self._socket.accept()[0]

    async def _ended(self) -> None:
        """Wait until there is no connection and no request."""
        while self.state.connections:
            self._empty.clear()
            await self._empty.wait()
        if self.state.tasks:
            await asyncio.wait(self.state.tasks)

    # Told by connections.

    def left(self) -> None:
        """Take note that a connection is closed."""
        if not self.state.connections:
            self._empty.set()

    def tell_time(self) -> None:
        """Have answers say when they were made (RFC 9110, section 6.6.1)."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self.state.default_headers = [(b"date", formatdate(now, usegmt=True).encode())]


class HttpProtocol(HttpToolsProtocol):
    """A connection of uvicorn, with limits on heads, on slow clients and on what nobody reads."""

    def __init__(self, owner: Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(owner.config, owner.state, {}, loop)
        self.access_log = False
        self._owner = owner
        self._heading = False
        self._head = 0
        self._unread = 0
        self._status = 400
        self._used = loop.time()
        self._closing: asyncio.TimerHandle | None = None
        self._slow: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._begun = False
        self._certificate: Any = None
        self._lost = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        """Take the connection; a client that says nothing is not waited for."""
        super().connection_made(transport)
        self._certificate = transport.get_extra_info("peercert")
        self._await_head()
        self._look()
        if self._owner.stopping:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        self._lost.set()
        for timer in (self._closing, self._slow, self._ending, self._idle):
            if timer is not None:
                timer.cancel()
        self._owner.left()

    def data_received(self, data: bytes) -> None:
        """Read what the client says."""
        self._head += len(data)
        super().data_received(data)
        if not self._heading:
            return
        if self._head > MAX_HEAD:
            self._status = 431
            self.send_400_response("the head of the request is too large")
        elif self._closing is None:
            self._await_head()

    def _await_head(self) -> None:
        self._heading = True
        self._closing = self.loop.call_later(HEAD, self.transport.abort)

    def on_message_begin(self) -> None:
        """Begin with a request."""
        super().on_message_begin()
        self._heading = True
        self._unread = 0

    def on_headers_complete(self) -> None:
        """Answer a request whose head is there.

        :raises ValueError: the head is too large.
        """
        self._heading = False
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if self._head > MAX_HEAD and _size_of(self.headers, self.url) > MAX_HEAD:
            self._status = 431
            raise ValueError
        self._head = 0
        self._owner.tell_time()
        scope = cast("dict[str, Any]", self.scope)
        scope[LOST] = self._lost
        if self._certificate:
            scope[CERTIFICATE] = self._certificate
        super().on_headers_complete()
        self.cycle.transport = cast("asyncio.Transport", _Joining(self.transport, self.loop))
        self._begun = True
        if self._owner.stopping:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of the body; one that nobody reads any more ends somewhere."""
        self._head = 0
        super().on_body(body)
        if self.cycle.response_complete:
            self._unread += len(body)
            if self._unread > MAX_UNREAD:
                self.transport.abort()

    def on_response_complete(self) -> None:
        """Begin with the next request if it is there; one timer of the connection looks whether one comes."""
        self._used = self.loop.time()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def _look(self) -> None:
        """Close it when nothing came for long, else look again when that may be."""
        since = self.loop.time() - self._used
        if self._answering or self._heading:
            since = 0.0
        if since >= KEPT:
            self.timeout_keep_alive_handler()
        else:
            self._idle = self.loop.call_later(KEPT - since, self._look)

    def send_400_response(self, msg: str) -> None:
        """Say that this is no request, and close."""
        if self.transport.is_closing():
            return
        said = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: "
        text = "the head of the request is too large" if self._status == 431 else msg
        self.transport.write(
            b"%s%s%d\r\n\r\n%s" % (STATUS_LINE[self._status], said, len(text), text.encode())
        )
        self.transport.close()

    def shutdown(self) -> None:
        """Close it after its answer, or when its client uses it no more."""
        if self._answering:
            self.cycle.keep_alive = False
        else:
            left = self._used + IDLE - self.loop.time()
            self._ending = self.loop.call_later(max(0.0, left), self._close_unused)

    @property
    def _answering(self) -> bool:
        return self._begun and not self.cycle.response_complete

    def _close_unused(self) -> None:
        if not self._answering:
            self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Close it: no request came for long."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # its client takes nothing, either
        else:
            super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        """Let who answers wait for the client, for a while."""
        super().pause_writing()
        if self._slow is None:
            self._slow = self.loop.call_later(TAKEN, self.transport.abort)

    def resume_writing(self) -> None:
        """Let who answers go on."""
        super().resume_writing()
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None


class _Joining:
    """Writes the head of an answer together with what follows at once: uvicorn writes them one by one.

    That saves a call of the system here, and the client a turn.
    """

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Write, or wait for what comes next in this turn of the loop."""
        if self._head is None:
            self._head = data
            self._loop.call_soon(self._flush)
        elif self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self._transport.write(data)

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        """Close the connection once everything is written."""
        self._flush()
        self._transport.close()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as one of TCP: else asyncio leaves Nagle's algorithm on, and half of an answer waits for 40 ms.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(2048)
        sock.setblocking(False)
    except (OSError, OverflowError, UnicodeError) as exc:
        sock.close()
        if isinstance(exc, socket.gaierror | UnicodeError):
            raise ConfigError(f"the server cannot listen on {host!r}: there is no such host") from None
        why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise ServiceError(
            f"the server cannot listen on {host}:{port}: {why}; choose another port, or 0 for any that is "
            "free"
        ) from None
    return sock


def _size_of(headers: list[tuple[bytes, bytes]], url: bytes) -> int:
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)
