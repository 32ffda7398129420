"""Just enough of AMQP 0-9-1 to find out what a broker can do: no library in between.

Frames are built once and written as they are. The sections named are those of the protocol's specification.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import closing
from typing import Any
from urllib.parse import unquote, urlsplit

METHOD, HEADER, BODY = 1, 2, 3  # frame types, 4.2.3
FRAME_END = b"\xce"
FRAME_START = struct.Struct(">BHI")  # type, channel, size of the payload
ACK = struct.Struct(">HHQB")  # basic.ack, 1.8.3.13: class, method, delivery tag, multiple
CHANNEL = 1
TIMEOUT = 60.0  # seconds that the broker may be silent
MANDATORY = 1
CONTENT_TYPE, DELIVERY_MODE = 1 << 15, 1 << 12  # property flags, 4.2.6.1

START_OK, TUNE_OK, OPEN, CLOSE = (10, 11), (10, 31), (10, 40), (10, 50)
CHANNEL_OPEN, CONFIRM_SELECT = (20, 10), (85, 10)
QUEUE_DECLARE, QUEUE_DELETE = (50, 10), (50, 40)
QOS, CONSUME, PUBLISH, BASIC_ACK = (60, 10), (60, 20), (60, 40), (60, 80)
PASSIVE, DURABLE = 1, 2  # bits of queue.declare


def short_string(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return FRAME_START.pack(kind, channel, len(payload)) + payload + FRAME_END


def method(name: tuple[int, int], arguments: bytes = b"", channel: int = CHANNEL) -> bytes:
    return frame(METHOD, channel, struct.pack(">HH", *name) + arguments)


def publish_frames(queue: str, body: bytes, *, persistent: bool) -> bytes:
    """Return the three frames of a mandatory publish of JSON to the queue, through the default exchange."""
    properties = short_string("application/json") + bytes([2 if persistent else 1])
    header = struct.pack(">HHQH", 60, 0, len(body), CONTENT_TYPE | DELIVERY_MODE) + properties
    return (
        method(PUBLISH, b"\0\0" + short_string("") + short_string(queue) + bytes([MANDATORY]))
        + frame(HEADER, CHANNEL, header)
        + frame(BODY, CHANNEL, body)
    )


class Wire:
    """A connection with one channel, on a blocking socket.

    :param url: such as ``amqp://guest:guest@127.0.0.1:5672/``; the password goes out in plain text.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
        vhost = unquote(parts.path[1:]) or "/"
        self.socket = socket.create_connection((parts.hostname, parts.port or 5672), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""
        self.socket.sendall(b"AMQP\0\0\x09\x01")
        self.answer()
        login = f"\0{user}\0{password}".encode()
        response = struct.pack(">I", len(login)) + login
        self.call(START_OK, bytes(4) + short_string("PLAIN") + response + short_string("en_US"), channel=0)
        self.socket.sendall(method(TUNE_OK, struct.pack(">HIH", 1, 131_072, 0), channel=0))
        self.call(OPEN, short_string(vhost) + b"\0\0", channel=0)
        self.call(CHANNEL_OPEN, b"\0")

    def close(self) -> None:
        """Say goodbye, after which the broker has done all that was asked for."""
        self.call(CLOSE, b"\0\0\0\0\0\0\0", channel=0)
        self.socket.close()

    def call(self, name: tuple[int, int], arguments: bytes = b"", channel: int = CHANNEL) -> bytes:
        """Call a method and return the arguments of its answer."""
        self.socket.sendall(method(name, arguments, channel))
        return self.answer()

    def answer(self) -> bytes:
        """Return the arguments of the next method that the broker sends."""
        while len(self._read) < 7 or len(self._read) < 8 + FRAME_START.unpack_from(self._read)[2]:
            got = self.socket.recv(65_536)
            if not got:
                raise ConnectionError("the broker closed the connection")
            self._read += got
        kind, _, size = FRAME_START.unpack_from(self._read)
        payload, self._read = self._read[7 : 7 + size], self._read[8 + size :]
        if kind != METHOD or payload[:4] in (b"\0\x0a\0\x32", b"\0\x14\0\x28"):
            raise ConnectionError(f"the broker refused: {payload!r}")
        return payload[4:]

    def declare(self, queue: str) -> None:
        """Declare a durable classic queue."""
        self.call(QUEUE_DECLARE, b"\0\0" + short_string(queue) + bytes([DURABLE]) + bytes(4))

    def depth(self, queue: str) -> int:
        """Return how many messages wait in the queue; those that a consumer holds do not count."""
        return self._declared(queue)[0]

    def consumers(self, queue: str) -> int:
        """Return how many consume from the queue."""
        return self._declared(queue)[1]

    def _declared(self, queue: str) -> tuple[int, int]:
        answer = self.call(QUEUE_DECLARE, b"\0\0" + short_string(queue) + bytes([PASSIVE]) + bytes(4))
        depth, consumers = struct.unpack_from(">II", answer, 1 + answer[0])
        return depth, consumers

    def delete(self, queue: str) -> None:
        """Delete the queue, if there is one."""
        self.call(QUEUE_DELETE, b"\0\0" + short_string(queue) + b"\0")

    def confirm(self) -> None:
        """Turn publisher confirms on."""
        self.call(CONFIRM_SELECT, b"\0")

    def consume(self, queue: str, prefetch: int) -> None:
        """Ask for a consumer whose tag is "c"; its first deliveries may follow the answer at once."""
        self.call(QOS, struct.pack(">IHB", 0, prefetch, 0))
        arguments = b"\0\0" + short_string(queue) + short_string("c") + b"\0" + bytes(4)
        self.socket.sendall(method(CONSUME, arguments))


class Publisher(asyncio.Protocol):
    """Writes the same message ``count`` times, never more than ``window`` of them unconfirmed."""

    def __init__(self, message: bytes, count: int, window: int) -> None:
        self.message, self.count, self.window = message, count, window
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sent = self._confirmed = 0
        self._read = b""

    def connection_made(self, transport: Any) -> None:
        """Write the first of them."""
        self.transport = transport
        self._fill()

    def _fill(self) -> None:
        more = min(self.window - (self._sent - self._confirmed), self.count - self._sent)
        if more:
            self._sent += more
            self.transport.write(self.message * more)

    def data_received(self, data: bytes) -> None:
        """Count what is confirmed, and write as many again."""
        data = self._read + data
        at, end = 0, len(data)
        while end - at >= 7:
            _, _, size = FRAME_START.unpack_from(data, at)
            if end - at < 8 + size:
                break
            *name, tag, _ = ACK.unpack_from(data, at + 7)
            if tuple(name) != BASIC_ACK:
                self.done.set_exception(ConnectionError(f"the broker refused: {data[at : at + 8 + size]!r}"))
                self.transport.abort()
                return
            # The broker confirms in order here; whether "multiple" is set makes no difference then.
            self._confirmed = max(self._confirmed, tag)
            at += 8 + size
        self._read = data[at:]
        if self._confirmed >= self.count:
            self.done.set_result(None)
        else:
            self._fill()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail, unless all was done."""
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the broker closed the connection"))


class Consumer(asyncio.Protocol):
    """Counts deliveries until there were ``count``, and acknowledges ``every`` of them at once."""

    def __init__(self, count: int, every: int) -> None:
        self.count, self.every = count, every
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._seen = self._acked = 0
        self._read = b""

    def connection_made(self, transport: Any) -> None:
        """Wait for deliveries, which were asked for before."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Count the bodies; each of these small messages has one frame of them."""
        data = self._read + data
        at, end = 0, len(data)
        while end - at >= 7:
            kind, _, size = FRAME_START.unpack_from(data, at)
            if end - at < 8 + size:
                break
            self._seen += kind == BODY
            at += 8 + size
        self._read = data[at:]
        if self._seen - self._acked >= self.every or self._seen >= self.count:
            self._acked = self._seen
            self.transport.write(method(BASIC_ACK, struct.pack(">QB", self._acked, 1)))
        if self._seen >= self.count and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail, unless all was done."""
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the broker closed the connection"))


async def drive(wire: Wire, protocol: Any) -> None:
    """Let a protocol have the socket of a wire until it is done, and give the socket back."""
    # The transport closes the socket it is given: it gets a duplicate, and the wire can say goodbye.
    twin = wire.socket.dup()
    twin.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: protocol, sock=twin)
    try:
        await asyncio.wait_for(protocol.done, TIMEOUT)
        while transport.get_write_buffer_size():  # noqa: ASYNC110 - a transport tells only of its limits
            await asyncio.sleep(0)
    finally:
        transport.abort()
        await asyncio.sleep(0)
    wire.socket.setblocking(True)  # what is set on one of the two is set on both
    wire.socket.settimeout(TIMEOUT)


def fill(url: str, queue: str, count: int, body: bytes) -> None:
    """Put ``count`` transient messages into the queue, confirmed."""

    async def publish(wire: Wire) -> None:
        await drive(wire, Publisher(publish_frames(queue, body, persistent=False), count, 1_000))

    with closing(Wire(url)) as wire:
        wire.confirm()
        asyncio.run(publish(wire))
