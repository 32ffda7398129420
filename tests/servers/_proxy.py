"""A TCP proxy in a thread of its own that does to connections what networks do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from tests.servers._ports import HOST, free_ports

CHUNK = 65536  # bytes
LIMIT = 10.0  # seconds for one operation of the proxy
Direction = Literal["up", "down"]
BOTH: tuple[Direction, ...] = ("up", "down")
T = TypeVar("T")


class Proxy:
    """Passes bytes on to ``target_host:target_port``; use `host` and `port` in its place, and `close` it.

    Directions are the client's: "up" is from client to server, "down" back. Every method may be called from
    any thread, returns when it is done, and concerns the connections open then, unless it says more.
    """

    def __init__(self, target_host: str, target_port: int, *, host: str = HOST) -> None:
        self.target = (target_host, target_port)
        self.host = host
        (self.port,) = free_ports(1)
        self.accepted = 0  # connections, ever
        self.bytes: dict[Direction, int] = {"up": 0, "down": 0}  # passed on, ever
        self._delay = 0.0
        self._filters: dict[Direction, Callable[[], Callable[[bytes], bytes]]] = {}
        self._links: set[_Link] = set()
        self._silent: set[socket.socket] = set()
        self._acceptor: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._gates: dict[Direction, asyncio.Event] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        try:
            self._do(self._open())
        except BaseException:
            self._end()
            raise

    def __repr__(self) -> str:
        target = "{}:{}".format(*self.target)
        return f"<Proxy {self.host}:{self.port} to {target}, {self.connections} connections>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many are open, those that `half_open` forgot not counted."""
        return len(self._links)

    def cut(self) -> None:
        """Reset every connection on both sides, forgotten ones too. New ones are accepted."""
        self._do(self._cut())

    def refuse(self) -> None:
        """Refuse new connections; open ones go on."""
        self._do(self._stop_accepting())

    def accept(self) -> None:
        """Accept new connections again."""
        self._do(self._accept())

    def freeze(self, *directions: Direction) -> None:
        """Withhold the bytes of these directions, without any of both, of new connections too.

        Bytes that were on their way wait in the proxy, and those that follow at their sender.
        """
        self._do(self._withhold(directions, True))

    def thaw(self, *directions: Direction) -> None:
        """Pass on what was withheld."""
        self._do(self._withhold(directions, False))

    def delay(self, seconds: float) -> None:
        """Hold back each piece for so long, in both directions, from now on; 0 ends that."""
        self._delay = seconds

    def filter(self, direction: Direction, make: Callable[[], Callable[[bytes], bytes]]) -> None:
        """Have the bytes of a direction go through a function; ``make`` makes one for each new connection.

        It returns what is passed on, and resets the connection by raising an ``OSError``.
        """
        self._filters[direction] = make

    def half_open(self) -> None:
        """Close the servers' sides; the clients hear nothing, and what they send is never read."""
        self._do(self._half_open())

    def close(self) -> None:
        """End the proxy with all connections. Idempotent."""
        if not self._loop.is_closed():
            self._do(self._shut())
            self._end()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # What follows runs in the proxy's thread.

    async def _open(self) -> None:
        for direction in BOTH:
            gate = self._gates[direction] = asyncio.Event()
            gate.set()
        await self._accept()

    async def _accept(self) -> None:
        if self._acceptor is not None:
            return
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
            listener.listen()
        except BaseException:
            listener.close()
            raise
        listener.setblocking(False)
        self._acceptor = asyncio.create_task(self._accept_from(listener))

    async def _accept_from(self, listener: socket.socket) -> None:
        with listener:
            while True:
                client, _ = await self._loop.sock_accept(listener)
                self.accepted += 1
                link = _Link(client, self._pump)
                self._links.add(link)
                link.task = asyncio.create_task(link.run(self.target))
                link.task.add_done_callback(lambda _, link=link: self._ended(link))  # type: ignore[misc]

    def _ended(self, link: _Link) -> None:
        # Not at the end of the task: one that is cancelled before its first step has none.
        self._links.discard(link)
        if link.forgotten and not link.reset:
            self._silent.add(link.client)
        link.close()

    async def _stop_accepting(self) -> None:
        acceptor, self._acceptor = self._acceptor, None
        await _end_task(acceptor)

    async def _withhold(self, directions: tuple[Direction, ...], withhold: bool) -> None:
        for direction in directions or BOTH:
            gate = self._gates[direction]
            if withhold:
                gate.clear()
            else:
                gate.set()

    async def _pump(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        gate = self._gates[direction]
        through = self._filters[direction]() if direction in self._filters else bytes
        while True:
            await gate.wait()
            data = await self._loop.sock_recv(source, CHUNK)
            if self._delay:
                await asyncio.sleep(self._delay)
            await gate.wait()
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            data = through(data)
            await self._loop.sock_sendall(sink, data)
            self.bytes[direction] += len(data)

    async def _cut(self) -> None:
        links = list(self._links)
        for link in links:
            link.reset = True
        for link in links:
            await _end_task(link.task)
        for client in self._silent:
            _reset(client)
        self._silent.clear()

    async def _half_open(self) -> None:
        for link in list(self._links):
            link.forgotten = True
            await _end_task(link.task)

    async def _shut(self) -> None:
        await self._stop_accepting()
        await self._cut()


class _Link:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(
        self,
        client: socket.socket,
        pump: Callable[[Direction, socket.socket, socket.socket], Coroutine[Any, Any, None]],
    ) -> None:
        self.client = client
        self.server = socket.socket()
        self.task: asyncio.Task[None] | None = None
        self.reset = False
        self.forgotten = False
        self._pump = pump

    async def run(self, target: tuple[str, int]) -> None:
        try:
            for side in (self.client, self.server):
                side.setblocking(False)
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(self.server, target)
            await self._both_ways()
        except OSError:
            self.reset = True  # one side is gone; the other is told the same way

    def close(self) -> None:
        ending = _reset if self.reset else socket.socket.close
        ending(self.server)
        if self.reset or not self.forgotten:
            ending(self.client)

    async def _both_ways(self) -> None:
        pumps = [
            asyncio.create_task(self._pump("up", self.client, self.server)),
            asyncio.create_task(self._pump("down", self.server, self.client)),
        ]
        try:
            await asyncio.gather(*pumps)
        finally:
            for pump in pumps:
                await _end_task(pump)


async def _end_task(task: asyncio.Future[None] | None) -> None:
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await task


def _reset(side: socket.socket) -> None:
    """Close a socket so that its peer gets a reset, at once and even after bytes that nobody read."""
    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    side.close()
